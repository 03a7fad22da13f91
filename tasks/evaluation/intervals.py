"""95 % bootstrap intervals: the percentiles of a score over documents that are drawn again, with replacement.

What decides a score is counted in cells, and how many of the drawn documents fall into each cell is a multinomial draw.
So no resample touches the documents themselves.

- Scores of the confusion matrix: the cells are those of the matrix. Exact.
- Means over documents (log-loss, Brier score): the cells are ranges of the values; the smallest and the largest values
  have cells of their own. Within a cell the sum of the drawn values is taken as normal with its exact mean and
  variance. Exact with about 80 documents or fewer.
- Areas under curves: means of what each document adds to the area, a first-order approximation (for ROC that of DeLong
  et al., 1988). A little too narrow with fewer than about 100 documents.
- Expected calibration error: the cells are the bins, which stay as they are, right and wrong answers apart. Noise
  raises this score, and drawing again raises it once more. So the percentiles are reflected at the value (the basic
  bootstrap), and the interval begins at 0 if 1 of 20 splits would show such a value without any calibration error.

The same input gives the same interval.
"""

from collections.abc import Iterator

import numpy as np

from pipeline_config.contracts.evaluation import ScoreName

Ends = tuple[float, float]
RESAMPLES = 10_000
_SEED = 20_170_706
_CELLS, _ALONE = 48, 16
_BLOCK = 2_000_000  # drawn counts in memory at once
_LEVELS = (0.025, 0.975)


def score_counts(counts: np.ndarray, truths: np.ndarray, predictions: np.ndarray) -> dict[ScoreName, np.ndarray]:
    """Return the scores of confusion matrices.

    Args:
        counts: int[R, M], documents in M cells of R matrices.
        truths: int[M], class of each cell's documents.
        predictions: int[M], class that was predicted for them.

    Returns:
        float64[R] for each score. Means over classes are over those with documents in the matrix.
    """
    classes = np.arange(max(truths.max(), predictions.max()) + 1)
    of_truth, of_prediction = truths[:, None] == classes, predictions[:, None] == classes
    numbers = counts.astype(np.float64)
    right = numbers @ (of_truth & of_prediction)
    support, predicted, total = numbers @ of_truth, numbers @ of_prediction, numbers.sum(axis=1)
    present = support > 0
    f1 = 2 * right / np.maximum(support + predicted, 1)
    recall = right / np.maximum(support, 1)
    accuracy = right.sum(axis=1) / total
    spread = (total**2 - (predicted**2).sum(axis=1)) * (total**2 - (support**2).sum(axis=1))
    covariance = right.sum(axis=1) * total - (support * predicted).sum(axis=1)
    return {
        "accuracy": accuracy,
        "macro_f1": (f1 * present).sum(axis=1) / present.sum(axis=1),
        "balanced_accuracy": (recall * present).sum(axis=1) / present.sum(axis=1),
        "micro_f1": accuracy,
        "weighted_f1": (f1 * support).sum(axis=1) / total,
        "mcc": np.divide(covariance, np.sqrt(spread), out=np.zeros_like(spread), where=spread > 0),
    }


def score_confusion(confusion: np.ndarray) -> dict[ScoreName, float]:
    """Return the scores of an int[C, C] confusion matrix, truth in its rows."""
    truths, predictions = np.nonzero(confusion)
    scores = score_counts(confusion[truths, predictions][None], truths, predictions)
    return {name: float(value) for name, (value,) in scores.items()}


def confusion_intervals(confusion: np.ndarray) -> dict[ScoreName, Ends]:
    """Return the intervals of the scores of an int[C, C] confusion matrix, truth in its rows."""
    truths, predictions = np.nonzero(confusion)
    parts = [
        score_counts(counts, truths, predictions) for counts, _ in _draw(confusion[truths, predictions], RESAMPLES)
    ]
    return {name: _ends(np.concatenate([part[name] for part in parts])) for name in parts[0]}


def mean_interval(values: np.ndarray) -> Ends:
    """Return the interval of the mean of float64[N] values of documents."""
    parts = _split(np.sort(values))
    means, variances = np.array([part.mean() for part in parts]), np.array([part.var() for part in parts])
    sums = [
        counts @ means + np.sqrt(counts @ variances) * generator.standard_normal(len(counts))
        for counts, generator in _draw(np.array([len(part) for part in parts]), RESAMPLES)
    ]
    return _ends(np.concatenate(sums) / len(values))


def ece_interval(bins: np.ndarray, confidence: np.ndarray, correct: np.ndarray) -> Ends:
    """Return the interval of the expected calibration error; see `calibration.assign_bins` for the bins, int[N]."""
    _, cells = np.unique(2 * bins + correct, return_inverse=True)
    gaps = correct - confidence
    sizes = np.bincount(cells)
    means = np.bincount(cells, gaps) / sizes
    variances = np.maximum(np.bincount(cells, gaps**2) / sizes - means**2, 0)
    bin_of_cell = np.zeros(len(sizes), dtype=np.int64)
    bin_of_cell[cells] = bins
    of_bin = (bin_of_cell[:, None] == np.unique(bins)).astype(np.float64)
    drawn = []
    for counts, generator in _draw(sizes, RESAMPLES):
        noise = np.sqrt((counts * variances) @ of_bin)
        sums = (counts * means) @ of_bin + noise * generator.standard_normal(noise.shape)
        drawn.append(np.abs(sums).sum(axis=1) / len(bins))
    value = float(np.abs(np.bincount(bins, gaps)).sum() / len(bins))
    low, high = _ends(np.concatenate(drawn))
    explained = value <= _largest_by_chance(bins, confidence)
    return 0.0 if explained else max(2 * value - high, 0.0), max(2 * value - low, value)


def _largest_by_chance(bins: np.ndarray, confidence: np.ndarray) -> float:
    """Return the calibration error that answers with the right confidence exceed in 1 of 20 splits."""
    deviations = np.sqrt(np.bincount(bins, confidence * (1 - confidence)))
    noise = np.random.Generator(np.random.PCG64(_SEED)).standard_normal((RESAMPLES, len(deviations)))
    return float(np.quantile(np.abs(noise * deviations).sum(axis=1), 0.95) / len(bins))


def roc_influence(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return float64[N] values whose mean is the ROC-AUC and whose means over drawn documents follow it.

    Args:
        positive: bool[N], the documents of the class; both kinds are there.
        scores: float64[N], their probability of the class.
    """
    ours, others = np.sort(scores[positive]), np.sort(scores[~positive])
    placed = np.empty(len(scores))
    for group, against, above in ((positive, others, False), (~positive, ours, True)):
        below = np.searchsorted(against, scores[group], "left") + np.searchsorted(against, scores[group], "right")
        share = below / (2 * len(against))
        placed[group] = 1 - share if above else share
    area = placed[positive].mean()
    values: np.ndarray = area + (placed - area) * len(scores) / np.where(positive, len(ours), len(others))
    return values


def pr_influence(positive: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the same for the average precision."""
    thresholds, place = np.unique(-scores, return_inverse=True)  # the highest score first
    ours = np.bincount(place, positive, minlength=len(thresholds))
    chosen, right = np.cumsum(np.bincount(place)), np.cumsum(ours)
    precision, total = right / chosen, right[-1]
    area = (ours * precision).sum() / total
    # a document changes the precision at its own threshold and at every lower one
    gained = np.cumsum((ours / chosen)[::-1])[::-1]
    lost = np.cumsum((ours * precision / chosen)[::-1])[::-1]
    change = positive * (precision - area + gained)[place] - lost[place]
    values: np.ndarray = area + change * len(scores) / total
    return values


def _split(ordered: np.ndarray) -> list[np.ndarray]:
    """Return the values in cells; those at both ends, which make the difference in skewed ones, are alone."""
    if len(ordered) <= _CELLS + 2 * _ALONE:
        return np.array_split(ordered, len(ordered))
    inner = np.array_split(ordered[_ALONE:-_ALONE], _CELLS)
    return [*np.array_split(ordered[:_ALONE], _ALONE), *inner, *np.array_split(ordered[-_ALONE:], _ALONE)]


def _draw(sizes: np.ndarray, resamples: int) -> Iterator[tuple[np.ndarray, np.random.Generator]]:
    """Yield int64[R, M] counts of drawn documents in cells of int[M] sizes, and the generator, block by block."""
    generator = np.random.Generator(np.random.PCG64(_SEED))
    total, block = int(sizes.sum()), max(1, _BLOCK // len(sizes))
    for start in range(0, resamples, block):
        yield generator.multinomial(total, sizes / total, size=min(block, resamples - start)), generator


def _ends(values: np.ndarray) -> Ends:
    low, high = np.quantile(values, _LEVELS)
    return float(low), float(high)
