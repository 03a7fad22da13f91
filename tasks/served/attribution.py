"""How much each token of a text speaks for a class: integrated gradients (Sundararajan et al. 2017) of the network.

The logits are followed along the straight line from zero embeddings, which is the embedding of padding, to those of the
text. The bag of bigrams takes ids, not embeddings, and is linear: the weight of a token is divided among its
occurrences, that of a pair between its tokens; likewise those of the linear model. It imports only modules of this
package, so that a registered model can carry it unchanged.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .bigrams import BIGRAM_SCALE, BagOfBigrams
from .linear import LinearModel
from .network import TextClassifier

STEPS = 32
_TOLERANCE = 0.02  # of the change of the logit; with more, the number of steps is doubled
_MOST_TOKENS = 16_384  # steps times tokens of a text: a second or two
_BATCH = 64


def weigh_tokens(
    tokens: Sequence[str],
    positions: Sequence[int],
    input_ids: Sequence[int],
    target: int,
    *,
    network: TextClassifier | None,
    temperature: float,
    linear: LinearModel | None,
    linear_temperature: float,
) -> list[float]:
    """Return the weights of tokens of a text for a class, in a model of a network, of a linear model, or of both.

    They are those of both parts, each divided by its temperature, and so sum to the change of the logit of the answer.

    Args:
        tokens: all tokens of the text; the linear model reads them all.
        positions: in `tokens`, of those that are left by truncation, whose weights are returned.
        input_ids: the ids of these.
        target: id of the class.
        network: in evaluation mode; None without one.
        temperature: divides the logits of the network.
        linear: None without one.
        linear_temperature: divides the logits of the linear model.
    """
    weights = np.zeros(len(positions))
    if network is not None and len(positions):
        weights += np.array(attribute_tokens(network, list(map(int, input_ids)), target)) / temperature
    if linear is not None and len(positions):
        weights += np.array(linear.attribute(tokens, target))[list(positions)] / linear_temperature
    return [float(weight) for weight in weights]


def attribute_tokens(network: TextClassifier, input_ids: list[int], target: int) -> list[float]:
    """Return the weight of each token for a class: above 0 it speaks for the class, below 0 against it.

    Looked at is the logit of the class less the mean logit of all classes, because only differences of logits change
    an answer. The weights sum to its change from a text of zero embeddings, up to 2 % or 0.01; for texts of more than
    some 250 tokens they may lack more of it, because the number of steps has a bound.

    Args:
        network: in evaluation mode.
        input_ids: of one text, without padding.
        target: id of the class.
    """
    ids = torch.tensor([input_ids], device=network.linear.weight.device)
    steps = STEPS
    while True:
        weights, missing = _integrate(network, ids, target, steps)
        change = abs(float(weights.sum()) + missing)
        if abs(missing) <= max(_TOLERANCE * change, 0.01) or 2 * steps * len(input_ids) > _MOST_TOKENS:
            break
        steps *= 2
    if network.bigrams is not None:
        weights = weights + _divide_bigrams(network.bigrams, ids[0], target)
    return [float(weight) for weight in weights]


def _integrate(network: TextClassifier, ids: Tensor, target: int, steps: int) -> tuple[Tensor, float]:
    """Return the weights of the deep part, float64[T], and what their sum lacks of the change of its logit.

    The integral is a sum by the rule of Gauss and Legendre, which needs few steps where the logit is smooth.
    """
    embedded = network.embedding(ids).detach()
    total = torch.zeros_like(embedded[0], dtype=torch.float64)
    nodes, shares = np.polynomial.legendre.leggauss(steps)
    points = torch.tensor((nodes + 1) / 2, device=ids.device, dtype=embedded.dtype)
    parts = torch.tensor(shares / 2, device=ids.device)
    # cuDNN computes no gradients of an LSTM in evaluation mode
    with torch.enable_grad(), torch.backends.cudnn.flags(enabled=False):
        for batch, part in zip(torch.split(points, _BATCH), torch.split(parts, _BATCH), strict=True):
            moved = (batch[:, None, None] * embedded).requires_grad_()
            (gradient,) = torch.autograd.grad(_deep_logit(network, moved, target).sum(), moved)
            total += (part[:, None, None] * gradient.double()).sum(dim=0)
    with torch.no_grad():
        ends = _deep_logit(network, torch.cat([embedded, torch.zeros_like(embedded)]), target).double()
    weights = (embedded[0].double() * total).sum(dim=1)
    return weights, float(ends[0] - ends[1] - weights.sum())


def _deep_logit(network: TextClassifier, embedded: Tensor, target: int) -> Tensor:
    """Return float[B] for embeddings float[B, T, E]: the logit of a class less the mean, without the bigrams."""
    lengths = torch.full((len(embedded),), embedded.shape[1], device=embedded.device)
    return _center(network.classify_embedded(embedded, lengths), target)


def _center(logits: Tensor, target: int) -> Tensor:
    return logits[..., target] - logits.mean(dim=-1)


def _divide_bigrams(bigrams: BagOfBigrams, ids: Tensor, target: int) -> Tensor:
    """Return the weights float64[T] of the bag of bigrams, which sum to its logit."""
    pairs = bigrams.hash_pairs(ids[None])[0]
    features, counts = torch.unique(torch.cat([ids, pairs]), return_counts=True)
    scale = BIGRAM_SCALE / len(features) ** 0.5
    share = dict(zip(features.tolist(), (scale / counts).tolist(), strict=True))
    values = _center(bigrams.weight.detach().double(), target)
    weights = torch.tensor([share[i] * float(values[i]) for i in ids.tolist()], dtype=torch.float64, device=ids.device)
    of_pairs = [share[i] * float(values[i]) / 2 for i in pairs.tolist()]
    halves = torch.tensor(of_pairs, dtype=torch.float64, device=ids.device)
    weights[:-1] += halves
    weights[1:] += halves
    return weights
