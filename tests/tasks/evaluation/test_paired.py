"""Paired comparison: values worked out by hand or with scikit-learn and scipy."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import balanced_accuracy_score, f1_score, log_loss, matthews_corrcoef

from tasks.evaluation.paired import (
    Answers,
    compare_paired,
    count_disagreements,
    find_detectable_gain,
    find_mcnemar_p_value,
    find_swap_p_value,
    measure_alone,
    measure_gain,
)

LABELS = np.array([0] * 50 + [1] * 30 + [2] * 20)


def answers_of(truth, ours, other, classes=3) -> Answers:
    """Answers without doubt: probability 0.9 of the given class."""
    rows = np.eye(classes) * (0.9 - 0.1 / (classes - 1)) + 0.1 / (classes - 1)
    return Answers(np.asarray(truth), rows[ours], rows[other])


def made_answers(documents: int, classes: int, seed: int = 0, accuracies=(0.8, 0.75)) -> Answers:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, classes, documents)
    chosen = [
        np.where(rng.random(documents) < accuracy, truth, rng.integers(0, classes, documents))
        for accuracy in accuracies
    ]
    return answers_of(truth, *chosen, classes)


@pytest.mark.parametrize(
    ("metric", "reference"),
    [
        ("accuracy", lambda t, p: (t == p).mean()),
        ("micro_f1", lambda t, p: f1_score(t, p, average="micro")),
        ("macro_f1", lambda t, p: f1_score(t, p, average="macro")),
        ("weighted_f1", lambda t, p: f1_score(t, p, average="weighted")),
        ("balanced_accuracy", balanced_accuracy_score),
        ("mcc", matthews_corrcoef),
        ("f1", lambda t, p: f1_score(t, p, labels=[2], average="macro")),
    ],
)
def test_the_difference_of_a_metric_is_that_of_scikit_learn(metric, reference):
    answers = made_answers(300, 3)
    ours, other = (p.argmax(axis=1) for p in answers[1:])
    gain = measure_gain(answers, metric, class_id=2 if metric == "f1" else None, resamples=200)
    assert gain.ours == pytest.approx(reference(answers.truth, ours))
    assert gain.value == pytest.approx(reference(answers.truth, ours) - reference(answers.truth, other))


def test_a_gain_in_log_loss_is_what_is_saved():
    answers = made_answers(300, 3)
    expected = log_loss(answers.truth, answers.other) - log_loss(answers.truth, answers.ours)
    assert measure_gain(answers, "log_loss", resamples=200).value == pytest.approx(expected)


def test_macro_f1_leaves_out_classes_without_documents():
    answers = answers_of([0, 0, 1, 1], [0, 0, 1, 1], [0, 1, 1, 1])
    gain = measure_gain(answers, "macro_f1", resamples=10)
    assert gain.ours == 1.0
    assert gain.value == pytest.approx(1 - (2 / 3 + 4 / 5) / 2)


@pytest.mark.parametrize("metric", ["accuracy", "log_loss"])
def test_the_error_of_a_mean_of_differences_is_the_known_one(metric):
    """The bootstrap of a mean has the standard error sqrt(variance / n)."""
    answers = made_answers(2500, 3)
    if metric == "accuracy":
        right, other = (p.argmax(axis=1) == answers.truth for p in answers[1:])
        differences = right.astype(float) - other
    else:
        rows = np.arange(2500)
        differences = np.log(answers.ours[rows, answers.truth]) - np.log(answers.other[rows, answers.truth])
    expected = differences.std() / np.sqrt(2500)
    gain = measure_gain(answers, metric)
    assert gain.error == pytest.approx(expected, rel=0.1)
    assert gain.lower(0.05) == pytest.approx(gain.value - norm.ppf(0.95) * expected, abs=0.2 * expected)
    assert gain.upper(0.05) == pytest.approx(gain.value + norm.ppf(0.95) * expected, abs=0.2 * expected)


def test_many_classes_are_drawn_in_blocks_with_the_same_error():
    answers = made_answers(4000, 30)
    documents = np.random.default_rng(1).integers(0, 4000, (300, 4000))
    ours, other = (p.argmax(axis=1) for p in answers[1:])
    values = [
        f1_score(answers.truth[d], ours[d], average="macro") - f1_score(answers.truth[d], other[d], average="macro")
        for d in documents[:300]
    ]
    assert measure_gain(answers, "macro_f1", resamples=2000).error == pytest.approx(np.std(values), rel=0.2)


def test_equal_arguments_give_equal_results():
    answers = made_answers(100, 3)
    first, second = (measure_gain(answers, "macro_f1", resamples=100) for _ in range(2))
    assert np.array_equal(first.resampled, second.resampled)


def test_mcnemar_is_exact():
    assert find_mcnemar_p_value(9, 1) == pytest.approx(22 / 1024)  # 2 * (1 + 10) / 2^10
    assert find_mcnemar_p_value(0, 0) == 1.0
    assert count_disagreements(np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([1, 0, 0])) == (2, 1)


def test_swaps_find_the_probability_of_the_exact_test():
    """Two classes with as many documents: the macro F1 of swapped answers is ordered as their accuracy."""
    truth = np.array([0, 1] * 50)
    other = truth.copy()
    other[:7] = 1 - truth[:7]
    ours = truth.copy()
    ours[10] = 1 - truth[10]
    answers = answers_of(truth, ours, other, 2)
    assert find_swap_p_value(answers, "accuracy") == pytest.approx(9 / 256)  # (1 + 8) / 2^8
    assert find_swap_p_value(answers, "balanced_accuracy") == pytest.approx(9 / 256, abs=0.02)


def test_swaps_of_the_same_answers_are_no_evidence():
    answers = answers_of(LABELS, LABELS, LABELS)
    assert find_swap_p_value(answers, "macro_f1") == 1.0


@pytest.mark.parametrize(
    ("documents", "disagreement", "looks", "points"),
    [
        (3816, 0.12, 1, 1.39),
        (3816, 0.12, 365, 2.51),
        (25_000, 0.06, 52, 0.61),
        (1821, 0.10, 12, 2.58),
        (220, 0.03, 1, 2.90),
    ],
)
def test_the_detectable_gain_is_that_of_the_formula(documents, disagreement, looks, points):
    assert 100 * find_detectable_gain(documents, disagreement, 0.05 / looks) == pytest.approx(points, abs=0.01)


def test_a_gain_is_at_most_the_share_on_which_the_models_differ():
    """(1.645 + 0.842)^2 / 100: without a disagreement so far, a gain has to bring its own."""
    assert find_detectable_gain(100, 0.0, 0.05) == pytest.approx(0.0618, abs=1e-4)
    assert find_detectable_gain(1, 0.0, 0.05) == 1.0


@pytest.mark.parametrize(
    ("metric", "chance"),
    [("accuracy", 0.5), ("macro_f1", 1 / 3), ("balanced_accuracy", 1 / 3), ("mcc", 0.0), ("weighted_f1", 0.38)],
)
def test_chance_takes_no_notice_of_the_text(metric, chance):
    """Weighted F1: 0.25 + 0.09 + 0.04 at random, more than 0.5 * 2/3 of always the first class."""
    gain = measure_alone(LABELS, np.eye(3)[LABELS], metric, resamples=100)
    assert gain.other == pytest.approx(chance)
    assert gain.value == pytest.approx(1 - chance)


def test_chance_of_the_log_loss_is_the_shares_of_the_classes():
    gain = measure_alone(LABELS, np.tile([0.5, 0.3, 0.2], (100, 1)), "log_loss", resamples=100)
    assert gain.value == pytest.approx(0)


def test_chance_of_the_f1_of_a_class_is_always_this_class():
    assert measure_alone(LABELS, np.eye(3)[LABELS], "f1", 2, resamples=100).other == pytest.approx(0.4 / 1.2)


def test_a_comparison_has_every_figure_of_the_report():
    ours, other = LABELS.copy(), LABELS.copy()
    other[:9], ours[60] = 1, 0
    found = compare_paired("baseline", answers_of(LABELS, ours, other), resamples=1000)
    assert (found.only_classifier, found.only_other, found.documents) == (9, 1, 100)
    assert found.p_value == pytest.approx(22 / 1024)
    assert found.accuracy.value == pytest.approx(0.08)
    assert 0 < found.accuracy.low < 0.08 < found.accuracy.high < 0.16
    assert found.macro_f1.low < found.macro_f1.value < found.macro_f1.high
