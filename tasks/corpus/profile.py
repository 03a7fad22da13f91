"""What a corpus is like: classes, lengths, copies, conflicting labels, leaks between splits, oddities.

Takes the index of the documents and blocks of their texts, returns the numbers of the corpus profile.
"""

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.corpus import DocumentsProfile, LengthPercentiles
from pipeline_config.schemas import SPLITS
from tasks.corpus.classes import find_imbalance
from tasks.corpus.splitting import TRAIN, DocumentIndex, find_pairs
from tasks.served.text import largest_bytes, text_bytes

_HISTOGRAM_EDGES = 24


def count_oddities(before: pa.Array, texts: pa.Array) -> Counter[str]:
    """Count the texts that contain something unusual, by kind.

    Args:
        before: texts (large_string) as they were read.
        texts: the same texts after normalization.
    """
    largest = largest_bytes(texts)
    may_be_replaced = texts.filter(pa.array(largest >= 0xEF))  # the first byte of U+FFFD is 0xEF
    return Counter(
        not_nfc=0 if before is texts else _count_true(pc.not_equal(before, texts)),
        non_ascii=int((largest >= 0x80).sum()),
        control_characters=_count_control(texts),
        replacement_characters=_count_true(pc.match_substring(may_be_replaced, "\ufffd")),
        markup=_count_true(pc.match_substring_regex(texts, "<[a-zA-Z/]")),
        addresses=_count_true(pc.match_substring(texts, "://")),
    )


def profile_documents(
    index: DocumentIndex,
    split: np.ndarray,
    labels: np.ndarray,
    *,
    characters: np.ndarray,
    crossing: np.ndarray,
    near: np.ndarray | None,
    kept: np.ndarray,
) -> DocumentsProfile:
    """Describe documents and their splits, before those that cannot stay in their split are rejected.

    Args:
        index: the N documents.
        split: int8[N], their splits.
        labels: names of the classes.
        characters: int32[N], the lengths of their texts.
        crossing: int8[N], the later split that has a copy, or -1.
        near: int64[pairs, 2], near-duplicates; None if there was no search.
        kept: bool[N], whether a document stays.
    """
    counts = np.zeros((len(SPLITS), len(labels)), np.int64)
    np.add.at(counts, (split[kept], index.labels[kept]), 1)
    classes_of_text = np.bincount(find_pairs(index.texts, index.labels)[0])
    order = sorted(range(len(labels)), key=lambda i: labels[i])
    documents = {
        name: {labels[i]: int(counts[code, i]) for i in order if counts[code, i]} for code, name in enumerate(SPLITS)
    }
    return DocumentsProfile(
        documents=documents,
        characters=LengthPercentiles(
            **{f"p{q}": int(np.percentile(characters, q)) for q in (0, 25, 50, 75, 95, 99, 100)}
        ),
        characters_histogram=_count_lengths(characters),
        duplicates=len(index) - len(classes_of_text[classes_of_text > 0]),
        conflicting_labels=int((classes_of_text > 1).sum()),
        leaked=int((crossing >= 0).sum()),
        near_duplicates_leaked=0 if near is None else _count_near_leaks(split, near),
        near_duplicate_pairs=None if near is None else len(near),
        imbalance=find_imbalance(documents[SPLITS[TRAIN]]),
    )


def _count_near_leaks(split: np.ndarray, near: np.ndarray) -> int:
    """Count the held-out documents that have a near-duplicate in the train split."""
    a, b = near[:, 0], near[:, 1]
    leaked = np.concatenate(
        [a[(split[a] != TRAIN) & (split[b] == TRAIN)], b[(split[b] != TRAIN) & (split[a] == TRAIN)]]
    )
    return len(np.unique(leaked))


def _count_lengths(characters: np.ndarray) -> tuple[tuple[int, int], ...]:
    """Return (smallest length, documents) of each bin of a histogram; the edges are in a geometric sequence."""
    largest = max(int(characters.max(initial=1)), 2)
    edges = np.unique(np.geomspace(1, largest + 1, _HISTOGRAM_EDGES).astype(np.int64))
    counts, _ = np.histogram(characters, edges)
    return tuple((int(edge), int(count)) for edge, count in zip(edges, counts, strict=False))


def _count_control(texts: pa.Array) -> int:
    """Count the texts with an ASCII control character other than tab and line ends."""
    data, offsets = text_bytes(texts)
    control = np.flatnonzero((data < 0x20) | (data == 0x7F))
    control = control[~np.isin(data[control], np.frombuffer(b"\t\n\r", np.uint8))]
    return len(np.unique(np.searchsorted(offsets, control, side="right")))


def _count_true(mask: Any) -> int:
    return pc.sum(mask).as_py() or 0
