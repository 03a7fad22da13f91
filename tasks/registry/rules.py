"""One rule of the gate: measure what it asks for, and say whether it lets a version pass.

Takes arrays and touches no file. A bound is the farther one of two: of the bootstrap, and of the normal distribution
with a standard error that is at least that of a loss of just the margin, and half a document more, as counts are
whole. So few documents without a difference are no proof that there is none. A significant gain has to be unlikely
among swapped answers, too.
"""

import math
from typing import NamedTuple, cast

import numpy as np

from pipeline_config.contracts.analysis import Interval
from pipeline_config.contracts.decision import Outcome, RuleResult
from pipeline_config.registration import GateRule
from tasks.evaluation.paired import (
    RESAMPLES,
    Answers,
    Difference,
    LabelMetric,
    PairedMetric,
    count_effective,
    find_quantile,
    find_swap_p_value,
    find_value,
    measure_alone,
    measure_gain,
)

MARGIN = 0.005  # a loss below it counts as equivalent
NAMES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "weighted_f1": "weighted F1",
    "balanced_accuracy": "balanced accuracy",
    "mcc": "MCC",
    "log_loss": "log-loss",
}
_MAX_RESAMPLES = 200_000


class Evidence(NamedTuple):
    """What a rule looks at.

    Attributes:
        answers: of the new version and of what it is compared with; None if there is no such model to compare with.
        rival: what it is compared with, in words.
        labels: the classes, in the order of their ids.
        unknown: why nothing can be told; None if something can.
    """

    answers: Answers
    rival: str
    labels: tuple[str, ...]
    unknown: str | None = None


class Measured(NamedTuple):
    """A gain with its one-sided bounds, and whether a gain or a loss is significant."""

    gain: Difference
    low: float
    high: float
    better: bool
    worse: bool


def judge(rule: GateRule, metric: str, evidence: Evidence, alpha: float) -> RuleResult:
    """Return what a rule found.

    Args:
        rule: the rule.
        metric: its metric.
        evidence: the answers that it looks at.
        alpha: the probability with which it may let a version pass that it should not.
    """
    name, class_id = split_metric(metric, evidence.labels)
    unknown = evidence.unknown
    if unknown is None and name == "f1" and (class_id is None or not (evidence.answers.truth == class_id).any()):
        unknown = f"there are no test documents of the class {metric[3:-1]}"
    words = describe_rule(rule, metric)
    if unknown is not None:
        return RuleResult(
            rule=words,
            metric=metric,
            against=rule.against,
            value=0.0 if name == "f1" and class_id is None else find_value(*evidence.answers[:2], name, class_id),
            other=None,
            difference=None,
            outcome="unknown",
            passed=False,
            reason=f"{words}: cannot be told, because {unknown}",
        )
    measured = measure(rule, name, class_id, evidence.answers, alpha)
    passed = _passes(rule, measured)
    gain, sign = measured.gain, -1 if name == "log_loss" else 1
    ends = sorted((sign * measured.low, sign * measured.high))
    return RuleResult(
        rule=words,
        metric=metric,
        against=rule.against,
        value=gain.ours,
        other=gain.other,
        difference=None if rule.against == "value" else Interval(value=sign * gain.value, low=ends[0], high=ends[1]),
        outcome=_find_outcome(rule, measured),
        passed=passed,
        reason=_describe_result(rule, metric, evidence.rival, measured, alpha, passed=passed),
    )


def measure(rule: GateRule, metric: PairedMetric, class_id: int | None, answers: Answers, alpha: float) -> Measured:
    """Measure a gain, and its bounds at a level.

    Args:
        rule: says what the gain is compared with.
        metric: what is measured.
        class_id: the class of `f1`.
        answers: those of both models; of chance and of a value those of the other are not read.
        alpha: the level of each bound.
    """
    truth, ours, _ = answers
    if rule.against in ("chance", "value"):
        gain = measure_alone(truth, ours, metric, class_id, against=rule.value)
    else:
        gain = measure_gain(answers, metric, class_id)
    support = np.bincount(truth, minlength=ours.shape[1])
    margin = find_margin(rule) if rule.require == "not_worse" else rule.by or 0.0
    least = abs(margin)
    if rule.value is not None and metric != "log_loss":
        least = max(least, rule.value * (1 - rule.value))
    documents = count_effective(metric, support, class_id)
    reach = find_quantile(1 - alpha) * math.sqrt(max(gain.error**2, least / documents)) + 0.5 / documents
    low, high = gain.value - reach, gain.value + reach
    if alpha * RESAMPLES >= 10:  # otherwise too few resamples lie beyond the bound
        low, high = min(low, gain.lower(alpha)), max(high, gain.upper(alpha))
    better, worse = low > 0, high < 0
    if rule.against in ("champion", "baseline") and metric != "log_loss":
        turned = Answers(truth, answers.other, ours)
        better = better and _differ_by_swaps(answers, metric, class_id, alpha)
        worse = worse and _differ_by_swaps(turned, metric, class_id, alpha)
    return Measured(gain, low, high, better, worse)


def _differ_by_swaps(answers: Answers, metric: LabelMetric, class_id: int | None, alpha: float) -> bool:
    resamples = min(_MAX_RESAMPLES, max(RESAMPLES, math.ceil(10 / alpha)))
    return find_swap_p_value(answers, metric, class_id, resamples=resamples) <= alpha


def find_margin(rule: GateRule) -> float:
    """Return the loss that a rule counts as equivalent."""
    return MARGIN if rule.margin is None else rule.margin


def split_metric(metric: str, labels: tuple[str, ...]) -> tuple[PairedMetric, int | None]:
    """Return the metric, and the id of its class; None if there is no such class."""
    if not metric.startswith("f1["):
        return cast("PairedMetric", metric), None
    label = metric[3:-1]
    return "f1", labels.index(label) if label in labels else None


def name_metric(metric: str) -> str:
    """Return a metric in words."""
    return NAMES.get(metric) or f"F1 of {metric[3:-1]}"


def show_difference(metric: str, value: float) -> str:
    """Return a difference in words: points of a share, the number itself for the log-loss and MCC."""
    return f"{value:.4f}" if metric in ("log_loss", "mcc") else f"{100 * value:.2f} points"


def describe_rule(rule: GateRule, metric: str) -> str:
    """Return a rule in words."""
    rival = {"champion": "the champion", "baseline": "the baseline", "chance": "chance", "value": str(rule.value)}
    asked = {
        "better": f"better than {{}}{f' by more than {show_difference(metric, rule.by)}' if rule.by else ''}",
        "not_worse": f"not worse than {{}} by {show_difference(metric, find_margin(rule))} or more",
        "not_clearly_worse": "not clearly worse than {}",
        "any": f"measured gain over {{}} of at least {show_difference(metric, rule.by or 0.0)}",
    }[rule.require]
    where = f" on {rule.slice}" if rule.slice else ""
    return f"{name_metric(metric)}{where} {asked.format(rival[rule.against])}"


def _passes(rule: GateRule, measured: Measured) -> bool:
    by = rule.by or 0.0
    if rule.require == "any":
        return measured.gain.value >= by - 1e-12
    if rule.require == "better":
        return measured.better and measured.low > by
    if rule.require == "not_worse":
        return measured.low > -find_margin(rule)
    return not measured.worse


def _find_outcome(rule: GateRule, measured: Measured) -> Outcome:
    if measured.better:
        return "better"
    if measured.low > -find_margin(rule):
        return "equivalent"
    return "worse" if measured.worse else "unknown"


def _describe_result(rule: GateRule, metric: str, rival: str, measured: Measured, alpha: float, *, passed: bool) -> str:
    gain = measured.gain
    figures = (
        f"{name_metric(metric)}{f' on {rule.slice}' if rule.slice else ''} {gain.ours:.4f}, {rival} {gain.other:.4f}"
    )
    sure = f"{100 * (1 - alpha):.4g} %"
    if rule.require == "any":
        needed = f"the rule asks for a gain of {show_difference(metric, rule.by or 0.0)}"
        return f"{figures}; {needed}" if not passed or rule.by else figures
    if rule.require == "not_clearly_worse":
        return f"{figures}: {'not ' if passed else ''}clearly worse (at {sure} the gain is at most " + (
            f"{show_difference(metric, measured.high)})"
        )
    asked = f"more than {show_difference(metric, rule.by or 0.0 if rule.require == 'better' else -find_margin(rule))}"
    few = "" if passed or measured.better == (measured.low > 0) else "; too few documents differ"
    return f"{figures}: at {sure} the gain is at least {show_difference(metric, measured.low)}, asked is {asked}{few}"
