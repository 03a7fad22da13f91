"""A linear classifier over the tokens of a text and its pairs of neighbours."""

import torch
from torch import Tensor, nn

from .pooling import real_positions, weighted_sum

BIGRAM_SCALE = 4.0  # Adam moves each weight by about the learning rate: this makes a difference within a few epochs


class BagOfBigrams(nn.Module):
    """Linear classifier over the tokens of a text and its pairs of neighbours, each of which counts once.

    It is the wide part beside a deep one (Cheng et al. 2016), with the features of Wang & Manning (2012). Pairs are
    hashed (Weinberger et al. 2009). The sum is divided by the root of the number of features, so that logits of long
    texts are no larger.

    Args:
        num_embeddings: V.
        num_buckets: rows that pairs share.
        num_classes: C.
    """

    def __init__(self, num_embeddings: int, num_buckets: int, num_classes: int) -> None:
        super().__init__()
        self.num_embeddings, self.num_buckets = num_embeddings, num_buckets
        self.weight = nn.Parameter(torch.zeros(num_embeddings + num_buckets, num_classes))

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return logits float[B, C] for int64[B, T] token ids, padded at the end, and int64[B] lengths >= 1."""
        real = real_positions(lengths, input_ids.shape[1])
        features = torch.cat([input_ids, self._hash_pairs(input_ids)], dim=1)
        features = features.masked_fill(~torch.cat([real, real[:, 1:]], dim=1), -1).sort(dim=1).values
        new = features >= 0
        new[:, 1:] &= features[:, 1:] != features[:, :-1]
        counted = new.to(self.weight.dtype)
        summed = weighted_sum(nn.functional.embedding(features.clamp(min=0), self.weight), counted)
        return BIGRAM_SCALE * summed / counted.sum(dim=1, keepdim=True).sqrt()

    def _hash_pairs(self, input_ids: Tensor) -> Tensor:
        """Return int64[B, T - 1], the row of each token with the next: high bits of two multiplications in 64 bits."""
        mixed = input_ids[:, :-1] * 0x1E3779B97F4A7C15 + input_ids[:, 1:] * 0x42B2AE3D27D4EB4F
        mixed = (mixed ^ (mixed >> 32)) * 0x165667B19E3779F9
        return self.num_embeddings + (mixed >> 32) % self.num_buckets
