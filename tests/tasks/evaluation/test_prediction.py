import numpy as np
import pytest
import torch
from torch import nn

from tasks.evaluation import prediction
from tasks.evaluation.prediction import predict_probabilities, to_tensors
from tasks.served.network import TextClassifier
from tests.encoded_splits import make_split


@pytest.fixture
def network() -> TextClassifier:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        return TextClassifier(
            num_embeddings=9,
            embedding_dim=4,
            num_classes=3,
            padding_idx=0,
            unk_idx=1,
            hidden_size=5,
            num_layers=1,
            bidirectional=True,
            pooling="last",
            dropout=0.5,
        ).double()


DOCUMENTS = [[2, 3, 4], [5], [6, 7, 8, 2, 3], [1, 1], [4]]


class TestPredictProbabilities:
    def test_rows_are_the_softmax_of_each_documents_logits_in_document_order(self, network):
        got = predict_probabilities(network, make_split(DOCUMENTS))
        expected = [
            nn.functional.softmax(network(torch.tensor([ids]), torch.tensor([len(ids)]))[0], dim=0).tolist()
            for ids in DOCUMENTS
        ]
        assert got.dtype == np.float64
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-10)
        np.testing.assert_allclose(got.sum(axis=1), 1.0, rtol=0, atol=1e-12)

    @pytest.mark.parametrize("size", [1, 2, 5])
    def test_the_size_of_the_batches_does_not_matter(self, network, monkeypatch, size):
        expected = predict_probabilities(network, make_split(DOCUMENTS))
        monkeypatch.setattr(prediction, "EVALUATION_BATCH", size)
        np.testing.assert_allclose(predict_probabilities(network, make_split(DOCUMENTS)), expected, rtol=0, atol=1e-10)

    def test_dropout_is_off_and_no_gradient_is_kept(self, network):
        network.train()
        one, two = (predict_probabilities(network, make_split(DOCUMENTS)) for _ in range(2))
        assert np.array_equal(one, two)
        assert all(weight.grad is None for weight in network.parameters())

    def test_large_logits_do_not_overflow(self, network):
        with torch.no_grad():
            network.linear.weight.zero_()
            network.linear.bias.copy_(torch.tensor([0.0, 2000.0, 0.0]))
        assert predict_probabilities(network, make_split([[2]])).tolist() == [[0.0, 1.0, 0.0]]


def test_documents_become_padded_ids_and_lengths():
    input_ids, lengths = to_tensors(make_split(DOCUMENTS), np.array([3, 0]), torch.device("cpu"))
    assert input_ids.tolist() == [[1, 1, 0], [2, 3, 4]]
    assert lengths.tolist() == [2, 3]
    assert (input_ids.dtype, lengths.dtype) == (torch.int64, torch.int64)
