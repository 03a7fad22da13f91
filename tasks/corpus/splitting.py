"""Divide documents among train, validation and test so that copies of a text stay in one split.

Takes an index of the documents, a few numbers per document, and returns a split for each. Documents that must stay
together form a unit: copies of a text (case and white space aside) and, if configured, near-duplicates and the
documents of a group. Draws depend on the seed and the texts, not on the order of the rows.
"""

from dataclasses import dataclass, replace

import numpy as np

from pipeline_config.schemas import SPLITS
from tasks.corpus.hashing import mix_hashes

TRAIN, VALIDATION, TEST = range(len(SPLITS))
NOT_GIVEN = -1


@dataclass(frozen=True)
class DocumentIndex:
    """N documents without their texts.

    Attributes:
        doc_ids: int64[N], row numbers.
        texts: int32[N], number of the distinct text.
        hashes: uint64[N], hash of that text.
        labels: int32[N], number of the class.
        given: int8[N], split that the corpus gives, or -1.
        groups: int32[N], number of the group, or -1.
        times: float64[N].
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

    def keep(self, places: np.ndarray) -> "DocumentIndex":
        """Return the documents at some positions (int[M], ascending); nothing is copied if these are all."""
        if len(places) == len(self):
            return self
        return replace(self, **{name: getattr(self, name)[places] for name in self.__dataclass_fields__})


def find_pairs(texts: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int[K] texts and int[K] labels, the distinct pairs of them among int32[N] texts and int32[N] labels.

    Few texts have several labels, so only these are sorted.
    """
    first = np.full(texts.max(initial=-1) + 1, -1, np.int32)
    first[texts[::-1]] = labels[::-1]  # of several values, numpy assigns the last
    others = np.flatnonzero(first[texts] != labels)
    more = np.unique(texts[others].astype(np.int64) << 32 | labels[others])
    known = np.flatnonzero(first >= 0)
    return np.concatenate([known, more >> 32]), np.concatenate([first[known], more & 0xFFFFFFFF])


def draw_splits(
    index: DocumentIndex,
    *,
    splitter: str,
    validation_fraction: float,
    test_fraction: float,
    seed: int,
    near_duplicates: np.ndarray | None = None,
) -> np.ndarray:
    """Return int8[N], the split of each document: the given one, or else one that the splitter draws.

    A held-out split that the corpus gives to any document is not drawn. A missing one is drawn from the units that
    have no document in a given held-out split.

    Args:
        index: the documents.
        splitter: `stratified`, `hash`, `time` or `group`.
        validation_fraction: share of the documents for validation (of each class, if stratified).
        test_fraction: share of the documents for the test, likewise.
        seed: seed of the draws; under `time` it only orders equal times.
        near_duplicates: int64[pairs, 2], positions of documents that must stay together.
    """
    split = np.where(index.given == NOT_GIVEN, TRAIN, index.given).astype(np.int8)
    fractions = {
        name: fraction
        for name, fraction in ((TEST, test_fraction), (VALIDATION, validation_fraction))
        if not (split == name).any()
    }
    units = _link_units(index, near_duplicates)
    held_out = np.zeros(units.max(initial=-1) + 1, bool)
    held_out[units[split != TRAIN]] = True
    free = np.flatnonzero(~held_out[units])
    if len(free) and fractions:
        split[free] = _draw(index.keep(free), units[free], splitter=splitter, fractions=fractions, seed=seed)
    return split


def find_crossing(texts: np.ndarray, split: np.ndarray) -> np.ndarray:
    """Return int8[N]: the later split that has a copy of a document's text, -1 where there is none.

    The order is train, validation, test. The copy in the earlier split is the one to reject, so that the held-out
    documents, on which results are compared, stay the same.
    """
    last = np.full(texts.max(initial=-1) + 1, -1, np.int8)
    np.maximum.at(last, texts, split)
    return np.where(last[texts] > split, last[texts], -1).astype(np.int8)


def _link_units(index: DocumentIndex, near_duplicates: np.ndarray | None) -> np.ndarray:
    """Return int32[N], the unit of each document; a common text or group, or a near-duplicate, connects two."""
    grouped = np.flatnonzero(index.groups >= 0)
    pairs = near_duplicates if near_duplicates is not None else np.empty((0, 2), np.int64)
    if not len(grouped) and not len(pairs):
        return index.texts
    from scipy.sparse import coo_array  # here: slow to import
    from scipy.sparse.csgraph import connected_components

    texts = int(index.texts.max()) + 1
    starts = np.concatenate([index.texts[grouped], index.texts[pairs[:, 0]]])
    ends = np.concatenate([texts + index.groups[grouped], index.texts[pairs[:, 1]]])
    size = texts + int(index.groups.max(initial=-1)) + 1
    graph = coo_array((np.ones(len(starts), np.int8), (starts, ends)), shape=(size, size))
    component: np.ndarray = connected_components(graph, directed=False)[1][index.texts]
    return component


def _draw(
    index: DocumentIndex, units: np.ndarray, *, splitter: str, fractions: dict[int, float], seed: int
) -> np.ndarray:
    """Return int8[N], a split for each document, drawn unit by unit in the order of their mixed hashes."""
    sizes = np.bincount(units)
    units = (np.cumsum(sizes > 0, dtype=np.int32) - 1)[units]  # without gaps
    sizes = sizes[sizes > 0]
    first = np.empty(len(sizes), np.int64)
    first[units[::-1]] = np.arange(len(units))[::-1]  # of several values, numpy assigns the last
    hashes = np.full(len(first), np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(hashes, units, index.hashes)
    order_by = mix_hashes(hashes, seed)
    if splitter == "stratified":
        drawn = _draw_by_class(index.labels[first], order_by, fractions)
    elif splitter == "hash":
        drawn = _assign_positions(order_by / 2.0**64, fractions)
    else:
        if splitter == "time":
            times = np.full(len(first), np.inf)
            np.minimum.at(times, units, index.times)
            order = np.lexsort((order_by, -times))  # newest first, because the test split is assigned first
        else:
            order = np.argsort(order_by, kind="stable")
        before = np.cumsum(sizes[order]) - sizes[order]
        drawn = np.empty(len(first), np.int8)
        drawn[order] = _assign_positions(before / sizes.sum(), fractions)
    of_documents: np.ndarray = drawn[units]
    return of_documents


def _draw_by_class(labels: np.ndarray, order_by: np.ndarray, fractions: dict[int, float]) -> np.ndarray:
    """Draw the fractions of each class, rounded, but at least one unit each; one unit for train has precedence."""
    drawn = np.full(len(labels), TRAIN, np.int8)
    order = np.lexsort((order_by, labels))
    for members in np.split(order, np.flatnonzero(np.diff(labels[order])) + 1):
        start = 0
        for later, (name, fraction) in zip(range(len(fractions), 0, -1), fractions.items(), strict=True):
            most = max(0, len(members) - start - later)  # leaves a unit for each later split and for train
            count = min(max(1, round(len(members) * fraction)), most)
            drawn[members[start : start + count]] = name
            start += count
    return drawn


def _assign_positions(positions: np.ndarray, fractions: dict[int, float]) -> np.ndarray:
    """Return int8, the splits of positions in [0, 1): one interval per fraction, the rest is train."""
    ends = np.cumsum(list(fractions.values()))
    names = np.array([*fractions, TRAIN], np.int8)
    return names[np.searchsorted(ends, positions, side="right")]
