"""How weights are updated: optimizer, learning rate schedules, backpropagation, moving average.

Takes networks and numbers; touches no file. A learning rate is a function of the step and of the validation scores so
far, so a training that resumes from a checkpoint needs no scheduler state.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_config.settings import TrainingConfig
from tasks.served.network import TextClassifier

START, END = 1 / 25, 1 / 25 / 1e4  # learning rates of one_cycle at its first and last step, as shares of the peak
PLATEAU_FACTOR = 0.5
WIDE_RATE = 0.04  # peak learning rate of the bag of bigrams


def build_optimizers(network: TextClassifier, config: TrainingConfig) -> list[torch.optim.Optimizer]:
    """Return Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) over the trainable weights.

    The embedding matrix is a parameter group with its own learning rate. The bag of bigrams, if there is one, has an
    optimizer of its own: Adagrad (Duchi et al. 2011), which changes only the rows that a step uses.
    """
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    matrix, table = network.embedding.weight, sparse_weight(network)
    apart = {id(matrix), id(table)}
    others = [weight for weight in network.parameters() if weight.requires_grad and id(weight) not in apart]
    groups: list[dict[str, object]] = [{"params": others}]
    if matrix.requires_grad:
        groups.append({"params": [matrix], "lr": config.embedding_learning_rate or config.learning_rate})
    deep = kind(groups, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)
    if table is None:
        return [deep]
    torch.sparse.check_sparse_tensor_invariants.disable()  # type: ignore[no-untyped-call]  # torch warns if this is not said
    return [deep, torch.optim.Adagrad([table], lr=WIDE_RATE)]


def sparse_weight(network: TextClassifier) -> nn.Parameter | None:
    """Return the weights whose gradient is sparse, those of the bag of bigrams, or None."""
    return None if network.bigrams is None else network.bigrams.weight


def clip_gradients(weights: Iterable[Tensor], largest: float | None) -> float:
    """Scale gradients, dense or sparse, so that their common norm is at most `largest`; return the norm before."""
    gradients = []
    for weight in weights:
        if weight.grad is not None and weight.grad.is_sparse:
            weight.grad = weight.grad.coalesce()
        if weight.grad is not None:
            gradients.append(weight.grad.values() if weight.grad.is_sparse else weight.grad)
    norm = nn.utils.get_total_norm(gradients)
    torch._foreach_mul_(gradients, ((largest or math.inf) / (norm + 1e-6)).clamp(max=1.0))
    return float(norm)


def learning_rate_factor(config: TrainingConfig, *, step: int, steps: int, scores: Sequence[float] = ()) -> float:
    """Return the learning rate of a step as a share of the peak.

    `one_cycle` rises and falls along cosines (Smith & Topin 2018). `cosine` and `plateau` rise linearly. Then `cosine`
    falls to zero along a cosine, and `plateau` is halved by every epoch whose score is no better than all before it.

    Args:
        config: the schedule, and the share of steps in which the rate rises.
        step: number of steps taken so far.
        steps: number of steps of the whole training.
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


def set_learning_rates(optimizers: Sequence[torch.optim.Optimizer], factor: float) -> float:
    """Set the rate of every parameter group to a share of its peak, and return the rate of the first group."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group in groups:
        group["lr"] = group.setdefault("peak", group["lr"]) * factor
    return float(groups[0]["lr"])


def balance_classes(label_ids: np.ndarray, num_classes: int) -> np.ndarray:
    """Return float32[C]: the weight of a document of each class with which all classes have the same total weight."""
    counts = np.bincount(label_ids, minlength=num_classes)
    return (len(label_ids) / (num_classes * np.maximum(counts, 1))).astype(np.float32)


def average_weights(average: Mapping[str, Tensor], weights: Mapping[str, Tensor], *, decay: float, step: int) -> None:
    """Update a moving average of the weights; in the first steps its decay rises to `decay` (Tan & Le 2019)."""
    share = 1 - min(decay, (1 + step) / (10 + step))
    with torch.no_grad():
        for name, value in average.items():
            value.lerp_(weights[name], share)


def _cosine(start: float, end: float, share: float) -> float:
    return end + (start - end) / 2 * (1 + math.cos(math.pi * share))


def take_trained_rows(matrix: Tensor, input_ids: np.ndarray) -> nn.Parameter:
    """Return the rows of a matrix up to the last one that the train documents use, as a view of its memory.

    The rows after it are of tokens that the vectors added to the vocabulary. They have no gradient. Without them a step
    on a small corpus takes a fifth of the time, and weight decay leaves them unchanged.

    Args:
        matrix: float[V, E], the embeddings.
        input_ids: token ids of the train documents.
    """
    rows = int(input_ids.max(initial=0)) + 1
    return nn.Parameter(matrix.data[:rows], requires_grad=matrix.requires_grad)


def backpropagate(loss_of: Callable[[Tensor], Tensor], embedded: Tensor, *, adversarial: float = 0.0) -> float:
    """Add the gradient of a loss over embedded documents to the gradients of the weights, and return the loss.

    In adversarial training (Miyato et al. 2017) the loss is the mean of two: that of the embeddings as they are, and
    that of the embeddings of each document moved in the direction in which the loss rises fastest.

    Args:
        loss_of: differentiable function from embeddings to their loss.
        embedded: float[B, T, E], the embeddings of documents, with their autograd graph.
        adversarial: Euclidean distance by which a document's embeddings are moved; 0: off.
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
