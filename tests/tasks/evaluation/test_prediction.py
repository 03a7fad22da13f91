import math

import numpy as np
import pytest
import torch
from torch import nn

from tasks.batches.encoded_split import EncodedSplit
from tasks.evaluation import prediction
from tasks.evaluation.metrics import score_predictions
from tasks.evaluation.prediction import predict_probabilities, to_tensors
from tasks.served.network import TextClassifier


def make_split(documents: list[list[int]], label_ids: list[int] | None = None) -> EncodedSplit:
    count = len(documents)
    return EncodedSplit(
        input_ids=np.concatenate(documents).astype(np.int32),
        offsets=np.cumsum([0, *map(len, documents)]),
        label_ids=np.array(label_ids or [0] * count, np.int32),
        buckets=np.zeros(count, np.int32),
        doc_ids=np.arange(count),
        scheme="none",
        token_budget=None,
    )


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


class TestScorePredictions:
    def test_numbers_by_hand(self):
        label_ids = np.array([0, 0, 1, 2])
        probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
        # predicted 0, 1, 1, 2; class 0: precision 1, recall 1/2; class 1: precision 1/2, recall 1; class 2: both 1
        expected = {
            "accuracy": 3 / 4,
            "macro_f1": (2 / 3 + 2 / 3 + 1) / 3,
            "log_loss": -(math.log(0.7) + math.log(0.1) + math.log(0.5) + math.log(0.5)) / 4,
        }
        assert score_predictions(label_ids, probabilities) == pytest.approx(expected, abs=1e-12)

    def test_a_class_that_is_never_predicted_counts_zero(self):
        label_ids = np.array([0, 1, 2, 2])
        probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.3, 0.1], [0.3, 0.5, 0.2]])
        # predicted 0, 1, 0, 1: classes 0 and 1 have precision 1/2 and recall 1
        assert score_predictions(label_ids, probabilities)["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)

    def test_a_class_without_documents_counts_zero_and_may_be_absent(self):
        scored = score_predictions(np.array([0, 1]), np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]))
        assert scored == pytest.approx({"accuracy": 1.0, "macro_f1": 2 / 3, "log_loss": -math.log(0.8)})

    def test_one_document_is_scored(self):
        scored = score_predictions(np.array([1]), np.array([[0.75, 0.25]]))
        assert scored == pytest.approx({"accuracy": 0.0, "macro_f1": 0.0, "log_loss": -math.log(0.25)})

    def test_a_certain_mistake_has_a_large_but_finite_log_loss(self):
        assert 30 < score_predictions(np.array([1, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]))["log_loss"] * 2 < 40

    def test_of_equal_probabilities_the_first_class_wins(self):
        assert score_predictions(np.array([0]), np.array([[0.5, 0.5]]))["accuracy"] == 1.0


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
