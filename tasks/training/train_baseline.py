"""Stage `train_baseline`: a linear model on the same documents, to compare the classifier with.

Reads `documents`. Writes the predictions of TF-IDF with logistic regression on the validation and test splits, and on
train documents those of models that were not trained on them, by which the evaluation finds wrong labels.
"""

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from pipeline_config.errors import InputError
from pipeline_config.schemas import DOCUMENTS_FILE, OUT_OF_FOLD_FILE, PREDICTIONS_FILE
from pipeline_config.settings import BaselineConfig
from tasks.corpus.hashing import hash_texts
from tasks.evaluation.prediction_table import tabulate_predictions
from tasks.runtime.arrow import whole_column
from tasks.runtime.cancellation import raise_if_stopped
from tasks.runtime.progress import show_elapsed
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

logger = logging.getLogger(__name__)
FOLDS = 4
MOST_CHECKED = 20_000  # train documents that are predicted by models of the other folds


@stage(version=2)
def train_baseline(output: StageOutput, documents: ArtifactRef, config: BaselineConfig) -> None:
    """Write the baseline's predictions on the validation and test splits, and those out of fold on train documents.

    Raises:
        InputError: no n-gram of the train split occurs in `baseline.min_df` documents.
    """
    import torch  # noqa: F401 (before scikit-learn: SciPy fails if another thread has imported torch only in part)
    from sklearn.exceptions import ConvergenceWarning  # not at the top, because scikit-learn is slow to import

    table = documents.read_table(DOCUMENTS_FILE)
    split = table["split"].to_numpy()
    train, held_out = table.filter(pa.array(split == "train")), table.filter(pa.array(split != "train"))
    vectorizer, regression = build_baseline(config)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)  # logged below; catch_warnings is not thread-safe
    truth = train["label"].to_numpy()
    try:
        with show_elapsed(f"fit the baseline to {len(train):,} documents"):
            features = vectorizer.fit_transform(train["text"].to_pylist())
            regression.fit(features, truth)
    except ValueError as error:
        raise InputError(f"baseline: {error} (baseline.min_df is {config.min_df})") from error
    if regression.n_iter_.max() >= config.max_iterations:
        logger.warning("the baseline did not converge in %d iterations", config.max_iterations)
    labels = sorted(set(table["label"].to_pylist()))
    probabilities = predict(regression, vectorizer.transform(held_out["text"].to_pylist()), labels)
    _write(output, PREDICTIONS_FILE, held_out, labels, probabilities)
    checked = choose_checked(len(train))
    folds = assign_folds(whole_column(train["text"].take(pa.array(checked))))
    with show_elapsed(f"check the labels of {len(checked):,} documents"):
        probabilities = predict_out_of_fold(features[checked], truth[checked], folds, labels, config)
    _write(output, OUT_OF_FOLD_FILE, train.take(pa.array(checked)), labels, probabilities)
    output.facts.update(features=len(vectorizer.vocabulary_), iterations=int(regression.n_iter_.max()))


def build_baseline(config: BaselineConfig) -> "Pipeline":
    """Return the untrained model: sublinear TF-IDF of word n-grams, then multinomial logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, config.ngram_max), min_df=config.min_df, sublinear_tf=True, dtype=np.float64),
        LogisticRegression(C=config.regularization, max_iter=config.max_iterations),
    )


def choose_checked(documents: int) -> np.ndarray:
    """Return int64[at most `MOST_CHECKED`], positions spread evenly over so many documents."""
    count = min(MOST_CHECKED, documents)
    return np.arange(count) * documents // count


def assign_folds(texts: pa.Array) -> np.ndarray:
    """Return int64[N], the fold of each text (large_string), by its hash, so that copies are in one fold."""
    return np.array([int.from_bytes(key[:4], "little") % FOLDS for key in hash_texts(texts)], np.int64)


def predict_out_of_fold(
    features: Any, truth: np.ndarray, folds: np.ndarray, labels: list[str], config: BaselineConfig
) -> np.ndarray:
    """Return float64[N, C]: the probabilities of each document from a model of the other folds.

    A document has zeros where these folds lack its class, or have only one class.

    Args:
        features: sparse matrix of N documents.
        truth: their classes.
        folds: int64[N], the fold of each document.
        labels: names of all classes.
        config: of the baseline.
    """
    probabilities = np.zeros((len(truth), len(labels)))
    for fold in np.unique(folds):
        raise_if_stopped()
        others, known = folds != fold, np.unique(truth[folds != fold])
        inside = np.flatnonzero(~others & np.isin(truth, known))
        if len(known) > 1 and len(inside):
            regression = build_baseline(config)[1].fit(features[others], truth[others])
            probabilities[inside] = predict(regression, features[inside], labels)
    return probabilities


def predict(regression: Any, features: Any, labels: list[str]) -> np.ndarray:
    """Return float64[N, C] probabilities; zero for a class that the regression was not trained on."""
    probabilities = np.zeros((features.shape[0], len(labels)))
    probabilities[:, [labels.index(label) for label in regression.classes_]] = regression.predict_proba(features)
    return probabilities


def _write(output: StageOutput, name: str, documents: pa.Table, labels: list[str], probabilities: np.ndarray) -> None:
    predictions = tabulate_predictions(documents.select(["doc_id", "split", "label"]), labels, probabilities)
    output.write_table(name, predictions, predictions.schema)
