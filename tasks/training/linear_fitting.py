"""Fits the linear model: its features, what is chosen on validation documents, and its weights. Touches no file.

One class after the other is told from the rest by logistic regression (liblinear: Fan et al. 2008), which stays small
and fast with many classes. Features are weighted by their rarity, or by the log ratio of their shares in the class and
in the rest (Wang & Manning 2012).
"""

import logging
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pipeline_config.contracts.linear import Weighting
from pipeline_config.settings import BaselineConfig
from tasks.evaluation.calibration import fit_temperature, log_losses
from tasks.runtime.cancellation import raise_if_stopped
from tasks.served.linear import Features, LinearModel

logger = logging.getLogger(__name__)
MOST_WEIGHTS = 50_000_000  # features times classes
_STRENGTHS: dict[Weighting, tuple[float, ...]] = {"idf": (1.0, 4.0, 16.0, 128.0), "log_ratio": (0.1, 1.0)}
_ABSENT = -30.0  # logit of a class without train documents


class Recipe(NamedTuple):
    """What has to be known before a linear model can be fitted: see `BaselineConfig`."""

    pieces: bool
    weighting: Weighting
    regularization: float


class Fitted(NamedTuple):
    """A linear model, and the most iterations that the solver needed for a class."""

    model: LinearModel
    iterations: int


def list_recipes(config: BaselineConfig, *, pieces: bool) -> list[Recipe]:
    """Return the recipes among which a configuration leaves the choice."""
    weightings: tuple[Weighting, ...] = ("idf", "log_ratio") if config.weighting == "auto" else (config.weighting,)
    return [
        Recipe(pieces, weighting, strength)
        for weighting in weightings
        for strength in (_STRENGTHS[weighting] if config.regularization == "auto" else (config.regularization,))
    ]


def choose_out_of_fold(
    features: Features,
    label_ids: np.ndarray,
    folds: np.ndarray,
    classes: int,
    recipes: list[Recipe],
    config: BaselineConfig,
) -> tuple[Recipe, np.ndarray]:
    """Return the recipe with the smallest log-loss out of fold, and its logits, see `predict_out_of_fold`."""
    found = [predict_out_of_fold(features, label_ids, folds, classes, recipe, config) for recipe in recipes]
    losses = [measure_loss(logits, label_ids) for logits in found]
    best = int(np.argmin(losses))
    return recipes[best], found[best]


def predict_out_of_fold(
    features: Features, label_ids: np.ndarray, folds: np.ndarray, classes: int, recipe: Recipe, config: BaselineConfig
) -> np.ndarray:
    """Return float64[N, C]: the logits of each document from a model of the other folds.

    A document has NaN where these folds lack its class, or have only one class, or no feature that is frequent.

    Args:
        features: of N documents.
        label_ids: int64[N], their classes.
        folds: int64[N], the fold of each.
        classes: C.
        recipe: of the models.
        config: of the baseline.
    """
    logits = np.full((len(label_ids), classes), np.nan)
    for fold in np.unique(folds):
        others = np.flatnonzero(folds != fold)
        known = np.unique(label_ids[others])
        inside = np.flatnonzero((folds == fold) & np.isin(label_ids, known))
        if len(known) < 2 or not len(inside):
            continue
        try:
            fitted = fit_linear(features.take(others), label_ids[others], classes, recipe, config)
        except ValueError:  # no frequent feature
            continue
        logits[inside] = fitted.model.answer(features.take(inside))
    return logits


def fit_linear(
    features: Features, label_ids: np.ndarray, classes: int, recipe: Recipe, config: BaselineConfig
) -> Fitted:
    """Return the linear model of documents.

    Args:
        features: of N documents.
        label_ids: int[N], their classes.
        classes: C.
        recipe: how.
        config: of the baseline.

    Raises:
        ValueError: no feature occurs in `min_df` documents.
    """
    keys, counts = choose_keys(features, config.min_df, MOST_WEIGHTS // classes)
    scales, sizes = weigh_features(keys, counts, len(label_ids), recipe.weighting)
    shape = (len(keys), classes)
    model = LinearModel(
        keys,
        np.zeros(shape, np.float32),
        sizes.astype(np.float32),
        np.full(classes, _ABSENT, np.float32),
        ngrams=config.ngram_max,
        pieces=recipe.pieces,
    )
    rows, lengths = model.select(features)
    rows.data = (1 / lengths)[np.repeat(np.arange(len(lengths)), np.diff(rows.indptr))] * scales[rows.indices]
    iterations = 0
    for number, weights, bias, needed in _fit_classes(rows, label_ids, classes, recipe, config):
        model.weights[:, number], model.bias[number] = weights * scales, bias
        iterations = max(iterations, needed)
    return Fitted(model, iterations)


def choose_keys(features: Features, least: int, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the features that occur in so many documents, the most frequent ones of them, and their counts.

    Raises:
        ValueError: there is none.
    """
    keys, counts = np.unique(features.keys, return_counts=True)
    while (counts >= least).sum() > most:
        least += 1
    if not (counts >= least).any():
        raise ValueError("no n-gram occurs in as many train documents")
    return keys[counts >= least], counts[counts >= least]


def weigh_features(
    keys: np.ndarray, counts: np.ndarray, documents: int, weighting: Weighting
) -> tuple[np.ndarray, np.ndarray]:
    """Return float64[F] twice: what a feature counts for, and its size, of which the divisor of a text is made.

    With `idf` a feature counts for its rarity, and n-grams for as much as pieces in all. With `log_ratio` all count the
    same here, because the weights of each class tell them apart.

    Args:
        keys: uint32[F], the features.
        counts: int64[F], the documents that have them.
        documents: number of all documents.
        weighting: how.
    """
    if weighting == "log_ratio":
        return np.ones(len(keys)), np.full(len(keys), documents / counts.sum())
    scales = np.log((1 + documents) / (1 + counts)) + 1
    for kind in ((keys & 1) == 0, (keys & 1) == 1):
        scales[kind] /= np.sqrt(max(float((scales[kind] ** 2 * counts[kind]).sum()), 1.0) / documents)
    return scales, scales**2


def take_evenly(count: int, most: int) -> np.ndarray:
    """Return int64[at most `most`], positions spread evenly over `count` documents."""
    chosen = max(1, min(most, count))
    return np.arange(chosen) * count // chosen


def measure_loss(logits: np.ndarray, label_ids: np.ndarray) -> float:
    """Return the mean log-loss of logits float64[N, C] with the best temperature; rows of NaN are left out."""
    made = ~np.isnan(logits[:, 0])
    if not made.any():
        return float("inf")
    return float(log_losses(logits[made], label_ids[made], fit_temperature(logits[made], label_ids[made])).mean())


def _fit_classes(
    rows: Any, label_ids: np.ndarray, classes: int, recipe: Recipe, config: BaselineConfig
) -> Iterator[tuple[int, np.ndarray, float, int]]:
    """Yield for each class its number, weights float64[F], bias, and iterations; of two classes only the second."""
    from sklearn.linear_model import LogisticRegression  # not at the top: slow to import

    warnings.filterwarnings("ignore", module="sklearn")  # of convergence; catch_warnings is not thread-safe
    values, present = rows.data, np.unique(label_ids)
    if classes == 2 and len(present) == 2:
        yield 0, np.zeros(rows.shape[1]), 0.0, 0
        present = present[1:]
    elif len(present) == 1:
        yield int(present[0]), np.zeros(rows.shape[1]), 0.0, 0
        return
    for number in present.tolist():
        raise_if_stopped()
        ratios = np.ones(rows.shape[1])
        if recipe.weighting == "log_ratio":
            ratios = _weigh_by_class(rows, label_ids == number)
        rows.data = values * ratios[rows.indices]
        regression = LogisticRegression(
            C=recipe.regularization, solver="liblinear", dual=True, tol=0.1, random_state=0,
            max_iter=config.max_iterations,
        )  # fmt: skip
        regression.fit(rows, label_ids == number)
        yield number, regression.coef_[0] * ratios, float(regression.intercept_[0]), int(regression.n_iter_[0])
    rows.data = values


def _weigh_by_class(rows: Any, inside: np.ndarray) -> np.ndarray:
    """Return float64[F]: the log ratio of the shares of each feature in documents of a class and in the rest."""
    columns = rows.indices
    belongs = np.repeat(inside, np.diff(rows.indptr))
    ours = np.bincount(columns[belongs], minlength=rows.shape[1]) + 1.0
    others = np.bincount(columns[~belongs], minlength=rows.shape[1]) + 1.0
    ratios: np.ndarray = np.log((ours / ours.sum()) / (others / others.sum()))
    return ratios
