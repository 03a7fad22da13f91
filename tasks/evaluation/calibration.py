"""How far confidence agrees with accuracy, and what to do with answers of low confidence. Touches no file.

Confidence is the probability of the predicted class. One temperature divides the logits, so that no prediction changes
(Guo et al., 2017, On Calibration of Modern Neural Networks).
"""

from typing import NamedTuple, Self

import numpy as np

from pipeline_config.contracts.analysis import Calibration, ClassThreshold, Interval, KeptShare, ReliabilityBin
from tasks.evaluation.intervals import ece_interval

_MOST_BINS, _LEAST_IN_BIN = 15, 20
_FOLDS = 5
_LARGEST_TEMPERATURE = 20.0
SURE = 1.645  # standard errors by which the gain has to be above zero: one-sided, 5 %
_LEAST_KEPT = 10
_THRESHOLDS = (*(step / 20 for step in range(20)), 0.99)


class Reliability(NamedTuple):
    """Answers in bins of equal numbers of documents by confidence; equal confidences share a bin.

    There are at most 15 bins, and each has about 20 documents or more, since bins of fewer would show noise.
    """

    bins: np.ndarray
    confidence: np.ndarray
    correct: np.ndarray

    @classmethod
    def of(cls, label_ids: np.ndarray, probabilities: np.ndarray) -> Self:
        """Return the answers of float64[N, C] probabilities against int[N] class ids in bins."""
        confidence = probabilities.max(axis=1)
        ordered, number = np.sort(confidence), min(_MOST_BINS, max(1, len(confidence) // _LEAST_IN_BIN))
        edges = ordered[[len(ordered) * step // number for step in range(1, number)]]
        _, bins = np.unique(np.searchsorted(edges, confidence, side="right"), return_inverse=True)
        return cls(bins, confidence, probabilities.argmax(axis=1) == label_ids)

    def tabulate(self) -> tuple[ReliabilityBin, ...]:
        """Return the bins by rising confidence, with the means of confidence and accuracy."""
        sizes = np.bincount(self.bins)
        confidence, correct = np.bincount(self.bins, self.confidence), np.bincount(self.bins, self.correct)
        return tuple(
            ReliabilityBin(documents=int(size), confidence=float(c / size), accuracy=float(a / size))
            for size, c, a in zip(sizes, confidence, correct, strict=True)
        )

    @property
    def error(self) -> float:
        """Expected calibration error: the mean over documents of their bin's gap between accuracy and confidence."""
        return float(np.abs(np.bincount(self.bins, self.correct - self.confidence)).sum() / len(self.bins))


def soften(logits: np.ndarray, temperature: float) -> np.ndarray:
    """Return the float64[N, C] probabilities of logits that are divided by a temperature."""
    scaled = logits / temperature
    powers = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return probabilities


def log_losses(logits: np.ndarray, label_ids: np.ndarray, temperature: float) -> np.ndarray:
    """Return the log-loss of each document, float64[N], with a temperature."""
    scaled = logits / temperature
    largest = scaled.max(axis=1)
    totals = largest + np.log(np.exp(scaled - largest[:, None]).sum(axis=1))
    losses: np.ndarray = totals - scaled[np.arange(len(scaled)), label_ids]
    return losses


def choose_temperature(logits: np.ndarray, label_ids: np.ndarray, *, sure: float = SURE) -> float:
    """Return the temperature to use, fitted on all documents, or 1.0 if they do not show that it helps.

    It has to lower the log-loss of documents that it was not fitted on: of each fifth by the temperature of the others,
    by more than chance would (one-sided, 5 %).

    Args:
        logits: float64[N, C].
        label_ids: int64[N].
        sure: standard errors by which the gain has to be above zero.
    """
    folds = np.random.Generator(np.random.PCG64(0)).permutation(len(logits)) % _FOLDS
    if len(logits) < _FOLDS * 2:
        return 1.0
    gains = log_losses(logits, label_ids, 1.0)
    for fold in range(_FOLDS):
        held = folds == fold
        gains[held] -= log_losses(logits[held], label_ids[held], fit_temperature(logits[~held], label_ids[~held]))
    supported = gains.mean() > sure * gains.std(ddof=1) / np.sqrt(len(gains))
    return fit_temperature(logits, label_ids) if supported else 1.0


def fit_temperature(logits: np.ndarray, label_ids: np.ndarray) -> float:
    """Return the temperature with the smallest log-loss, between 0.05 and 20.

    Each of C classes but the true one gets 1 / (N + C) of the target, as in Platt (1999): without a mistake among N
    documents, the best guess for their error is not zero, and the temperature would fall without end.
    """
    from scipy.optimize import minimize_scalar  # not at the top: slow to import

    share = 1 / (len(logits) + logits.shape[1])
    elsewhere = logits.sum(axis=1) - logits.shape[1] * logits[np.arange(len(logits)), label_ids]

    def smoothed_loss(power: float) -> float:
        temperature = np.exp(power)
        return float((log_losses(logits, label_ids, temperature) - share * elsewhere / temperature).mean())

    end = np.log(_LARGEST_TEMPERATURE)
    found = minimize_scalar(smoothed_loss, bounds=(-end, end), method="bounded")
    return float(np.exp(found.x))


def describe_calibration(logits: np.ndarray, label_ids: np.ndarray, temperature: float) -> Calibration:
    """Return how far confidence agrees with accuracy, with the temperature and without."""
    after = Reliability.of(label_ids, soften(logits, temperature))
    before = Reliability.of(label_ids, soften(logits, 1.0))
    low, high = ece_interval(after.bins, after.confidence, after.correct)
    return Calibration(
        temperature=temperature,
        ece=Interval(value=after.error, low=low, high=high),
        ece_before=before.error,
        log_loss=float(log_losses(logits, label_ids, temperature).mean()),
        log_loss_before=float(log_losses(logits, label_ids, 1.0).mean()),
        bins=after.tabulate(),
    )


def find_kept_shares(label_ids: np.ndarray, probabilities: np.ndarray) -> tuple[KeptShare, ...]:
    """Return what remains at rising thresholds of confidence, as long as anything does."""
    confidence, correct = probabilities.max(axis=1), probabilities.argmax(axis=1) == label_ids
    kept = [(threshold, confidence >= threshold) for threshold in _THRESHOLDS]
    return tuple(
        KeptShare(threshold=threshold, kept=float(chosen.mean()), accuracy=float(correct[chosen].mean()))
        for threshold, chosen in kept
        if chosen.any()
    )


def find_class_threshold(
    label: str, fitted: "ClassAnswers", tested: "ClassAnswers", *, wanted: float
) -> ClassThreshold:
    """Return the smallest confidence with which a class reaches a precision, and what it gives on other documents.

    Args:
        label: name of the class.
        fitted: answers of the validation split.
        tested: answers of the test split.
        wanted: the precision.
    """
    threshold = fitted.find_threshold(wanted)
    kept = tested.confidence >= threshold if threshold is not None else np.zeros(len(tested.confidence), dtype=bool)
    right = float(tested.correct[kept].sum())
    return ClassThreshold(
        label=label,
        wanted_precision=wanted,
        threshold=threshold,
        precision=right / int(kept.sum()) if kept.any() else None,
        recall=right / tested.support if threshold is not None and tested.support else None,
    )


class ClassAnswers(NamedTuple):
    """The answers that name a class: their confidence and whether they are right; `support`: its documents."""

    confidence: np.ndarray
    correct: np.ndarray
    support: int

    @classmethod
    def of(cls, number: int, label_ids: np.ndarray, probabilities: np.ndarray) -> Self:
        """Return those of a class id among float64[N, C] probabilities with int[N] true class ids."""
        named = probabilities.argmax(axis=1) == number
        return cls(probabilities[named, number], label_ids[named] == number, int((label_ids == number).sum()))

    def find_threshold(self, wanted: float) -> float | None:
        """Return the smallest confidence that gives a precision with ten answers or more; 0.0 if all answers do."""
        order = np.argsort(-self.confidence, kind="stable")
        confidence, kept = self.confidence[order], np.arange(1, len(order) + 1)
        precision = np.cumsum(self.correct[order]) / kept
        last_of_equals = np.append(confidence[1:] != confidence[:-1], True) if len(order) else np.zeros(0, dtype=bool)
        reached = np.flatnonzero((precision >= wanted) & (kept >= _LEAST_KEPT) & last_of_equals)
        if not len(reached):
            return None
        return 0.0 if reached[-1] == len(order) - 1 else float(confidence[reached[-1]])
