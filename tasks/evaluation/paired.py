"""Two models on the same documents: paired bootstrap of a difference, exact McNemar test, smallest detectable gain.

Takes arrays; touches no file. Documents with the same truth and the same two answers are one cell of a table, and a
bootstrap resample of the documents is a multinomial draw of the counts of the cells. Where there are too many cells,
and for the log-loss, documents are put into blocks at random, and blocks are drawn. Equal arguments give equal results.
The module is longer than 300 lines because metrics, draws and tests share this table of counts.
"""

import math
from statistics import NormalDist
from typing import Final, Literal, NamedTuple

import numpy as np

from pipeline_config.contracts.analysis import Disagreement, Interval, PairedComparison

RESAMPLES: Final = 10_000
POWER: Final = 0.8
_UNITS = 500  # most cells or blocks
_TABLE = 4_000_000  # most numbers of a table of draws in memory

LabelMetric = Literal["accuracy", "macro_f1", "micro_f1", "weighted_f1", "balanced_accuracy", "mcc", "f1"]
PairedMetric = Literal[LabelMetric, "log_loss"]


class Answers(NamedTuple):
    """The answers of two models to the same documents.

    Attributes:
        truth: int[N] class ids.
        ours: float[N, C] probabilities of the model that is judged.
        other: float[N, C] probabilities of the model that it is compared with.
    """

    truth: np.ndarray
    ours: np.ndarray
    other: np.ndarray


class Tally(NamedTuple):
    """Counts by class, float[R, C], a row for each resample: true positives, predictions, documents."""

    hits: np.ndarray
    predicted: np.ndarray
    support: np.ndarray


class Difference(NamedTuple):
    """The difference of a metric between two models, ours less other; above 0, ours is the better one.

    Attributes:
        ours: the metric of the model that is judged.
        other: that of the other.
        value: the gain; for the log-loss, whose smaller values are the better ones, it is other less ours.
        error: standard error of the gain.
        resampled: float[R], sorted: the gain in each resample.
    """

    ours: float
    other: float
    value: float
    error: float
    resampled: np.ndarray

    def lower(self, alpha: float) -> float:
        """Return the bound below which the gain lies with probability `alpha`."""
        return float(np.quantile(self.resampled, alpha))

    def upper(self, alpha: float) -> float:
        """Return the bound above which the gain lies with probability `alpha`."""
        return float(np.quantile(self.resampled, 1 - alpha))

    def interval(self, alpha: float = 0.05) -> Interval:
        """Return the gain with its two-sided interval, which leaves out `alpha`."""
        return Interval(value=self.value, low=self.lower(alpha / 2), high=self.upper(alpha / 2))


def measure_gain(
    answers: Answers, metric: PairedMetric, class_id: int | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """Return the gain of one model over another with its paired bootstrap.

    Args:
        answers: the answers of both.
        metric: what is measured; `f1` is that of one class.
        class_id: the class of `f1`.
        resamples: number of resamples.
        seed: of the draws.
    """
    rng = np.random.default_rng(seed)
    if metric == "log_loss":
        losses = np.stack([_losses(answers.truth, answers.ours), _losses(answers.truth, answers.other)], axis=1)
        mean = losses.mean(axis=0)
        drawn = _draw(_block_units(losses, rng), resamples, rng)
        values = (drawn[:, 1] - drawn[:, 0]) / drawn[:, 2]
        return _summarize(float(mean[0]), float(mean[1]), float(mean[1] - mean[0]), values)
    if metric in ("accuracy", "micro_f1"):
        answers = _right_or_wrong(answers)
    columns = _label_columns(answers)
    classes = answers.ours.shape[1]
    ours, other = _score_both(columns.sum(axis=0, keepdims=True), classes, metric, class_id)
    drawn = _draw(_label_units(columns, answers, rng), resamples, rng)
    one, two = _score_both(drawn, classes, metric, class_id)
    return _summarize(float(ours[0]), float(other[0]), float(ours[0] - other[0]), one - two)


def measure_alone(
    truth: np.ndarray,
    ours: np.ndarray,
    metric: PairedMetric,
    class_id: int | None = None,
    *,
    against: float | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Return the gain of a model over a fixed value, or over answers that take no notice of the text.

    Args:
        truth: int[N] class ids.
        ours: float[N, C] probabilities.
        metric: what is measured.
        class_id: the class of `f1`.
        against: the value; None is chance, see `score_chance`. For the log-loss that is the shares of the classes.
        resamples: number of resamples.
        seed: of the draws.
    """
    classes = ours.shape[1]
    support = np.bincount(truth, minlength=classes).astype(float)
    answers = Answers(truth, ours, np.tile(support / len(truth), (len(truth), 1)))
    if metric == "log_loss":
        gain = measure_gain(answers, metric, resamples=resamples, seed=seed)
        if against is None:
            return gain
        rng = np.random.default_rng(seed)
        drawn = _draw(_block_units(_losses(truth, ours)[:, None], rng), resamples, rng)
        return _summarize(gain.ours, against, against - gain.ours, against - drawn[:, 0] / drawn[:, 1])
    rng = np.random.default_rng(seed)
    columns = _label_columns(answers)
    drawn = _draw(_label_units(columns, answers, rng), resamples, rng)
    drawn = np.concatenate([columns.sum(axis=0, keepdims=True), drawn])
    values, _ = _score_both(drawn, classes, metric, class_id)
    if against is None:
        others = score_chance(metric, drawn[:, :classes], class_id, most_frequent=int(support.argmax()))
    else:
        others = np.full(len(values), against)
    gains = values - others
    return _summarize(float(values[0]), float(others[0]), float(gains[0]), gains[1:])


def find_value(truth: np.ndarray, ours: np.ndarray, metric: PairedMetric, class_id: int | None = None) -> float:
    """Return a metric of float[N, C] probabilities."""
    if metric == "log_loss":
        return float(_losses(truth, ours).mean())
    columns = _label_columns(Answers(truth, ours, ours)).sum(axis=0, keepdims=True)
    return float(_score_both(columns, ours.shape[1], metric, class_id)[0][0])


def count_effective(metric: PairedMetric, support: np.ndarray, class_id: int | None = None) -> float:
    """Return n such that a gain of g that other answers to some documents bring has a variance of g / n.

    That is the number of documents for the accuracy. For means over classes small classes count for more, so it is the
    number of classes times the harmonic mean of their documents. The log-loss changes with every document: infinite.

    Args:
        metric: what is measured.
        support: documents by class.
        class_id: the class of `f1`.
    """
    if metric == "log_loss":
        return math.inf
    if metric == "f1":
        return float(support[_class_of(metric, class_id)])
    if metric in ("macro_f1", "balanced_accuracy"):
        present = support[support > 0]
        return float(len(present) ** 2 / (1 / present).sum())
    return float(support.sum()) / (2 if metric == "mcc" else 1)


def score(metric: LabelMetric, tally: Tally, class_id: int | None = None) -> np.ndarray:
    """Return a metric, float[R], from counts by class. Means over classes are over those with documents.

    Args:
        metric: what is measured.
        tally: the counts.
        class_id: the class of `f1`.
    """
    hits, predicted, support = tally
    documents = support.sum(axis=1)
    present = support > 0
    if metric in ("accuracy", "micro_f1"):  # the same thing where each document has one class
        return _ratio(hits.sum(axis=1), documents)
    if metric == "balanced_accuracy":
        return _ratio((_ratio(hits, support) * present).sum(axis=1), present.sum(axis=1))
    if metric == "mcc":
        agreement = hits.sum(axis=1) * documents - (predicted * support).sum(axis=1)
        spread = (documents**2 - (predicted**2).sum(axis=1)) * (documents**2 - (support**2).sum(axis=1))
        return _ratio(agreement, np.sqrt(np.maximum(spread, 0.0)))
    f1 = _ratio(2 * hits, support + predicted)
    if metric == "f1":
        return np.asarray(f1[:, _class_of(metric, class_id)])
    if metric == "weighted_f1":
        return _ratio((f1 * support).sum(axis=1), documents)
    return _ratio((f1 * present).sum(axis=1), present.sum(axis=1))


def score_chance(
    metric: LabelMetric, support: np.ndarray, class_id: int | None = None, *, most_frequent: int
) -> np.ndarray:
    """Return what answers reach that take no notice of the text, float[R], for float[R, C] documents by class.

    That is the better one of two: always the same class, and classes at random in their shares of the documents.
    Accuracy: the share of the most frequent class. Balanced accuracy and macro F1: one divided by the number of
    classes. Weighted F1: the larger one of both. MCC: 0. F1 of a class: that of always this class.

    Args:
        metric: what is measured.
        support: documents by class.
        class_id: the class of `f1`.
        most_frequent: id of the most frequent class.
    """
    shares = _ratio(support, support.sum(axis=1, keepdims=True))
    if metric in ("accuracy", "micro_f1"):
        return np.asarray(shares[:, most_frequent])
    if metric in ("balanced_accuracy", "macro_f1"):
        return _ratio(np.ones(len(support)), (support > 0).sum(axis=1))
    if metric == "mcc":
        return np.zeros(len(support))
    if metric == "f1":
        share = np.asarray(shares[:, _class_of(metric, class_id)])
        return np.asarray(2 * share / (1 + share))
    largest = shares[:, most_frequent]
    return np.asarray(np.maximum(2 * largest**2 / (1 + largest), (shares**2).sum(axis=1)))


def find_swap_p_value(
    answers: Answers, metric: LabelMetric, class_id: int | None = None, *, resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Return the probability of a gain like this or larger if both models were the same (approximate randomization).

    The answers of both to a document are swapped at random (in blocks, if they differ on many documents). Unlike the
    bootstrap this is right for few documents on which the two differ. For the accuracy it is the exact McNemar test,
    one-sided.

    Args:
        answers: the answers of both.
        metric: what is measured.
        class_id: the class of `f1`.
        resamples: number of draws.
        seed: of the draws.
    """
    truth, ours, other = answers.truth, answers.ours.argmax(axis=1), answers.other.argmax(axis=1)
    if metric in ("accuracy", "micro_f1") or (ours == other).all():
        return _test_binomial(*count_disagreements(truth, ours, other), alternative="greater")
    rng, classes = np.random.default_rng(seed), answers.ours.shape[1]
    total = _label_columns(answers).sum(axis=0, keepdims=True)
    one, two = _score_both(total, classes, metric, class_id)
    gain = float(one[0] - two[0])
    differ = np.flatnonzero(ours != other)
    forward = _columns_of(truth[differ], ours[differ], other[differ], classes)
    backward = _columns_of(truth[differ], other[differ], ours[differ], classes)
    starts = np.linspace(0, len(differ), min(len(differ), _UNITS), endpoint=False).astype(int)
    order = rng.permutation(len(differ))
    change = np.add.reduceat((backward - forward)[order], starts, axis=0)
    as_large = 0
    for rows in _chunks(resamples, len(starts)):
        swapped = rng.random((rows, len(starts))) < 0.5
        one, two = _score_both(total + swapped @ change, classes, metric, class_id)
        as_large += int((one - two >= gain - 1e-12).sum())
    return (1 + as_large) / (1 + resamples)


def count_disagreements(truth: np.ndarray, ours: np.ndarray, other: np.ndarray) -> tuple[int, int]:
    """Return how many documents only the first model gets right, and how many only the other, for int[N] class ids."""
    right, other_right = ours == truth, other == truth
    return int((right & ~other_right).sum()), int((~right & other_right).sum())


def find_mcnemar_p_value(only_ours: int, only_other: int) -> float:
    """Return the p-value of the exact McNemar test, two-sided."""
    return _test_binomial(only_ours, only_other, alternative="two-sided")


def find_detectable_gain(documents: float, disagreement: float, alpha: float) -> float:
    """Return the smallest gain in accuracy that a one-sided paired test finds with probability 0.8.

    It is (z(1 - alpha) + z(0.8)) * sqrt(d / n). As a gain cannot be larger than the share of documents on which the two
    models differ, d is at least the gain itself.

    Args:
        documents: n, the number of documents.
        disagreement: d, the share of documents that only one of both models gets right.
        alpha: probability of finding a gain where there is none.
    """
    factor = find_quantile(1 - alpha) + find_quantile(POWER)
    return min(1.0, max(factor * math.sqrt(disagreement / documents), factor**2 / documents))


def find_quantile(probability: float) -> float:
    """Return the value that a standard normal variable stays below with a probability."""
    return NormalDist().inv_cdf(probability)


def compare_paired(
    name: str, answers: Answers, examples: tuple[Disagreement, ...] = (), *, resamples: int = RESAMPLES
) -> PairedComparison:
    """Return the comparison of two models with 95 % intervals, for the report.

    Args:
        name: of the other model.
        answers: the answers of both.
        examples: documents that one of both gets right.
        resamples: number of resamples.
    """
    ours, other = (probabilities.argmax(axis=1) for probabilities in (answers.ours, answers.other))
    only_ours, only_other = count_disagreements(answers.truth, ours, other)
    return PairedComparison(
        other=name,
        documents=len(answers.truth),
        accuracy=measure_gain(answers, "accuracy", resamples=resamples).interval(),
        macro_f1=measure_gain(answers, "macro_f1", resamples=resamples).interval(),
        p_value=find_mcnemar_p_value(only_ours, only_other),
        only_classifier=only_ours,
        only_other=only_other,
        examples=examples,
    )


class _Units(NamedTuple):
    """What is drawn: `shares` float[K] of the units, `columns` float[K, F] of one of each, `size` of a resample."""

    shares: np.ndarray
    columns: np.ndarray
    size: int


def _right_or_wrong(answers: Answers) -> Answers:
    """Return the same answers as those to a question with two classes, the first of which is right."""
    ours, other = (probabilities.argmax(axis=1) == answers.truth for probabilities in answers[1:])
    return Answers(np.zeros_like(answers.truth), *(np.stack([right, ~right], axis=1) for right in (ours, other)))


def _label_columns(answers: Answers) -> np.ndarray:
    ours, other = answers.ours.argmax(axis=1), answers.other.argmax(axis=1)
    return _columns_of(answers.truth, ours, other, answers.ours.shape[1])


def _columns_of(truth: np.ndarray, ours: np.ndarray, other: np.ndarray, classes: int) -> np.ndarray:
    """Return float[N, 5 C]: one-hot truth, and for each model its hits and its predictions."""
    one_hot = np.eye(classes)
    parts = [one_hot[truth]]
    for predicted in (ours, other):
        parts += [one_hot[truth] * (predicted == truth)[:, None], one_hot[predicted]]
    return np.concatenate(parts, axis=1)


def _label_units(columns: np.ndarray, answers: Answers, rng: np.random.Generator) -> _Units:
    classes = answers.ours.shape[1]
    codes = (answers.truth * classes + answers.ours.argmax(axis=1)) * classes + answers.other.argmax(axis=1)
    _, first, counts = np.unique(codes, return_index=True, return_counts=True)
    if len(counts) > _UNITS:
        return _block_units(columns, rng)
    return _Units(counts / len(codes), columns[first], len(codes))


def _block_units(columns: np.ndarray, rng: np.random.Generator) -> _Units:
    """Put documents into blocks at random; the last column is the number of documents of a block."""
    blocks = min(len(columns), _UNITS)
    order = rng.permutation(len(columns))
    starts = np.linspace(0, len(columns), blocks, endpoint=False).astype(int)
    counted = np.concatenate([columns, np.ones((len(columns), 1))], axis=1)
    return _Units(np.full(blocks, 1 / blocks), np.add.reduceat(counted[order], starts, axis=0), blocks)


def _draw(units: _Units, resamples: int, rng: np.random.Generator) -> np.ndarray:
    """Return the sums of the columns in each resample, float[R, F]."""
    return np.concatenate(
        [
            rng.multinomial(units.size, units.shares, size=rows) @ units.columns
            for rows in _chunks(resamples, len(units.shares))
        ]
    )


def _chunks(resamples: int, width: int) -> list[int]:
    rows = max(1, _TABLE // max(1, width))
    return [min(rows, resamples - start) for start in range(0, resamples, rows)]


def _score_both(
    drawn: np.ndarray, classes: int, metric: LabelMetric, class_id: int | None
) -> tuple[np.ndarray, np.ndarray]:
    support, hits, predicted, other_hits, other_predicted = (
        drawn[:, i * classes : (i + 1) * classes] for i in range(5)
    )
    ours, other = Tally(hits, predicted, support), Tally(other_hits, other_predicted, support)
    return score(metric, ours, class_id), score(metric, other, class_id)


def _summarize(ours: float, other: float, value: float, resampled: np.ndarray) -> Difference:
    return Difference(ours, other, value, float(resampled.std(ddof=1)), np.sort(resampled))


def _losses(truth: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    chosen = probabilities[np.arange(len(truth)), truth]
    losses: np.ndarray = -np.log(np.clip(chosen, np.finfo(probabilities.dtype).eps, 1.0))
    return losses


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; 0 where the denominator is 0."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    result: np.ndarray = np.divide(numerator, denominator, out=np.zeros(shape), where=denominator > 0)
    return result


def _class_of(metric: str, class_id: int | None) -> int:
    if class_id is None:
        raise ValueError(f"the metric {metric} needs the id of a class")
    return class_id


def _test_binomial(wins: int, losses: int, *, alternative: str) -> float:
    from scipy.stats import binomtest  # not at the top: slow to import

    return float(binomtest(wins, wins + losses, 0.5, alternative=alternative).pvalue) if wins + losses else 1.0
