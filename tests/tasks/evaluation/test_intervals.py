"""Intervals are compared with a plain bootstrap, which draws documents and scores each resample with scikit-learn."""

import numpy as np
import pytest
from sklearn import metrics

from pipeline_config.contracts.evaluation import SCORE_NAMES
from tasks.evaluation import intervals
from tasks.evaluation.calibration import Reliability, soften
from tasks.evaluation.intervals import (
    confusion_intervals,
    ece_interval,
    mean_interval,
    pr_influence,
    roc_influence,
    score_counts,
)
from tasks.evaluation.metrics import SplitAnswers, loss_values, measure_answers


def draw(count: int, classes: int, seed: int = 0) -> SplitAnswers:
    generator = np.random.Generator(np.random.PCG64(seed))
    labels = generator.choice(classes, count, p=np.arange(1, classes + 1) / np.arange(1, classes + 1).sum())
    logits = generator.standard_normal((count, classes))
    logits[np.arange(count), labels] += 1.5
    return SplitAnswers(np.arange(count), labels, soften(logits, 0.7))


def score_plainly(labels: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Scores as their textbook definitions have them, class by class."""
    count, present = len(labels), np.unique(labels)
    predicted = probabilities.argmax(axis=1)
    right = predicted == labels
    recall = np.array([right[labels == i].mean() for i in present])
    f1 = np.array([2 * (right & (labels == i)).sum() / ((labels == i).sum() + (predicted == i).sum()) for i in present])
    weights = np.array([(labels == i).mean() for i in present])
    truth, answer = (np.eye(probabilities.shape[1])[ids] for ids in (labels, predicted))
    spreads = [
        ((x - x.mean(axis=0)) * (y - y.mean(axis=0))).sum()
        for x, y in ((truth, answer), (truth, truth), (answer, answer))
    ]
    areas = [area(labels == i, probabilities[:, i]) for i in present]
    return {
        "accuracy": right.mean(),
        "macro_f1": f1.mean(),
        "micro_f1": right.mean(),
        "weighted_f1": (f1 * weights).sum(),
        "balanced_accuracy": recall.mean(),
        "mcc": spreads[0] / np.sqrt(spreads[1] * spreads[2]),
        "log_loss": -np.log(probabilities[np.arange(count), labels]).mean(),
        "brier": ((probabilities - truth) ** 2).sum() / count,
        "roc_auc": np.mean([roc for roc, _ in areas]),
        "pr_auc": np.mean([pr for _, pr in areas]),
    }


def area(positive: np.ndarray, scores: np.ndarray) -> tuple[float, float]:
    ours, others = scores[positive], np.sort(scores[~positive])
    pairs = np.searchsorted(others, ours, "left") + np.searchsorted(others, ours, "right")
    chosen = len(scores) - np.searchsorted(np.sort(scores), ours, "left")
    found = len(ours) - np.searchsorted(np.sort(ours), ours, "left")
    return pairs.mean() / (2 * len(others)), (found / chosen).mean()


def test_the_plain_scores_are_those_of_scikit_learn():
    _, labels, probabilities = draw(150, 3)
    labels = np.concatenate([labels, labels[:50]])
    probabilities = np.concatenate([probabilities, probabilities[:50]])
    predicted = probabilities.argmax(axis=1)
    assert score_plainly(labels, probabilities) == pytest.approx(
        {
            "accuracy": metrics.accuracy_score(labels, predicted),
            "macro_f1": metrics.f1_score(labels, predicted, average="macro"),
            "micro_f1": metrics.f1_score(labels, predicted, average="micro"),
            "weighted_f1": metrics.f1_score(labels, predicted, average="weighted"),
            "balanced_accuracy": metrics.balanced_accuracy_score(labels, predicted),
            "mcc": metrics.matthews_corrcoef(labels, predicted),
            "log_loss": metrics.log_loss(labels, probabilities),
            "brier": metrics.brier_score_loss(labels, probabilities, scale_by_half=False),
            "roc_auc": np.mean([metrics.roc_auc_score(labels == i, probabilities[:, i]) for i in range(3)]),
            "pr_auc": np.mean([metrics.average_precision_score(labels == i, probabilities[:, i]) for i in range(3)]),
        },
        abs=1e-12,
    )


class TestAgainstPlainResampling:
    @pytest.mark.parametrize(("count", "classes"), [(200, 2), (500, 3)])
    def test_the_ends_agree(self, count, classes):
        answers = draw(count, classes)
        scores = measure_answers(answers, [str(i) for i in range(classes)])
        assert scores.intervals.keys() == set(SCORE_NAMES)
        generator = np.random.Generator(np.random.PCG64(1))
        drawn: dict[str, list[float]] = {}
        for _ in range(400):
            rows = generator.integers(0, count, count)
            for name, value in score_plainly(answers.label_ids[rows], answers.probabilities[rows]).items():
                drawn.setdefault(name, []).append(value)
        assert drawn.keys() == set(SCORE_NAMES) - {"ece"}
        for name, values in drawn.items():
            # 0.35 standard deviations: what an end of 400 resamples, and the approximations, may be off
            expected = np.quantile(values, (0.025, 0.975))
            assert scores.intervals[name] == pytest.approx(expected, abs=0.35 * np.std(values)), name

    def test_a_resample_without_a_class_is_scored_over_the_others(self):
        truths, predictions = np.array([0, 1, 1, 2]), np.array([0, 1, 0, 2])
        found = score_counts(np.array([[3, 2, 1, 0]]), truths, predictions)
        labels, predicted = [0, 0, 0, 1, 1, 1], [0, 0, 0, 1, 1, 0]
        assert found["macro_f1"] == pytest.approx([metrics.f1_score(labels, predicted, average="macro")])
        assert found["balanced_accuracy"] == pytest.approx([5 / 6])

    def test_scores_of_a_matrix_with_a_single_truth_are_numbers(self):
        found = score_counts(np.array([[4, 0], [2, 2]]), np.array([0, 0]), np.array([0, 1]))
        assert found["mcc"].tolist() == [0.0, 0.0]
        assert found["macro_f1"] == pytest.approx([1.0, 2 / 3])


class TestMeans:
    def test_few_values_are_drawn_themselves(self):
        low, high = mean_interval(np.array([0.0] * 20 + [1.0] * 20))
        assert (low, high) == (0.35, 0.65)  # the 2.5 % and 97.5 % points of 40 draws with probability 1/2 are 14 and 26

    def test_a_few_large_values_count(self):
        values = np.concatenate([np.zeros(5000), np.full(5, 30.0)])
        generator = np.random.Generator(np.random.PCG64(2))
        plain = [values[generator.integers(0, len(values), len(values))].mean() for _ in range(2000)]
        assert mean_interval(values) == pytest.approx(np.quantile(plain, (0.025, 0.975)), abs=0.2 * np.std(plain))

    def test_equal_values_have_no_width(self):
        assert mean_interval(np.full(300, 0.25)) == pytest.approx((0.25, 0.25))


class TestInfluence:
    @pytest.mark.parametrize(
        ("influence", "score"),
        [(roc_influence, metrics.roc_auc_score), (pr_influence, metrics.average_precision_score)],
    )
    def test_the_mean_is_the_area_and_a_weight_changes_it_as_said(self, influence, score):
        generator = np.random.Generator(np.random.PCG64(3))
        positive = generator.random(80) < 0.3
        scores = np.round(generator.random(80) + 0.4 * positive, 1)  # with many equal ones
        values = influence(positive, scores)
        assert values.mean() == pytest.approx(score(positive, scores), abs=1e-12)
        for document in range(80):
            weights = np.ones(80)
            weights[document] += 1e-6
            change = (score(positive, scores, sample_weight=weights) - values.mean()) / 1e-6
            assert change == pytest.approx((values[document] - values.mean()) / 80, abs=1e-5)


class TestCalibrationError:
    def interval(self, temperature: float, seed: int, count: int = 1000) -> tuple[float, float]:
        generator = np.random.Generator(np.random.PCG64(seed))
        logits = 2 * generator.standard_normal((count, 2))
        labels = (generator.random(count) < soften(logits, 1.0)[:, 1]).astype(int)
        found = Reliability.of(labels, soften(logits, temperature))
        low, high = ece_interval(*found)
        assert 0 <= low <= found.error <= high <= 1
        return low, high

    @pytest.mark.parametrize(("temperature", "error"), [(1.0, 0.0), (0.6, 0.060), (0.4, 0.103)])
    def test_it_covers_the_error_of_very_many_documents(self, temperature, error, monkeypatch):
        monkeypatch.setattr(intervals, "RESAMPLES", 1000)
        ends = [self.interval(temperature, seed) for seed in range(40)]
        assert sum(low <= error <= high for low, high in ends) >= 34


def test_the_same_input_gives_the_same_interval():
    answers = draw(200, 3)
    confusion = metrics.confusion_matrix(answers.label_ids, answers.predicted)
    assert confusion_intervals(confusion) == confusion_intervals(confusion)
    assert mean_interval(loss_values(answers)) == mean_interval(loss_values(answers))


def test_blocks_of_resamples_are_as_many_as_asked_for(monkeypatch):
    monkeypatch.setattr(intervals, "_BLOCK", 999)
    counts = [block for block, _ in intervals._draw(np.array([3, 4]), 1234)]
    assert sum(map(len, counts)) == 1234
    assert all((block.sum(axis=1) == 7).all() for block in counts)
