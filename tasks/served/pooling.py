"""Pooling over the real positions of padded sequences."""

import torch
from torch import Tensor


def real_positions(lengths: Tensor, width: int) -> Tensor:
    """Return bool[B, T]: True where a position holds a token, False where it holds padding."""
    return torch.arange(width, device=lengths.device) < lengths.unsqueeze(1)


def pool_mean(values: Tensor, lengths: Tensor) -> Tensor:
    """Return float[B, X]: the mean over the real positions of float[B, T, X]."""
    real = real_positions(lengths, values.shape[1]).to(values.dtype)
    return weighted_sum(values, real) / lengths.unsqueeze(1)


def pool_max(values: Tensor, lengths: Tensor) -> Tensor:
    """Return float[B, X]: the maximum over the real positions of float[B, T, X]."""
    padding = ~real_positions(lengths, values.shape[1]).unsqueeze(2)
    return (values + torch.zeros_like(padding, dtype=values.dtype).masked_fill(padding, -torch.inf)).max(dim=1).values


def weighted_sum(outputs: Tensor, weights: Tensor) -> Tensor:
    """Return float[B, H]: the sum of float[B, T, H] over T, weighted by float[B, T]."""
    return torch.bmm(weights.unsqueeze(1), outputs).squeeze(1)
