"""A linear classifier over the tokens and token bigrams of a text."""

import torch
from torch import Tensor, nn

from .pooling import real_positions, weighted_sum

BIGRAM_SCALE = 4.0  # Adam moves a weight by about the learning rate per step: without this the logits grow too slowly


class BagOfBigrams(nn.Module):
    """Linear classifier over the tokens and bigrams of a text; each distinct one counts once.

    This is the wide part of a wide-and-deep model (Cheng et al. 2016) with the binary features of Wang & Manning
    (2012). Bigrams are hashed (Weinberger et al. 2009). The sum is divided by the square root of the number of
    features, so that long texts do not get larger logits. The gradient of the weights is sparse: a step costs what the
    features of its texts cost, not what the table would.

    Args:
        num_embeddings: V.
        num_buckets: rows for the bigrams; bigrams with the same hash share a row.
        num_classes: C.
    """

    def __init__(self, num_embeddings: int, num_buckets: int, num_classes: int) -> None:
        super().__init__()
        self.num_embeddings, self.num_buckets = num_embeddings, num_buckets
        self.weight = nn.Parameter(torch.zeros(num_embeddings + num_buckets, num_classes))

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Return logits float[B, C] for int64[B, T] token ids, padded at the end, and int64[B] lengths >= 1."""
        real = real_positions(lengths, input_ids.shape[1])
        features = torch.cat([input_ids, self.hash_pairs(input_ids)], dim=1)
        features = features.masked_fill(~torch.cat([real, real[:, 1:]], dim=1), -1).sort(dim=1).values
        new = features >= 0
        new[:, 1:] &= features[:, 1:] != features[:, :-1]
        counted = new.to(self.weight.dtype)
        summed = weighted_sum(nn.functional.embedding(features.clamp(min=0), self.weight, sparse=True), counted)
        return BIGRAM_SCALE * summed / counted.sum(dim=1, keepdim=True).sqrt()

    def hash_pairs(self, input_ids: Tensor) -> Tensor:
        """Return int64[B, T - 1], the row of each token and its successor.

        The hash is the high half of two 64-bit multiplications, since the low bits of a product mix poorly.
        """
        mixed = input_ids[:, :-1] * 0x1E3779B97F4A7C15 + input_ids[:, 1:] * 0x42B2AE3D27D4EB4F
        mixed = (mixed ^ (mixed >> 32)) * 0x165667B19E3779F9
        return self.num_embeddings + (mixed >> 32) % self.num_buckets
