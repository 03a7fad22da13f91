"""Divide documents among train, validation and test so that copies of a text never part.

Takes an index of the documents, a few numbers per document, and returns a split for each. What must stay
together is one unit: copies of a text (case and white space aside) and, if wanted, near-duplicates and the
documents of a group. Draws depend on the seed and the texts, not on the order of the rows.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline_config.schemas import SPLITS
from tasks.corpus.hashing import mix

TRAIN, VALIDATION, TEST = range(len(SPLITS))
NOT_GIVEN = -1


@dataclass(frozen=True)
class DocumentIndex:
    """What there is to know of N documents before their texts are read again.

    `doc_ids` int64, `texts` int32 code of the distinct text, `hashes` uint64 of that text, `labels` int32,
    `given` int8 split or -1, `groups` int32 or -1, `times` float64.
    """

    doc_ids: np.ndarray
    texts: np.ndarray
    hashes: np.ndarray
    labels: np.ndarray
    given: np.ndarray
    groups: np.ndarray
    times: np.ndarray

    def __len__(self) -> int:
        return len(self.doc_ids)

    def keep(self, mask: np.ndarray) -> "DocumentIndex":
        """Return the documents of a mask or of positions."""
        return replace(self, **{name: getattr(self, name)[mask] for name in self.__dataclass_fields__})


def draw_splits(
    index: DocumentIndex,
    *,
    splitter: str,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    near_duplicates: np.ndarray | None = None,
) -> np.ndarray:
    """Return int8[N], the split of each document: as given, else drawn by the splitter.

    A split that is given to some document is not drawn. The others are drawn from the units without a document
    that is given to validation or test.

    Args:
        index: the documents.
        splitter: `stratified`, `hash`, `time` or `group`.
        validation_fraction: share of the documents for validation (of each class, if stratified).
        test_fraction: share of the documents for the test.
        seed: of the draws; `time` has none.
        near_duplicates: int64[pairs, 2], positions of documents that must stay together.
    """
    split = np.where(index.given == NOT_GIVEN, TRAIN, index.given).astype(np.int8)
    wanted = {
        name: fraction
        for name, fraction in ((TEST, test_fraction), (VALIDATION, validation_fraction))
        if not (split == name).any()
    }
    units = _link(index, near_duplicates)
    held_out = np.zeros(units.max(initial=-1) + 1, bool)
    held_out[units[split != TRAIN]] = True
    free = np.flatnonzero(~held_out[units])
    if len(free) and wanted:
        split[free] = _draw(index.keep(free), units[free], splitter, wanted, seed)
    return split


def find_crossing(texts: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Return int8[N]: the later split that has a copy of a document's text, -1 where there is none.

    Splits come in the order train, validation, test: a copy in train of a text in the test is the one that has
    to go, as the held-out documents are what results are compared on.
    """
    last = np.full(texts.max(initial=-1) + 1, -1, np.int8)
    np.maximum.at(last, texts, split)
    return np.where(last[texts] > split, last[texts], -1).astype(np.int8)


def _link(index: DocumentIndex, near_duplicates: np.ndarray | None) -> np.ndarray:
    """Return int64[N], the unit of each document: connected by a text, a group or near-duplicates."""
    grouped = np.flatnonzero(index.groups >= 0)
    pairs = near_duplicates if near_duplicates is not None else np.empty((0, 2), np.int64)
    if not len(grouped) and not len(pairs):
        return np.unique(index.texts, return_inverse=True)[1]
    from scipy.sparse import coo_array  # here: slow to import
    from scipy.sparse.csgraph import connected_components

    texts = int(index.texts.max()) + 1
    starts = np.concatenate([index.texts[grouped], index.texts[pairs[:, 0]]])
    ends = np.concatenate([texts + index.groups[grouped], index.texts[pairs[:, 1]]])
    size = texts + int(index.groups.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(starts), np.int8), (starts, ends)), shape=(size, size))
    component: np.ndarray = connected_components(graph, directed=False)[1][index.texts]
    return np.unique(component, return_inverse=True)[1]


def _draw(index: DocumentIndex, units: np.ndarray, splitter: str, wanted: dict[int, float], seed: int) -> np.ndarray:
    _, first, units, sizes = np.unique(units, return_index=True, return_inverse=True, return_counts=True)
    hashes = np.full(len(first), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(hashes, units, index.hashes)
    order_by = mix(hashes, seed)
    if splitter == "stratified":
        drawn = _draw_by_class(index.labels[first], order_by, wanted)
    elif splitter == "hash":
        drawn = _cut(order_by / 2.0**64, wanted)
    else:
        if splitter == "time":
            times = np.full(len(first), np.inf)
            np.minimum.at(times, units, index.times)
            order = np.lexsort((order_by, -times))  # the newest first: they are the test
        else:
            order = np.argsort(order_by, kind="stable")
        before = np.cumsum(sizes[order]) - sizes[order]
        drawn = np.empty(len(first), np.int8)
        drawn[order] = _cut(before / sizes.sum(), wanted)
    return drawn[units]


def _draw_by_class(labels: np.ndarray, order_by: np.ndarray, wanted: dict[int, float]) -> np.ndarray:
    """Draw the fractions of each class, rounded, but at least one unit; train keeps one before that."""
    drawn = np.full(len(labels), TRAIN, np.int8)
    order = np.lexsort((order_by, labels))
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        start = 0
        for others, (name, fraction) in zip(range(len(wanted), 0, -1), wanted.items(), strict=True):
            most = max(0, len(members) - start - others)  # leaves a unit to each split that is still to come
            count = min(max(1, round(len(members) * fraction)), most)
            drawn[members[start : start + count]] = name
            start += count
    return drawn


def _cut(position: np.ndarray, wanted: dict[int, float]) -> np.ndarray:
    """Give positions in [0, 1) to the wanted splits by their fractions, the rest to train."""
    ends = np.cumsum(list(wanted.values()))
    names = np.array([*wanted, TRAIN], np.int8)
    return names[np.searchsorted(ends, position, side="right")]
