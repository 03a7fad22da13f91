"""What a corpus is like: classes, lengths, copies, conflicting labels, leaks between splits, oddities.

Takes the index of the documents and blocks of their texts, returns numbers that go into a JSON report.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.schemas import SPLITS
from tasks.corpus.splitting import TRAIN, DocumentIndex
from tasks.served.text import largest_bytes, text_bytes

_HISTOGRAM = 24  # bins of the length histogram, each half as wide again as the one before


def count_oddities(before: pa.Array, texts: pa.Array) -> Counter[str]:
    """Count the texts that have something odd in them, whatever their language.

    Args:
        before: texts (large_string) as they came.
        texts: the same after normalization.
    """
    largest = largest_bytes(texts)
    may_be_replaced = texts.filter(pa.array(largest >= 0xEF))  # U+FFFD begins with this byte
    return Counter(
        not_nfc=0 if before is texts else _total(pc.not_equal(before, texts)),
        non_ascii=int((largest >= 0x80).sum()),
        control_characters=_count_control(texts),
        replacement_characters=_total(pc.match_substring(may_be_replaced, "\ufffd")),
        markup=_total(pc.match_substring_regex(texts, "<[a-zA-Z/]")),
        addresses=_total(pc.match_substring(texts, "://")),
    )


def profile_documents(
    index: DocumentIndex,
    split: np.ndarray,
    labels: np.ndarray,
    characters: np.ndarray,
    *,
    crossing: np.ndarray,
    near: np.ndarray | None,
) -> dict[str, Any]:
    """Describe documents and their splits, before copies that cross splits are taken out.

    Args:
        index: the documents.
        split: int8[N], their splits.
        labels: names of the classes.
        characters: int64[N], the lengths of their texts.
        crossing: int8[N], the later split that has a copy, or -1.
        near: pairs of near-duplicates, or None if none were looked for.
    """
    kept = crossing < 0
    counts = np.zeros((len(SPLITS), len(labels)), np.int64)
    np.add.at(counts, (split[kept], index.labels[kept]), 1)
    pairs = np.unique(index.texts.astype(np.int64) << 32 | index.labels)
    classes_of_text = np.bincount(pairs >> 32)
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    return {
        "documents": {
            name: {labels[i]: int(counts[code, i]) for i in order if counts[code, i]}
            for code, name in enumerate(SPLITS)
        },
        "characters": {f"p{q}": int(np.percentile(characters, q)) for q in (0, 25, 50, 75, 95, 99, 100)},
        "characters_histogram": _histogram(characters),
        "duplicates": len(index) - len(classes_of_text[classes_of_text > 0]),
        "conflicting_labels": int((classes_of_text > 1).sum()),
        "leaked": int((crossing >= 0).sum()),
        "near_duplicates_leaked": 0 if near is None else _near_leaks(split, near),
        "near_duplicate_pairs": None if near is None else len(near),
    }  # fmt: skip


def _near_leaks(split: np.ndarray, near: np.ndarray) -> int:
    """Count the held-out documents that have a near-duplicate in the train split."""
    a, b = near[:, 0], near[:, 1]
    leaked = np.concatenate(
        [a[(split[a] != TRAIN) & (split[b] == TRAIN)], b[(split[b] != TRAIN) & (split[a] == TRAIN)]]
    )
    return len(np.unique(leaked))


def _histogram(characters: np.ndarray) -> list[list[int]]:
    """Return [smallest length, documents] of bins that widen geometrically."""
    edges = np.unique(np.geomspace(1, max(int(characters.max(initial=1)), 2) + 1, _HISTOGRAM).astype(np.int64))
    counts, _ = np.histogram(characters, edges)
    return [[int(edge), int(count)] for edge, count in zip(edges, counts, strict=False)]


def _count_control(texts: pa.Array) -> int:
    """Count the texts with an ASCII control character other than tab and line ends."""
    data, offsets = text_bytes(texts)
    low = np.flatnonzero((data < 0x20) | (data == 0x7F))
    low = low[~np.isin(data[low], np.frombuffer(b"\t\n\r", np.uint8))]
    return len(np.unique(np.searchsorted(offsets, low, side="right")))


def _total(mask: Any) -> int:
    return pc.sum(mask).as_py() or 0
