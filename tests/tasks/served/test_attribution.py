import numpy as np
import pytest
import torch
from torch import Generator

from tasks.served.attribution import attribute_tokens
from tasks.served.network import POOLINGS, TextClassifier

IDS = [5, 6, 7, 7, 5, 6, 9, 1, 30] * 3


def make_network(pooling: str, **options: object) -> TextClassifier:
    network = TextClassifier(
        num_embeddings=40, embedding_dim=10, num_classes=3, padding_idx=0, hidden_size=8, num_layers=1, bidirectional=True,
        pooling=pooling, unk_idx=1, **options,
    )  # fmt: skip
    generator = Generator().manual_seed(3)
    network.reset_weights(generator)
    with torch.no_grad():
        network.linear.weight *= 4
        if network.bigrams is not None:
            network.bigrams.weight.normal_(generator=generator)
    return network.eval()


def centered(logits: torch.Tensor, target: int) -> float:
    return float(logits[0, target] - logits[0].mean())


@pytest.mark.parametrize("buckets", [0, 64])
@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("ids", [IDS, [4]], ids=["long", "one token"])
def test_weights_sum_to_the_change_of_the_logit(pooling, buckets, ids):
    network = make_network(pooling, bigram_buckets=buckets, pool_embeddings=True, layer_norm=pooling == "mean")
    weights = attribute_tokens(network, ids, 2)
    with torch.no_grad():
        lengths = torch.tensor([len(ids)])
        whole = centered(network(torch.tensor([ids]), lengths), 2)
        nothing = centered(network.classify_embedded(torch.zeros(1, len(ids), 10), lengths), 2)
    assert len(weights) == len(ids)
    assert sum(weights) == pytest.approx(whole - nothing, rel=0.02, abs=0.011)


def test_weights_of_a_linear_network_are_its_terms():
    # the mean of the embeddings decides alone: each token has its own term of the logit
    network = make_network("mean", pool_embeddings=True)
    with torch.no_grad():
        network.linear.weight[:, :16] = 0  # the outputs of the LSTM
        network.linear.weight[:, 26:] = 0  # the maximum of the embeddings
        vectors = network.embedding.weight[IDS].double()
        part = network.linear.weight[:, 16:26].double()
        expected = vectors @ (part[1] - part.mean(dim=0)) / len(IDS)
    np.testing.assert_allclose(attribute_tokens(network, IDS, 1), expected.numpy(), atol=1e-6)


def test_bigrams_are_divided_among_tokens_and_pairs():
    network = make_network("mean", bigram_buckets=64)
    with torch.no_grad():
        network.linear.weight.zero_()
        network.bigrams.weight.zero_()
        network.bigrams.weight[5, 0] = 3.0
    # ids 5, 6, 5: features 5, 6, (5, 6), (6, 5), each counted once and divided by sqrt(4); the scale is 4; the mean
    # logit is a third of the logit, and token 5 occurs twice
    assert attribute_tokens(network, [5, 6, 5], 0) == pytest.approx([2.0, 0.0, 2.0])


def test_no_gradient_stays_and_a_second_call_gives_the_same():
    network = make_network("mean_max")
    first = attribute_tokens(network, IDS, 0)
    assert all(parameter.grad is None for parameter in network.parameters())
    assert attribute_tokens(network, IDS, 0) == first
