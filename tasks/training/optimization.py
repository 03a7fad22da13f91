"""How weights are updated: optimizer, learning rate schedules, loss, moving average.

Takes networks and numbers, touches no file. A learning rate is a function of the step and of the validation
scores so far, so that a training that goes on from a checkpoint needs no state of a scheduler.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_config.settings import TrainingConfig
from tasks.served.network import TextClassifier

START, END = 1 / 25, 1 / 25 / 1e4  # first and last share of one_cycle's peak
PLATEAU_FACTOR = 0.5


def build_optimizer(network: TextClassifier, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) over the trainable weights.

    The embedding matrix is a group of its own, with its own learning rate.
    """
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    matrix = network.embedding.weight
    others = [weight for weight in network.parameters() if weight.requires_grad and weight is not matrix]
    groups: list[dict[str, object]] = [{"params": others}]
    if matrix.requires_grad:
        groups.append({"params": [matrix], "lr": config.embedding_learning_rate or config.learning_rate})
    return kind(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def learning_rate_factor(config: TrainingConfig, *, step: int, steps: int, scores: Sequence[float] = ()) -> float:
    """Return the share of the peak learning rate for a step.

    `one_cycle` rises and falls along cosines (Smith & Topin 2018). `cosine` and `plateau` rise on a line; then the one
    falls to zero along a cosine, the other is halved by every epoch whose score is no better than those before.

    Args:
        config: says which schedule, and the share of steps in which the rate rises.
        step: steps taken so far, from 0.
        steps: of the whole training.
        scores: one per finished epoch, higher is better.
    """
    if config.schedule == "constant":
        return 1.0
    turn, last = config.warmup * steps - 1, steps - 1
    falling = min((step - turn) / max(last - turn, 1e-9), 1.0)
    rising = step <= turn and turn > 0
    if config.schedule == "one_cycle":
        return _cosine(START, 1.0, step / turn) if rising else _cosine(1.0, END, falling)
    warm = (step + 1) / (turn + 1) if rising else 1.0
    if config.schedule == "cosine":
        return warm if rising else _cosine(1.0, 0.0, falling)
    worse = sum(score <= max(scores[:number]) for number, score in enumerate(scores) if number)
    return warm * float(PLATEAU_FACTOR**worse)


def set_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Give every group its share of its peak and return that of the first group."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("peak", group["lr"]) * factor
    return float(optimizer.param_groups[0]["lr"])


def balance_classes(label_ids: np.ndarray, num_classes: int) -> np.ndarray:
    """Return float32[C]: the weight of a document of each class, so that all classes weigh the same."""
    counts = np.bincount(label_ids, minlength=num_classes)
    return (len(label_ids) / (num_classes * np.maximum(counts, 1))).astype(np.float32)


def average_weights(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], decay: float, step: int) -> None:
    """Move an average towards the weights; the decay rises to its value in the first steps (Tan & Le 2019)."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in average.items():
            value.lerp_(weights[name], share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def trained_rows(matrix: Tensor, input_ids: np.ndarray) -> nn.Parameter:
    """Return the rows of a matrix up to the last one that train documents (token ids `input_ids`) use, in its memory.

    Tokens that the vectors add to a vocabulary come last and have no gradient. Without them a step of a small corpus
    costs a fifth, and their rows stay as they are.
    """
    rows = int(input_ids.max(initial=0)) + 1
    return nn.Parameter(matrix.data[:rows], requires_grad=matrix.requires_grad)


def backpropagate(loss_of: Callable[[Tensor], Tensor], embedded: Tensor, *, adversarial: float = 0.0) -> float:
    """Add the gradient of a loss over embedded documents to the weights; return the loss.

    In adversarial training (Miyato et al. 2017) it is the mean of two losses: as it is, and with the embeddings of
    each document moved in the direction in which the loss rises fastest.

    Args:
        loss_of: gives the loss of embeddings; differentiable.
        embedded: float[B, T, E], the embeddings of documents, with the graph that made them.
        adversarial: how far a document's embeddings are moved, in the Euclidean norm; 0 leaves it out.
    """
    inputs = embedded.detach().requires_grad_(embedded.requires_grad or adversarial > 0)
    loss = loss_of(inputs) / 2 if adversarial else loss_of(inputs)
    loss.backward()  # type: ignore[no-untyped-call]
    value = loss.item()
    if adversarial and inputs.grad is not None:
        steepness = inputs.grad.flatten(1).norm(dim=1).clamp_min(1e-12)
        loss = loss_of(inputs + adversarial * inputs.grad / steepness[:, None, None]) / 2
        loss.backward()  # type: ignore[no-untyped-call]
        value += loss.item()
    if embedded.requires_grad:
        embedded.backward(inputs.grad)  # type: ignore[no-untyped-call]
    return value
