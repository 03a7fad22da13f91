"""Figures of predictions against the truth. Takes and returns arrays and numbers; touches no file."""

from typing import Any

import numpy as np
import pyarrow as pa
from sklearn.metrics import f1_score, log_loss


def score_predictions(label_ids: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return accuracy, macro F1 and log-loss of float64[N, C] probabilities against int[N] class ids."""
    classes = range(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float((predicted == label_ids).mean()),
        "macro_f1": float(f1_score(label_ids, predicted, labels=classes, average="macro", zero_division=0.0)),
        "log_loss": float(log_loss(label_ids, probabilities, labels=classes)),
    }


def measure(predictions: pa.Table, labels: list[str], split: str) -> dict[str, Any]:
    """Return the scores of predictions on a split, per class too, and the confusion matrix (rows: truth)."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support  # here: slow to import

    from tasks.evaluation.metrics import score_predictions

    frame = predictions.to_pandas()
    frame = frame[frame["split"] == split]
    label_ids = frame["label"].map(labels.index).to_numpy()
    probabilities = frame[[f"p_{label}" for label in labels]].to_numpy()
    predicted = probabilities.argmax(axis=1)
    classes = range(len(labels))
    per_class = precision_recall_fscore_support(label_ids, predicted, labels=classes, zero_division=0.0)
    return {
        **score_predictions(label_ids, probabilities),
        "documents": len(frame),
        "classes": {
            label: dict(zip(("precision", "recall", "f1", "support"), map(float, row), strict=True))
            for label, row in zip(labels, zip(*per_class, strict=True), strict=True)
        },
        "confusion": confusion_matrix(label_ids, predicted, labels=classes).tolist(),
    }
