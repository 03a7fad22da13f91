"""Scores of predictions against the truth. Takes arrays and tables; touches no file.

scikit-learn is imported inside the functions: it is slow to import, and a run whose stages are all cached needs none.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.evaluation import ClassScores, ScoreName, Scores
from tasks.evaluation.calibration import Reliability
from tasks.evaluation.intervals import (
    Ends,
    confusion_intervals,
    ece_interval,
    mean_interval,
    pr_influence,
    roc_influence,
    score_confusion,
)


class SplitAnswers(NamedTuple):
    """The answers of a model: int64[N] `doc_ids`, int64[N] `label_ids` (truth), float64[N, C] `probabilities`."""

    doc_ids: np.ndarray
    label_ids: np.ndarray
    probabilities: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Class with the highest probability, int64[N]."""
        predicted: np.ndarray = self.probabilities.argmax(axis=1)
        return predicted


def read_answers(predictions: pa.Table, labels: list[str], split: str) -> SplitAnswers:
    """Return the answers of a table of predictions (`predictions_schema`) on a split."""
    table = predictions.filter(pc.equal(predictions["split"], split))
    ids = {label: number for number, label in enumerate(labels)}
    return SplitAnswers(
        doc_ids=table["doc_id"].to_numpy(),
        label_ids=np.array([ids[label] for label in table["label"].to_pylist()], dtype=np.int64),
        probabilities=np.column_stack([table[f"p_{label}"].to_numpy() for label in labels]),
    )


def score_predictions(label_ids: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return accuracy, macro F1 and log-loss of float64[N, C] probabilities against int[N] class ids.

    Macro F1 is the mean over the classes that have documents here.
    """
    from sklearn.metrics import f1_score, log_loss

    classes, present = range(probabilities.shape[1]), np.unique(label_ids)
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float((predicted == label_ids).mean()),
        "macro_f1": float(f1_score(label_ids, predicted, labels=present, average="macro", zero_division=0.0)),
        "log_loss": float(log_loss(label_ids, probabilities, labels=classes)),
    }


def measure(predictions: pa.Table, labels: list[str], split: str) -> Scores:
    """Return the scores of a table of predictions on a split, with their intervals, and those of each class."""
    answers = read_answers(predictions, labels, split)
    return measure_answers(answers, labels)


def measure_answers(answers: SplitAnswers, labels: list[str]) -> Scores:
    """Return the scores of answers with their intervals, and those of each class."""
    from sklearn.metrics import confusion_matrix

    truth, predicted = answers.label_ids, answers.predicted
    classes = measure_classes(answers, labels)
    present = [scores for scores in classes.values() if scores.support]
    confusion = confusion_matrix(truth, predicted, labels=range(len(labels)))
    reliability = Reliability.of(truth, answers.probabilities)
    headlines = score_predictions(truth, answers.probabilities)
    return Scores(
        **headlines,
        **{name: value for name, value in score_confusion(confusion).items() if name not in headlines},
        brier=float(brier_values(answers).mean()),
        ece=reliability.error,
        roc_auc=_mean([scores.roc_auc for scores in present]),
        pr_auc=_mean([scores.pr_auc for scores in present]),
        intervals=confusion_intervals(confusion) | measure_intervals(answers, reliability),
        documents=len(truth),
        absent_classes=tuple(label for label, scores in classes.items() if not scores.support),
        classes=classes,
        confusion=tuple(map(tuple, confusion.tolist())),
    )


def measure_classes(answers: SplitAnswers, labels: list[str]) -> dict[str, ClassScores]:
    """Return the scores of each class against the rest, by name."""
    from sklearn.metrics import average_precision_score, precision_recall_fscore_support, roc_auc_score

    truth, predicted = answers.label_ids, answers.predicted
    chosen = np.bincount(predicted, minlength=len(labels))
    rows = zip(
        *precision_recall_fscore_support(truth, predicted, labels=range(len(labels)), zero_division=0.0), strict=True
    )
    classes = {}
    for number, (label, (precision, recall, f1, support)) in enumerate(zip(labels, rows, strict=True)):
        if not support:
            classes[label] = ClassScores.absent(predicted=int(chosen[number]))
            continue
        ours, scores, alone = truth == number, answers.probabilities[:, number], support == len(truth)
        classes[label] = ClassScores(
            precision=float(precision),
            recall=float(recall),
            f1=float(f1),
            roc_auc=None if alone else float(roc_auc_score(ours, scores)),
            pr_auc=None if alone else float(average_precision_score(ours, scores)),
            support=float(support),
            predicted=int(chosen[number]),
        )
    return classes


def measure_intervals(answers: SplitAnswers, reliability: Reliability) -> dict[ScoreName, Ends]:
    """Return the intervals of the scores that depend on probabilities."""
    intervals: dict[ScoreName, Ends] = {
        "log_loss": mean_interval(loss_values(answers)),
        "brier": mean_interval(brier_values(answers)),
        "ece": ece_interval(reliability.bins, reliability.confidence, reliability.correct),
    }
    if len(np.unique(answers.label_ids)) > 1:
        intervals["roc_auc"] = _bound_area(answers, roc_influence)
        intervals["pr_auc"] = _bound_area(answers, pr_influence)
    return intervals


def loss_values(answers: SplitAnswers) -> np.ndarray:
    """Return the log-loss of each document; as in scikit-learn a probability of 0 counts as the least step from 1."""
    given = answers.probabilities[np.arange(len(answers.label_ids)), answers.label_ids]
    losses: np.ndarray = -np.log(np.maximum(given, np.finfo(np.float64).eps))
    return losses


def brier_values(answers: SplitAnswers) -> np.ndarray:
    """Return the Brier score of each document: the sum over classes of the squared differences."""
    wanted = np.eye(answers.probabilities.shape[1])[answers.label_ids]
    values: np.ndarray = ((answers.probabilities - wanted) ** 2).sum(axis=1)
    return values


def _bound_area(answers: SplitAnswers, influence: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Ends:
    """Return the interval of the mean area over the classes with documents."""
    present, total = np.unique(answers.label_ids), np.zeros(len(answers.label_ids))
    for number in present:
        total += influence(answers.label_ids == number, answers.probabilities[:, number])
    low, high = mean_interval(total / len(present))
    return max(low, 0.0), min(high, 1.0)


def _mean(values: list[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return sum(numbers) / len(numbers) if numbers else None
