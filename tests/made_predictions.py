"""Predictions and scores made by hand, for tests of what reads them."""

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.evaluation import ClassScores, Combination, Metrics, ModelScores, Scores
from tasks.evaluation.prediction_table import tabulate_predictions

LABELS = ["a", "b", "c"]


LSTM_ALONE = Combination(candidate="lstm", share=1.0, network_temperature=1.0, linear_temperature=None)


def make_predictions(rows: list[tuple[int, str, str, list[float]]], labels: list[str] = LABELS) -> pa.Table:
    """Predictions of `(doc_id, split, label, probabilities)`."""
    documents = pa.table({name: [row[i] for row in rows] for i, name in enumerate(("doc_id", "split", "label"))})
    return tabulate_predictions(documents, labels, np.array([row[3] for row in rows]))


PREDICTIONS = make_predictions(
    [
        (1, "test", "a", [0.7, 0.2, 0.1]),
        (2, "test", "a", [0.1, 0.8, 0.1]),
        (3, "test", "b", [0.2, 0.5, 0.3]),
        (4, "test", "c", [0.6, 0.3, 0.1]),
        (5, "validation", "c", [0.0, 0.0, 1.0]),
    ]
)


def make_scores(
    *, accuracy: float = 0.5, macro_f1: float = 0.4, log_loss: float = 1.0, labels: list[str] = LABELS
) -> Scores:
    """Scores of ten documents of each class, all of which were predicted as the first class."""
    one = ClassScores(precision=0.125, recall=0.25, f1=0.375, roc_auc=0.5, pr_auc=0.25, support=10.0, predicted=10)
    confusion = tuple((10, *[0] * (len(labels) - 1)) for _ in labels)
    return Scores(
        accuracy=accuracy,
        macro_f1=macro_f1,
        log_loss=log_loss,
        balanced_accuracy=0.25,
        micro_f1=accuracy,
        weighted_f1=0.375,
        mcc=0.125,
        brier=0.75,
        ece=0.0625,
        roc_auc=0.5,
        pr_auc=0.25,
        intervals={"accuracy": (accuracy - 0.125, accuracy + 0.125)},
        documents=10 * len(labels),
        absent_classes=(),
        classes=dict.fromkeys(labels, one),
        confusion=confusion,
    )


def make_metrics(*, validation: Scores | None = None, test: Scores | None = None) -> Metrics:
    """Metrics in which the LSTM, which is registered, has the given scores, and the other models have the default ones."""
    return Metrics(
        combination=LSTM_ALONE,
        validation=ModelScores(lstm=validation or make_scores(), baseline=make_scores(), hybrid=make_scores()),
        test=ModelScores(lstm=test or make_scores(), baseline=make_scores(), hybrid=make_scores()),
    )
