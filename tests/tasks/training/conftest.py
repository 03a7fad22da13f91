"""Fixtures that replace a part of a training."""

import pytest
import torch
from torch import Tensor

from tasks.batches.encoded_split import EncodedSplit
from tasks.served.network import TextClassifier
from tasks.training import training_state
from tests.small_training import weights_of


@pytest.fixture
def script_macro_f1(monkeypatch):
    """Let validation report given macro F1 values, epoch by epoch; returns the weights seen at each."""

    def script(*values: float) -> list[dict[str, Tensor]]:
        seen: list[dict[str, Tensor]] = []

        def scripted(network: TextClassifier, _split: EncodedSplit) -> dict[str, float]:
            seen.append(weights_of(network))
            scores = {"validation_loss": 1.0, "validation_accuracy": 0.5}
            return {**scores, "validation_macro_f1": values[len(seen) - 1]}

        monkeypatch.setattr(training_state, "validate", scripted)
        return seen

    return script


@pytest.fixture
def learn_by_sgd(monkeypatch):
    """Take plain gradient steps of size 1, so that the change of the weights is the gradient."""
    monkeypatch.setattr(
        training_state, "build_optimizers", lambda network, _config: [torch.optim.SGD(network.parameters(), lr=1.0)]
    )
