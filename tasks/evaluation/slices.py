"""How good the classifier is on parts of the documents: by length, unknown tokens, class and kept columns.

Takes and returns arrays and contract models; touches no file. scipy is imported inside the functions, because it is
slow to import.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from pipeline_config.contracts.analysis import Interval, Slice
from pipeline_config.schemas import UNK_IDX
from tasks.evaluation.paired import find_mcnemar_p_value

SMALL = 50  # documents; with fewer, the interval of an accuracy of 80 % is wider than 20 points
LENGTH_PARTS = 5
MOST_VALUES = 8  # of a kept column; the others together are one part
MOST_CLASSES = 30
_UNKNOWN_EDGES = (0.05, 0.1, 0.2)
_Z = 1.959964  # of a two-sided 95 % interval


class Feature(NamedTuple):
    """What documents are cut by.

    Attributes:
        name: the feature.
        values: the names of its parts, in their order.
        parts: int64[N], the part of each document.
    """

    name: str
    values: tuple[str, ...]
    parts: np.ndarray


def cut_documents(
    label_ids: np.ndarray,
    labels: Sequence[str],
    *,
    input_ids: np.ndarray,
    offsets: np.ndarray,
    columns: dict[str, list[str | None]] | None = None,
) -> list[Feature]:
    """Return the features of documents.

    Args:
        label_ids: int[N], the class of each document.
        labels: names of the classes.
        input_ids: flat token ids, as in `EncodedSplit`.
        offsets: int64[N + 1], where each document begins in them.
        columns: the values of each kept column, in the order of the documents.
    """
    lengths = np.diff(offsets)
    unknown = np.add.reduceat((input_ids == UNK_IDX).astype(np.int64), offsets[:-1]) if len(lengths) else lengths
    return [
        cut_lengths(lengths),
        cut_unknown(unknown / lengths),
        cut_values("class", [labels[i] for i in label_ids], most=MOST_CLASSES),
        *(cut_column(name, values) for name, values in (columns or {}).items()),
    ]


def cut_lengths(lengths: np.ndarray, unit: str = "tokens") -> Feature:
    """Cut documents by int64[N] counts into parts of about equal size, such as `24 and more tokens`."""
    quantiles = np.quantile(lengths, np.arange(LENGTH_PARTS) / LENGTH_PARTS, method="higher")
    edges = np.unique(quantiles).astype(int).tolist()
    values = [f"{low} to {end - 1} {unit}" if low < end - 1 else f"only {low} {unit}" for low, end in pairwise(edges)]
    values.append(f"{edges[-1]} and more {unit}")
    return Feature("length", tuple(values), np.searchsorted(edges, lengths, side="right") - 1)


def cut_unknown(shares: np.ndarray) -> Feature:
    """Cut documents by float64[N] shares of unknown tokens."""
    values = ["none", f"up to {100 * _UNKNOWN_EDGES[0]:.0f} %"]
    values += [f"over {100 * low:.0f} to {100 * high:.0f} %" for low, high in pairwise(_UNKNOWN_EDGES)]
    values.append(f"over {100 * _UNKNOWN_EDGES[-1]:.0f} %")
    parts = np.where(shares > 0, np.searchsorted(_UNKNOWN_EDGES, shares, side="left") + 1, 0)
    return Feature("unknown tokens", tuple(values), parts)


def cut_column(name: str, values: Sequence[str | None]) -> Feature:
    """Cut documents by the values of a kept column: numbers of many values into ranges, others by value."""
    title = f"column {name}"
    numbers = _to_numbers(values)
    if numbers is None or len(np.unique(numbers[~np.isnan(numbers)])) <= MOST_VALUES:
        return cut_values(title, ["no value" if value is None else value for value in values])
    known = numbers[~np.isnan(numbers)]
    edges = np.unique(np.quantile(known, np.arange(LENGTH_PARTS) / LENGTH_PARTS, method="higher"))
    names = [f"{low:g} to under {high:g}" for low, high in pairwise(edges)]
    names += [f"{edges[-1]:g} and more", "no value"]
    parts = np.where(np.isnan(numbers), len(edges), np.searchsorted(edges, numbers, side="right") - 1)
    return Feature(title, tuple(names), parts)


def cut_values(name: str, values: Sequence[str], *, most: int = MOST_VALUES) -> Feature:
    """Cut documents by value: the most frequent ones, sorted, and all others together."""
    ranked = sorted(Counter(values).items(), key=lambda item: (-item[1], item[0]))
    shown = sorted(value for value, _ in ranked[:most])
    places = {value: place for place, value in enumerate(shown)}
    parts = np.array([places.get(value, len(shown)) for value in values], np.int64)
    return Feature(name, (*shown, "other values"), parts)


def measure_slices(
    right: np.ndarray, baseline_right: np.ndarray | None, features: Sequence[Feature]
) -> tuple[Slice, ...]:
    """Compare the accuracy on each part with the rest and with the baseline.

    Intervals are those of Wilson (1927), and of Newcombe (1998, method 10) for a difference: they are right for few
    documents, too. The difference from the rest is tested with Fisher's exact test, that from the baseline with the
    exact McNemar test. Both are corrected over all slices (Holm 1979). A part that is empty or that holds all documents
    is left out.

    Args:
        right: bool[N], which documents the classifier gets right.
        baseline_right: the same for the baseline; None without one.
        features: what to cut the documents by.
    """
    found = [
        (feature.name, value, chosen)
        for feature in features
        for part, value in enumerate(feature.values)
        if 0 < (chosen := feature.parts == part).sum() < len(right)
    ]
    p_values = correct_p_values([compare_groups(right[chosen], right[~chosen]) for *_, chosen in found])
    baseline: Sequence[float | None] = [None] * len(found)
    if baseline_right is not None:
        baseline = correct_p_values([_test_models(right[chosen], baseline_right[chosen]) for *_, chosen in found])
    return tuple(
        Slice(
            feature=name,
            value=value,
            documents=int(chosen.sum()),
            small=bool(chosen.sum() < SMALL),
            accuracy=bound_share(right[chosen]),
            baseline_accuracy=None if baseline_right is None else float(baseline_right[chosen].mean()),
            difference=bound_difference(right[chosen], right[~chosen]),
            p_value=p_value,
            baseline_p_value=baseline_p_value,
        )
        for (name, value, chosen), p_value, baseline_p_value in zip(found, p_values, baseline, strict=True)
    )


def bound_share(right: np.ndarray) -> Interval:
    """Return the share of True in bool[N] with its interval (Wilson 1927)."""
    count, share = len(right), float(right.mean())
    center = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2))
    return Interval(value=share, low=min(max(center - half, 0.0), share), high=max(min(center + half, 1.0), share))


def bound_difference(one: np.ndarray, other: np.ndarray) -> Interval:
    """Return the difference of the shares of True in two groups with its interval (Newcombe 1998, method 10)."""
    a, b = bound_share(one), bound_share(other)
    difference = a.value - b.value
    return Interval(
        value=difference,
        low=difference - math.hypot(a.value - a.low, b.high - b.value),
        high=difference + math.hypot(a.high - a.value, b.value - b.low),
    )


def compare_groups(one: np.ndarray, other: np.ndarray) -> float:
    """Return the p-value of Fisher's exact test of equal shares of True in two groups, two-sided."""
    from scipy.stats import fisher_exact

    table = [[int(group.sum()), int((~group).sum())] for group in (one, other)]
    return float(fisher_exact(table).pvalue)


def correct_p_values(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm 1979), in the same order."""
    values = np.array(p_values, float)
    order = np.argsort(values, kind="stable")
    raised = np.maximum.accumulate(values[order] * np.arange(len(values), 0, -1))
    corrected = np.empty_like(values)
    corrected[order] = np.minimum(raised, 1.0)
    return [float(value) for value in corrected]


def _test_models(right: np.ndarray, baseline_right: np.ndarray) -> float:
    return find_mcnemar_p_value(int((right & ~baseline_right).sum()), int((baseline_right & ~right).sum()))


def _to_numbers(values: Sequence[str | None]) -> np.ndarray | None:
    """Return values as float64[N], NaN for none; None if one is no finite number."""
    try:
        numbers = np.array([math.nan if value is None else float(value) for value in values])
    except ValueError:
        return None
    return numbers if all(v is None or math.isfinite(n) for v, n in zip(values, numbers, strict=True)) else None
