"""Tests whether a window of texts differs from a reference: labels, confidence, unknown words, lengths, words.

Pure functions on two samples (`tasks.monitoring.sample`). The p-values are corrected together (Holm), so a window of
the same kind is called changed in at most a share `LEVEL` of the cases. Every effect is a share of the texts, and one
below `SMALLEST` is no change, however small its p-value: in a large sample, trifles are significant.
"""

from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tasks.evaluation.slices import correct_p_values
from tasks.monitoring.domain_classifier import Distinction, tell_apart

LEVEL = 0.005
SMALLEST = 0.03  # share of the texts
FEWEST = 50  # texts of a window and of a reference
_EXPECTED = 5  # texts of a class in each sample, for the chi-square test


class Shift(NamedTuple):
    """The result of a test.

    Attributes:
        measure: what was compared.
        effect: share of the texts that would have to differ for what is seen, at least.
        p_value: of no difference, corrected for the number of tests.
        changed: whether both the p-value and the effect say so.
    """

    measure: str
    effect: float
    p_value: float
    changed: bool


class Comparison(NamedTuple):
    """A window against a reference: the tests, the texts of each, and how they are told apart by words."""

    shifts: tuple[Shift, ...]
    reference: int
    window: int
    words: Distinction

    @property
    def changed(self) -> bool:
        """Whether a test says that the window differs."""
        return any(shift.changed for shift in self.shifts)


def compare_samples(reference: pa.Table, window: pa.Table, *, seed: int = 0) -> Comparison | None:
    """Compare two samples; None if one has fewer than `FEWEST` texts, which is too little to say anything.

    Tests that need the tokens are left out if a model does not tell them.
    """
    if min(len(reference), len(window)) < FEWEST:
        return None
    words = tell_apart(reference["words"], window["words"], seed=seed)
    found = {
        "words": (words.excess, words.p_value),
        "labels": compare_labels(reference["label"].to_pylist(), window["label"].to_pylist()),
        "confidence": compare_numbers(reference["confidence"].to_numpy(), window["confidence"].to_numpy()),
    }
    if not (reference["tokens"].null_count or window["tokens"].null_count):
        found["lengths"] = compare_numbers(reference["tokens"].to_numpy(), window["tokens"].to_numpy())
        found["unknown words"] = compare_numbers(unknown_shares(reference), unknown_shares(window))
    corrected = correct_p_values([p_value for _, p_value in found.values()])
    shifts = tuple(
        Shift(measure, effect, p_value, p_value <= LEVEL and effect >= SMALLEST)
        for (measure, (effect, _)), p_value in zip(found.items(), corrected, strict=True)
    )
    return Comparison(shifts, len(reference), len(window), words)


def compare_labels(reference: list[str], window: list[str]) -> tuple[float, float]:
    """Return the share of labels that differ (total variation) and the p-value of a chi-square test.

    Classes with fewer than five expected texts in a sample are counted as one, for which the test would not hold.
    """
    from scipy.stats import chi2_contingency

    names, places = np.unique([*reference, *window], return_inverse=True)
    counts = np.stack(
        [
            np.bincount(places[: len(reference)], minlength=len(names)),
            np.bincount(places[len(reference) :], minlength=len(names)),
        ]
    )
    sizes = counts.sum(axis=1)
    effect = float(np.abs(counts[0] / sizes[0] - counts[1] / sizes[1]).sum() / 2)
    small = counts.sum(axis=0) * (sizes.min() / sizes.sum()) < _EXPECTED
    table = np.column_stack([counts[:, ~small], counts[:, small].sum(axis=1)])
    table = table[:, table.sum(axis=0) > 0]
    return effect, 1.0 if table.shape[1] < 2 else float(chi2_contingency(table, correction=False).pvalue)


def compare_numbers(reference: np.ndarray, window: np.ndarray) -> tuple[float, float]:
    """Return statistic and p-value of the test of Kolmogorov and Smirnov.

    The statistic is the largest difference of the shares below a number. Ties make the p-value too large, if anything.
    """
    from scipy.stats import ks_2samp

    result = ks_2samp(reference, window)
    return float(result.statistic), float(result.pvalue)


def unknown_shares(sample: pa.Table) -> np.ndarray:
    """Return the share of unknown tokens of each text, float64[N]; 0 for a text without tokens."""
    tokens, unknown = (sample[name].to_numpy() for name in ("tokens", "unknown"))
    return np.asarray(unknown / np.maximum(tokens, 1))
