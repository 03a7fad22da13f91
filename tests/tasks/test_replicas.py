import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from tasks.network import TextClassifier
from tasks.replicas import MIN_DOCUMENTS, Replicas

VOCABULARY = 12


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(before)


def make_network(**changes: float) -> TextClassifier:
    network = TextClassifier(
        num_embeddings=VOCABULARY, embedding_dim=4, num_classes=2, padding_idx=0, hidden_size=5, bigram_buckets=7,
        **changes,
    ).double()  # fmt: skip
    network.reset_weights(torch.Generator().manual_seed(0))
    return network


def loss_of(network: TextClassifier, generator: torch.Generator, documents: np.ndarray) -> float:
    """Add the gradient of the summed loss over documents that are made of their numbers."""
    input_ids = torch.from_numpy(documents)[:, None] % (VOCABULARY - 2) + torch.tensor([1, 2])
    logits = network(input_ids, torch.full((len(documents),), 2), generator)
    loss = torch.nn.functional.cross_entropy(logits, torch.from_numpy(documents) % 2, reduction="sum")
    loss.backward()
    return loss.item()


@pytest.mark.parametrize(("batch_size", "count"), [(3 * MIN_DOCUMENTS, 3), (3 * MIN_DOCUMENTS - 1, 2), (1, 1)])
def test_there_are_as_many_as_threads_and_documents_allow(batch_size: int, count: int) -> None:
    assert len(Replicas(make_network(), batch_size).networks) == count


@pytest.mark.parametrize("count", [48, 47, 2, 1])
def test_loss_and_gradients_are_those_of_one_network(count: int) -> None:
    alone, network, documents = make_network(), make_network(), np.arange(count)
    expected = loss_of(alone, torch.Generator(), documents)
    replicas = Replicas(network, 48)
    for _ in range(2):  # nothing is left over from the first time
        network.zero_grad()
        assert sum(replicas.run(loss_of, documents)) == pytest.approx(expected, abs=1e-12)
        replicas.sum_gradients()
        for got, wanted in zip(network.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(got.grad, wanted.grad, rtol=0, atol=1e-12)


def test_copies_see_every_change_of_the_weights() -> None:
    network = make_network()
    replicas = Replicas(network, 48)
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(1.0)
    for copied in replicas.networks[1:]:
        for weight, shared in zip(network.parameters(), copied.parameters(), strict=True):
            assert weight.data_ptr() == shared.data_ptr()


def test_each_copy_draws_its_own_numbers_again_and_again() -> None:
    replicas, documents = Replicas(make_network(), 48), np.arange(48)

    def draw(_network: TextClassifier, generator: torch.Generator, _documents: np.ndarray) -> tuple[float, ...]:
        return tuple(torch.rand(3, generator=generator).tolist())

    seen = []
    for numbers in ((0, 1), (0, 1), (0, 2), (1, 1)):
        replicas.seed(*numbers)
        seen.append(replicas.run(draw, documents))
    assert seen[0] == seen[1]
    assert len({drawn for results in seen for drawn in results}) == 9


def test_parts_are_done_in_threads_of_their_own_each_with_its_share_of_torchs() -> None:
    replicas = Replicas(make_network(), 48)
    meeting = threading.Barrier(3, timeout=20)

    def meet(_network: TextClassifier, _generator: torch.Generator, documents: np.ndarray) -> tuple[int, int, int]:
        meeting.wait()
        return threading.get_ident(), torch.get_num_threads(), len(documents)

    idents, threads, parts = zip(*replicas.run(meet, np.arange(47)), strict=True)
    assert len(set(idents)) == 3
    assert idents[0] == threading.get_ident()
    assert threads == (1, 1, 1)
    assert parts == (16, 16, 15)
    assert torch.get_num_threads() == 3
    replicas.close()


@pytest.mark.parametrize("place", range(3))
def test_an_error_in_any_part_is_raised_when_no_part_is_at_work(place: int) -> None:
    replicas, done = Replicas(make_network(), 48), []

    def fail(_network: TextClassifier, _generator: torch.Generator, documents: np.ndarray) -> None:
        done.append(documents[0])
        if documents[0] == place:
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        replicas.run(fail, np.arange(48))
    assert sorted(done) == [0, 1, 2]
