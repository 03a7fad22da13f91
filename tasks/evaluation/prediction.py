"""Predict an encoded split with a network, and score predictions.

Takes and returns arrays; touches no file.
"""

import numpy as np
import torch
from sklearn.metrics import f1_score, log_loss
from torch import Tensor

from tasks.batches.bucket_corpus import EncodedSplit
from tasks.served.network import TextClassifier
from tasks.runtime.progress import raise_if_stopped

EVALUATION_BATCH = 256


def predict_probabilities(network: TextClassifier, split: EncodedSplit) -> np.ndarray:
    """Return float64[N, C] class probabilities, in the order of the documents."""
    device = next(network.parameters()).device
    order = np.argsort(split.lengths, kind="stable")
    probabilities = np.zeros((len(split), network.linear.out_features))
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(order), EVALUATION_BATCH):
            raise_if_stopped()
            documents = order[start : start + EVALUATION_BATCH]
            logits = network(*to_tensors(split, documents, device))
            probabilities[documents] = logits.double().softmax(dim=1).cpu().numpy()
    return probabilities


def score_predictions(label_ids: np.ndarray, probabilities: np.ndarray) -> dict[str, float]:
    """Return accuracy, macro F1 and log-loss of float64[N, C] probabilities against int[N] class ids."""
    classes = range(probabilities.shape[1])
    predicted = probabilities.argmax(axis=1)
    return {
        "accuracy": float((predicted == label_ids).mean()),
        "macro_f1": float(f1_score(label_ids, predicted, labels=classes, average="macro", zero_division=0.0)),
        "log_loss": float(log_loss(label_ids, probabilities, labels=classes)),
    }


def validate(network: TextClassifier, split: EncodedSplit) -> dict[str, float]:
    """Return loss, accuracy and macro F1 of a network on a split, with keys `validation_*`."""
    scores = score_predictions(split.label_ids, predict_probabilities(network, split))
    return {f"validation_{name}": scores[key] for name, key in (
        ("loss", "log_loss"), ("accuracy", "accuracy"), ("macro_f1", "macro_f1"))}  # fmt: skip


def to_tensors(split: EncodedSplit, documents: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return padded int64[B, T] token ids and int64[B] lengths of some documents of a split."""
    input_ids, lengths = split.pad_batch(documents)
    return torch.from_numpy(input_ids).to(device), torch.from_numpy(lengths).to(device)
