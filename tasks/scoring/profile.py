"""The profile of scored texts: how long, how unknown, how classified, how sure. It holds counts and no texts.

Counts of a chunk are kept in its record, so the profile of a scoring that was interrupted is that of an unbroken one.
"""

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

PROFILE = pa.schema(
    [
        pa.field("measure", pa.string(), nullable=False),
        pa.field("value", pa.string()),
        pa.field("low", pa.float64()),
        pa.field("high", pa.float64()),
        pa.field("count", pa.int64(), nullable=False),
    ]
)
_LENGTHS = (0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
_SHARES = tuple(round(step / 20, 2) for step in range(21))
Counts = dict[str, dict[str, int]]


def profile_texts(
    labels: Sequence[str], scores: np.ndarray, lengths: np.ndarray | None, unknown: np.ndarray | None
) -> Counts:
    """Return the counts of some texts.

    Args:
        labels: the label of each text.
        scores: float64[N], the probability of it.
        lengths: int64[N], tokens of each text; None if the model does not tell.
        unknown: int64[N], how many of these tokens are not in the vocabulary.
    """
    counts: Counts = {"label": dict(Counter(labels)), "confidence": _count(scores, _SHARES)}
    if lengths is not None and unknown is not None:
        some = lengths > 0
        counts["tokens"] = _count(lengths, _LENGTHS)
        counts["unknown_share"] = _count(unknown[some] / lengths[some], _SHARES)
    return counts


def add_counts(total: Counts, more: Mapping[str, Mapping[str, int]]) -> None:
    """Add counts to others."""
    for measure, values in more.items():
        mine = total.setdefault(measure, {})
        for value, count in values.items():
            mine[value] = mine.get(value, 0) + count


def make_profile(counts: Mapping[str, Mapping[str, int]]) -> pa.Table:
    """Return counts as a table of the schema `PROFILE`.

    A row counts the texts with a value, or with a number from `low` on and below `high`; null is no bound. `tokens` is
    the length before texts are cut, `unknown_share` leaves out texts without tokens, `rejected` has the reasons of rows
    without an answer.
    """
    rows = []
    for measure, edges in (("tokens", _LENGTHS), ("unknown_share", _SHARES), ("confidence", _SHARES)):
        found = {int(place): count for place, count in counts.get(measure, {}).items()}
        for place, count in sorted(found.items()):
            high = edges[place + 1] if place + 1 < len(edges) else None
            rows.append({"measure": measure, "low": float(edges[place]), "high": high, "count": count})
    for measure in ("label", "rejected"):
        found_values = sorted(counts.get(measure, {}).items(), key=lambda item: (-item[1], item[0]))
        rows += [{"measure": measure, "value": value, "count": count} for value, count in found_values]
    return pa.Table.from_pylist(rows, schema=PROFILE)


def _count(values: np.ndarray, edges: Sequence[float]) -> dict[str, int]:
    """Return how many values are in each bin, by the position of its lower edge."""
    places, counts = np.unique(np.searchsorted(edges, values, side="right") - 1, return_counts=True)
    return {str(place): int(count) for place, count in zip(places.tolist(), counts.tolist(), strict=True)}
