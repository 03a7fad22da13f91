"""Tell two samples of texts apart by their words: a classifier of the two, cross-validated, with a permutation test.

The classifier is naive Bayes on the distinct words of a text. It is fitted so quickly that it can be fitted anew for
every permutation, with its cross-validation. Permuting labels of fixed scores would be quicker, and wrong, since the
scores of different folds depend on each other (Noirhomme et al. 2014).

The statistic looks at the texts that the classifier finds most unlike the reference: how many more of them than by
chance are of the window, over the best cut. A tenth of other texts changes the area under the curve by 0.04 only, but
makes nearly all of the first ones.
"""

import itertools
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from scipy import sparse

FOLDS = 5
PERMUTATIONS = 1999
FEWEST_TEXTS = 3  # that have a word, in both samples together
_BLOCK = 50  # permutations at once
_ENOUGH = 10  # permutations that do as well: whatever follows, nothing is called changed
_SMOOTHING = 10.0  # texts added to the counts of a word, shared as the samples are
_FIRST, _FIRST_SHARE = 10, 0.05  # the smallest cut: texts, and share of the window


class WordShift(NamedTuple):
    """A word whose share of texts differs: its hash, and the share in reference and window."""

    word: int
    reference: float
    window: float


class Distinction(NamedTuple):
    """How well a window can be told from a reference.

    Attributes:
        auc: area under the ROC curve, cross-validated; 0.5 is by chance.
        excess: share of the window that is more than chance among the texts most unlike the reference.
        p_value: of no difference, by permutation: (k + 1) / (n + 1).
        scores: float[N] of the texts of the window, cross-validated; larger is less like the reference.
        words: words whose shares differ most, the most telling first.
    """

    auc: float
    excess: float
    p_value: float
    scores: np.ndarray
    words: tuple[WordShift, ...]


def tell_apart(reference: pa.ChunkedArray, window: pa.ChunkedArray, *, seed: int = 0, words: int = 40) -> Distinction:
    """Tell the texts of a window from those of a reference.

    Args:
        reference: list<uint32>, the hashed words of each text.
        window: the same of the window.
        seed: of folds and permutations.
        words: how many to return.
    """
    matrix, hashes = count_words(reference, window)
    rng = np.random.default_rng(seed)
    size, order = len(window), rng.permutation(matrix.shape[0])  # so that ties are broken by chance
    folds = _split(matrix[order])
    observed = (order >= len(reference)).astype(np.float32)[:, None]
    scores = _score(folds, observed)
    statistic, excess, auc = _rank(scores, observed)
    better = tried = 0
    while tried < PERMUTATIONS and better < _ENOUGH:
        permuted = rng.permuted(np.repeat(observed, min(_BLOCK, PERMUTATIONS - tried), axis=1), axis=0)
        better += int((_rank(_score(folds, permuted), permuted)[0] >= statistic[0]).sum())
        tried += permuted.shape[1]
    return Distinction(
        auc=float(auc[0]),
        excess=float(excess[0]),
        p_value=(better + 1) / (tried + 1),
        scores=scores[np.argsort(order)[len(reference) :], 0],
        words=_find_words(matrix, hashes, size)[:words],
    )


def count_words(reference: pa.ChunkedArray, window: pa.ChunkedArray) -> tuple[sparse.csr_matrix, np.ndarray]:
    """Return which texts have which words, float32[N, W] of 0 and 1, the window last; and the hash of each word."""
    lists = pa.chunked_array([*reference.chunks, *window.chunks], reference.type).combine_chunks()
    lengths = np.diff(lists.offsets.to_numpy())
    words, places, counts = np.unique(lists.flatten().to_numpy(), return_inverse=True, return_counts=True)
    kept = counts >= FEWEST_TEXTS
    used = kept[places]
    rows = np.repeat(np.arange(len(lists)), lengths)[used]
    columns = (np.cumsum(kept) - 1)[places[used]]
    matrix = sparse.csr_matrix((np.ones(len(rows), np.float32), (rows, columns)), shape=(len(lists), int(kept.sum())))
    return matrix, words[kept]


class _Fold(NamedTuple):
    rows: slice
    texts: sparse.csr_matrix
    words: sparse.csr_matrix  # the transposed
    counts: np.ndarray  # float32[W, 1], texts with each word
    lengths: np.ndarray  # float32[n, 1], the square root of the number of words, at least 1


def _split(matrix: sparse.csr_matrix) -> list[_Fold]:
    ends = np.linspace(0, matrix.shape[0], FOLDS + 1).astype(int).tolist()
    folds = []
    for start, end in itertools.pairwise(ends):
        texts = matrix[start:end]
        lengths = np.sqrt(np.maximum(np.diff(texts.indptr), 1)).astype(np.float32)[:, None]
        counts = np.asarray(texts.sum(axis=0)).reshape(-1, 1)
        folds.append(_Fold(slice(start, end), texts, texts.T.tocsr(), counts, lengths))
    return folds


def _score(folds: list[_Fold], labels: np.ndarray) -> np.ndarray:
    """Return cross-validated scores float32[N, P] for labels float32[N, P], of which 1 is the window."""
    inside = [fold.words @ labels[fold.rows] for fold in folds]
    all_inside, all_counts = sum(inside), sum(fold.counts for fold in folds)
    scores = np.empty_like(labels)
    for fold, own_inside in zip(folds, inside, strict=True):
        others = len(labels) - len(labels[fold.rows])
        share = (labels.sum(axis=0) - labels[fold.rows].sum(axis=0)) / others
        window, texts = all_inside - own_inside, all_counts - fold.counts
        odds = (window + _SMOOTHING * share) / (texts - window + _SMOOTHING * (1 - share))
        scores[fold.rows] = fold.texts @ np.log(odds * ((1 - share) / share)) / fold.lengths
    return scores


def _rank(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return statistic, excess and AUC, float[P] each.

    The statistic is the largest of the standardised excesses of the window among the first k texts, for k from
    `_FIRST` to the size of the window: a higher criticism (Donoho & Jin 2004).
    """
    total, size = len(labels), int(labels[:, 0].sum())
    order = np.argsort(np.ascontiguousarray(-scores.T), axis=1)
    found_labels = np.take_along_axis(labels.T, order, axis=1)
    found = np.cumsum(found_labels, axis=1)
    auc = ((found / size) * (1 - found_labels)).sum(axis=1) / (total - size)
    first = min(max(_FIRST, int(_FIRST_SHARE * size)), size)
    cuts = np.arange(first, size + 1)
    expected = cuts * (size / total)
    deviation = np.sqrt(expected * (1 - size / total) * (total - cuts) / (total - 1))
    excess = found[:, first - 1 : size] - expected
    return (excess / deviation).max(axis=1), excess.max(axis=1) / size, auc


def _find_words(matrix: sparse.csr_matrix, hashes: np.ndarray, size: int) -> tuple[WordShift, ...]:
    len_before = matrix.shape[0] - size
    before = np.asarray(matrix[:len_before].sum(axis=0)).ravel() / len_before
    after = np.asarray(matrix[len_before:].sum(axis=0)).ravel() / size
    pooled = (before * len_before + after * size) / (len_before + size)
    telling = np.abs(after - before) / np.sqrt(np.maximum(pooled * (1 - pooled), 1e-9))
    order = np.argsort(-telling, kind="stable")
    return tuple(WordShift(int(hashes[i]), float(before[i]), float(after[i])) for i in order)
