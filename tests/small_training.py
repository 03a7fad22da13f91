"""A network of a few weights and documents that it can learn, for tests of training."""

import random

import torch
from torch import Tensor

from pipeline_config.settings import TrainingConfig
from tasks.batches.encoded_split import EncodedSplit
from tasks.served.network import TextClassifier
from tests.encoded_splits import make_split

CLASSES = 2
FULL_DROPOUT = {"dropout": 0.3, "embedding_dropout": 0.2, "word_dropout": 0.1, "recurrent_dropout": 0.2}
VOCABULARY = 12
POISON = VOCABULARY - 1  # a token id that `draw_split` does not use


def draw_split(count: int = 24, *, seed: int = 0, first_doc_id: int = 100) -> EncodedSplit:
    """Documents of class 0 have tokens 2 to 5, those of class 1 have 6 to 9, both have 1; lengths 1 to 6."""
    generator = random.Random(seed)
    documents, label_ids = [], []
    for number in range(count):
        label = number % CLASSES
        more = generator.choices([1, 2 + 4 * label], k=generator.randrange(6))
        documents.append([2 + 4 * label + generator.randrange(4), *more])
        label_ids.append(label)
    return make_split(documents, label_ids, bucket_width=4, first_doc_id=first_doc_id)


def poison(split: EncodedSplit, document: int) -> EncodedSplit:
    """Give a document a first token that no other document has."""
    split.input_ids[split.offsets[document]] = POISON
    return split


def make_network(seed: int = 0, **changes) -> TextClassifier:
    settings = {
        "num_embeddings": VOCABULARY, "embedding_dim": 4, "num_classes": CLASSES, "padding_idx": 0, "unk_idx": 1,
        "hidden_size": 5, "num_layers": 1, "bidirectional": True, "pooling": "mean_max", "dropout": 0.1,
    }  # fmt: skip
    network = TextClassifier(**{**settings, **changes})
    network.reset_weights(torch.Generator().manual_seed(seed))
    return network


def configure(**changes) -> TrainingConfig:
    fixed = {
        "epochs": 2, "learning_rate": 0.02, "device": "cpu", "precision": "fp32", "log_every_steps": 1,
        "schedule": "one_cycle", "warmup": 0.3, "ema_decay": None, "patience": 3,
    }  # fmt: skip
    return TrainingConfig(**{**fixed, **changes})


def weights_of(network: TextClassifier) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.state_dict().items()}


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Recorder:
    """Takes the metrics that `fit` hands out."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], int]] = []

    def __call__(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append((metrics, step))

    def series(self, name: str) -> list[tuple[int, float]]:
        return [(step, metrics[name]) for metrics, step in self.calls if name in metrics]
