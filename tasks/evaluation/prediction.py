"""Predict an encoded split with a network. Takes and returns arrays; touches no file."""

import numpy as np
import torch
from torch import Tensor

from tasks.batches.encoded_split import EncodedSplit
from tasks.evaluation.metrics import score_predictions
from tasks.runtime.cancellation import raise_if_stopped
from tasks.served.network import TextClassifier

EVALUATION_BATCH = 256


def predict_probabilities(network: TextClassifier, split: EncodedSplit) -> np.ndarray:
    """Return float64[N, C] class probabilities, in the order of the documents."""
    probabilities: np.ndarray = torch.from_numpy(predict_logits(network, split)).softmax(dim=1).numpy()
    return probabilities


def predict_logits(network: TextClassifier, split: EncodedSplit) -> np.ndarray:
    """Return float64[N, C] logits, in the order of the documents."""
    device = next(network.parameters()).device
    order = np.argsort(split.lengths, kind="stable")
    logits = np.zeros((len(split), network.linear.out_features))
    network.eval()
    with torch.inference_mode():
        for start in range(0, len(order), EVALUATION_BATCH):
            raise_if_stopped()
            documents = order[start : start + EVALUATION_BATCH]
            logits[documents] = network(*to_tensors(split, documents, device)).double().cpu().numpy()
    return logits


def validate(network: TextClassifier, split: EncodedSplit) -> dict[str, float]:
    """Return loss, accuracy and macro F1 of a network on a split, with keys `validation_*`."""
    scores = score_predictions(split.label_ids, predict_probabilities(network, split))
    return {
        "validation_loss": scores["log_loss"],
        "validation_accuracy": scores["accuracy"],
        "validation_macro_f1": scores["macro_f1"],
    }


def to_tensors(split: EncodedSplit, documents: np.ndarray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return padded int64[B, T] token ids and int64[B] lengths of some documents of a split."""
    input_ids, lengths = split.pad_batch(documents)
    return torch.from_numpy(input_ids).to(device), torch.from_numpy(lengths).to(device)
