"""Accuracy of a window without labels, estimated in three ways from the confidence of the answers.

All three assume that the same texts still have the same right labels. `BLIND` says what follows from that.
"""

import math
from typing import NamedTuple

import numpy as np
import pyarrow as pa

BLIND = (
    "These estimates see new kinds of texts. They cannot see that labels have changed their meaning, or that the model "
    "is sure and wrong: only labels show that (`gloveflow labels`)."
)
_HALF_WIDTH = 1.96  # standard errors on each side of a 95 % interval


class AccuracyEstimate(NamedTuple):
    """Estimates of the accuracy in a window.

    Attributes:
        before: accuracy on the held-out documents of the version.
        average_confidence: the mean of the calibrated confidence.
        confidence_difference: the accuracy before, less what the mean confidence has lost (DoC: Guillory et al. 2021).
        confident_share: the share of answers above the confidence that as many held-out documents reach as are right
            (ATC: Garg et al. 2022).
        low: lower end of the band: the lowest estimate less its sampling error, at 95 %.
        high: upper end.
    """

    before: float
    average_confidence: float
    confidence_difference: float
    confident_share: float
    low: float
    high: float

    @property
    def lower(self) -> bool:
        """Whether the whole band is below the accuracy before."""
        return self.high < self.before


def estimate_accuracy(reference: pa.Table, window: pa.Table) -> AccuracyEstimate | None:
    """Estimate the accuracy in a window; None without texts, or without right labels for the reference."""
    if not len(reference) or not len(window) or reference["correct"].null_count:
        return None
    right = reference["correct"].to_numpy().astype(bool)
    then, now = (sample["confidence"].to_numpy() for sample in (reference, window))
    before = float(right.mean())
    estimates = (
        float(now.mean()),
        float(np.clip(before - (then.mean() - now.mean()), 0, 1)),
        float((now >= _find_threshold(then, wrong=int((~right).sum()))).mean()),
    )
    errors = [math.sqrt(p * (1 - p) * (1 / len(then) + 1 / len(now))) for p in estimates]
    low = min(p - _HALF_WIDTH * error for p, error in zip(estimates, errors, strict=True))
    high = max(p + _HALF_WIDTH * error for p, error in zip(estimates, errors, strict=True))
    return AccuracyEstimate(before, *estimates, max(low, 0.0), min(high, 1.0))


def _find_threshold(confidence: np.ndarray, *, wrong: int) -> float:
    """Return the confidence that as many answers do not reach as are wrong."""
    return float(np.sort(confidence)[wrong]) if wrong < len(confidence) else math.inf
