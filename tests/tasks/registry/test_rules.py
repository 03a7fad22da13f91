"""How often rules are wrong; `python -m tests.campaigns.gate_decisions` is the long form."""

import numpy as np
import pytest

from pipeline_config.registration import GateRule
from tasks.evaluation.paired import Answers
from tasks.registry.rules import Evidence, describe_rule, judge
from tests.campaigns.gate_decisions import MadeSplit, simulate

LABELS = ("a", "b")


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1"])
def test_wrong_decisions_are_as_rare_as_the_rules_say(metric):
    small = MadeSplit("small", 300, 2, 0.8, 0.1)
    for found in simulate(small, metric, trials=20, series=0, seed=1):
        assert found.holds, found


def judge_counts(rule: GateRule, only_ours: int, only_other: int, both: int, alpha: float = 0.05, metric="accuracy"):
    """Judge answers by how many documents only one of both models gets right."""
    ours = np.repeat([0, 1, 0], [only_ours, only_other, both])
    other = np.repeat([1, 0, 0], [only_ours, only_other, both])
    answers = Answers(np.zeros(len(ours), int), np.eye(2)[ours] * 0.8 + 0.1, np.eye(2)[other] * 0.8 + 0.1)
    return judge(rule, metric, Evidence(answers, "version 1", LABELS), alpha)


@pytest.mark.parametrize(
    ("only_ours", "only_other", "outcome"),
    [(60, 20, "better"), (20, 60, "worse"), (2, 2, "equivalent"), (30, 30, "unknown")],
)
def test_the_outcome_is_one_of_four(only_ours, only_other, outcome):
    assert judge_counts(GateRule(), only_ours, only_other, 2000 - only_ours - only_other).outcome == outcome


def test_a_tie_and_a_difference_of_a_tenth_of_a_point_are_not_better():
    """4 of 3,794 documents: the difference that used to promote."""
    for gained in (0, 4):
        assert not judge_counts(GateRule(require="better"), 227 + gained, 227, 3340 - gained).passed


def test_equal_answers_prove_only_what_the_documents_can_show():
    """No difference on n documents: with 95 % confidence the loss is below about 3 / n."""
    assert not judge_counts(GateRule(), 0, 0, 500).passed
    assert judge_counts(GateRule(), 0, 0, 1000).passed
    assert judge_counts(GateRule(margin=0.02), 0, 0, 250).passed


def test_a_gain_of_less_log_loss_is_better():
    result = judge_counts(GateRule(require="better"), 60, 10, 500, metric="log_loss")
    assert result.passed
    assert result.difference.low < result.difference.value < result.difference.high < 0


def test_rules_in_words():
    assert describe_rule(GateRule(), "macro_f1") == "macro F1 not worse than the champion by 0.50 points or more"
    rule = GateRule(against="value", value=0.7, require="any", slice="class=a")
    assert describe_rule(rule, "f1[a]") == "F1 of a on class=a measured gain over 0.7 of at least 0.00 points"
