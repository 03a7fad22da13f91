"""Scores of predictions against the truth. Takes arrays and tables; touches no file.

scikit-learn is imported inside the functions: it is slow to import, and a run whose stages are all cached needs none.
"""

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.evaluation import ClassScores, Scores


def score_predictions(label_ids: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return accuracy, macro F1 and log-loss of float64[N, C] probabilities against int[N] class ids.

    Macro F1 is the mean over the classes that have documents here.
    """
    from sklearn.metrics import f1_score, log_loss

    classes, present = range(probabilities.shape[1]), np.unique(label_ids)
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float((predicted == label_ids).mean()),
        "macro_f1": float(f1_score(label_ids, predicted, labels=present, average="macro", zero_division=0.0)),
        "log_loss": float(log_loss(label_ids, probabilities, labels=classes)),
    }


def measure(predictions: pa.Table, labels: list[str], split: str) -> Scores:
    """Return the scores of a table of predictions on a split, with those of each class and the confusion matrix."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    frame = predictions.to_pandas()
    frame = frame[frame["split"] == split]
    label_ids = frame["label"].map(labels.index).to_numpy()
    probabilities = frame[[f"p_{label}" for label in labels]].to_numpy()
    predicted = probabilities.argmax(axis=1)
    classes = range(len(labels))
    per_class = precision_recall_fscore_support(label_ids, predicted, labels=classes, zero_division=0.0)
    names = ("precision", "recall", "f1", "support")
    return Scores(
        **score_predictions(label_ids, probabilities),
        documents=len(frame),
        absent_classes=tuple(label for i, label in enumerate(labels) if not (label_ids == i).any()),
        classes={
            label: ClassScores(**dict(zip(names, map(float, row), strict=True))) if row[-1] else ClassScores.absent()
            for label, row in zip(labels, zip(*per_class, strict=True), strict=True)
        },
        confusion=tuple(map(tuple, confusion_matrix(label_ids, predicted, labels=classes).tolist())),
    )
