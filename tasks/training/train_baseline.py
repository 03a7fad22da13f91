"""Stage `train_baseline`: a linear model on the same documents, to compare the classifier with.

Reads `documents`. Writes the predictions of TF-IDF with logistic regression on the validation and test splits.
"""

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from pipeline_config.errors import InputError
from pipeline_config.schemas import DOCUMENTS_FILE, PREDICTIONS_FILE
from pipeline_config.settings import BaselineConfig
from tasks.evaluation.prediction_table import tabulate_predictions
from tasks.runtime.progress import show_elapsed
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

logger = logging.getLogger(__name__)


@stage(version=1)
def train_baseline(output: StageOutput, documents: ArtifactRef, config: BaselineConfig) -> None:
    """Write the baseline's predictions on the validation and test splits.

    Raises:
        InputError: no n-gram of the train split occurs in `baseline.min_df` documents.
    """
    import torch  # noqa: F401 (before scikit-learn: SciPy fails if another thread has imported torch only in part)
    from sklearn.exceptions import ConvergenceWarning  # not at the top, because scikit-learn is slow to import

    table = documents.read_table(DOCUMENTS_FILE)
    split = table["split"].to_numpy()
    train, held_out = table.filter(pa.array(split == "train")), table.filter(pa.array(split != "train"))
    model = build_baseline(config)
    warnings.filterwarnings("ignore", category=ConvergenceWarning)  # logged below; catch_warnings is not thread-safe
    try:
        with show_elapsed(f"fit the baseline to {len(train):,} documents"):
            model.fit(train["text"].to_pylist(), train["label"].to_pylist())
    except ValueError as error:
        raise InputError(f"baseline: {error} (baseline.min_df is {config.min_df})") from error
    if model[1].n_iter_.max() >= config.max_iterations:
        logger.warning("the baseline did not converge in %d iterations", config.max_iterations)
    labels = sorted(set(table["label"].to_pylist()))
    probabilities = np.zeros((len(held_out), len(labels)))  # zero for a class that the train split lacks
    probabilities[:, [labels.index(label) for label in model.classes_]] = model.predict_proba(
        held_out["text"].to_pylist()
    )
    predictions = tabulate_predictions(held_out.select(["doc_id", "split", "label"]), labels, probabilities)
    output.write_table(PREDICTIONS_FILE, predictions, predictions.schema)
    output.facts.update(features=len(model[0].vocabulary_), iterations=int(model[1].n_iter_.max()))


def build_baseline(config: BaselineConfig) -> "Pipeline":
    """Return the untrained model: sublinear TF-IDF of word n-grams, then multinomial logistic regression."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    return make_pipeline(
        TfidfVectorizer(ngram_range=(1, config.ngram_max), min_df=config.min_df, sublinear_tf=True, dtype=np.float64),
        LogisticRegression(C=config.regularization, max_iter=config.max_iterations),
    )
