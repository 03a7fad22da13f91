"""The bag of bigrams: logits by hand, and hashing that is no worse than chance."""

import itertools

import pytest
import torch
from torch import nn

from tasks.served.bigrams import BIGRAM_SCALE, BagOfBigrams
from tests.tasks.served.networks import VOCABULARY, largest_difference, random_documents

pytestmark = pytest.mark.usefixtures("one_thread", "seeded")


class TestBagOfBigrams:
    def bag(self, buckets: int = 50) -> BagOfBigrams:
        bag = BagOfBigrams(VOCABULARY, buckets, 3).double()
        nn.init.normal_(bag.weight)
        return bag

    def row_of(self, bag: BagOfBigrams, pair: tuple[int, int]) -> int:
        return int(bag.hash_pairs(torch.tensor([pair])))

    def test_logits_are_the_weights_of_what_is_there_each_counted_once(self):
        bag, (input_ids, lengths) = self.bag(), random_documents(30, 40)
        for logits, row, length in zip(bag(input_ids, lengths), input_ids.tolist(), lengths.tolist(), strict=True):
            tokens = row[:length]
            there = {*tokens, *(self.row_of(bag, pair) for pair in itertools.pairwise(tokens))}
            expected = BIGRAM_SCALE * bag.weight[sorted(there)].sum(dim=0) / len(there) ** 0.5
            assert largest_difference(logits, expected) < 1e-10

    def test_a_pair_is_told_from_its_mirror_image_and_from_its_tokens(self):
        bag = self.bag(1 << 18)
        pairs = torch.cartesian_prod(torch.arange(VOCABULARY), torch.arange(VOCABULARY))
        rows, mirrored = bag.hash_pairs(pairs), bag.hash_pairs(pairs.flip(1))
        assert ((rows == mirrored) == (pairs[:, :1] == pairs[:, 1:])).all()
        assert rows.min() >= VOCABULARY
        assert rows.max() < len(bag.weight)

    @pytest.mark.parametrize("buckets", [1 << 18, 100_003])
    @pytest.mark.parametrize("step", [1, 64, 911])
    def test_pairs_share_rows_no_more_than_by_chance(self, buckets, step):
        tokens = torch.arange(400) * step
        pairs = torch.cartesian_prod(tokens, tokens)
        filled = len(BagOfBigrams(400 * step, buckets, 2).hash_pairs(pairs).unique())
        assert filled / buckets > 0.98 * (1 - (1 - 1 / buckets) ** len(pairs))
