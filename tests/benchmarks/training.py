"""Time one pass of training, ours against the tutorial's way, on the same documents, network and optimizer.

    python tests/benchmarks/training.py [--lengths short|long] [--documents N] [--hidden H]

The tutorial's way: batches in random order, `pack_padded_sequence`, a bidirectional `nn.LSTM`, gather of the last
real output. Ours: length buckets, padding, no packing. Prints real tokens per second of each and their ratio, the
median of alternating rounds. Documents are generated: `short` has the lengths of tweets, `long` those of film
reviews cut at 400 tokens.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from tasks.batching import assign_buckets, draw_boundaries, padding_efficiency, plan_batches
from tasks.bucketing import EncodedSplit
from tasks.network import TextClassifier
from tasks.scores import to_tensors

VOCABULARY, EMBEDDING, CLASSES, BATCH, ROUNDS = 15_000, 50, 3, 64, 3


class Packed(nn.Module):
    """The tutorial's model."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING, padding_idx=0)
        self.lstm = nn.LSTM(EMBEDDING, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, CLASSES)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(input_ids), lengths, batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        return self.linear(torch.cat([hidden[0], hidden[1]], dim=1))


def generate(kind: str, documents: int) -> EncodedSplit:
    """Return documents with the length distribution of a kind of text."""
    draw = np.random.default_rng(0)
    if kind == "short":
        lengths = np.clip(draw.normal(19, 6, documents).round(), 2, 60).astype(np.int64)
    else:
        lengths = np.clip(draw.lognormal(5.4, 0.65, documents).round(), 10, 400).astype(np.int64)
    boundaries = draw_boundaries(lengths, scheme="quantile", num_buckets=16)
    return EncodedSplit(
        input_ids=draw.integers(2, VOCABULARY, lengths.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        label_ids=draw.integers(0, CLASSES, documents).astype(np.int32),
        buckets=assign_buckets(lengths, boundaries).astype(np.int32),
        doc_ids=np.arange(documents),
    )


def time_pass(network: nn.Module, split: EncodedSplit, plan: list[np.ndarray]) -> float:
    """Return real tokens per second of one pass over the documents."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    label_ids = torch.from_numpy(split.label_ids.astype(np.int64))
    started = time.perf_counter()
    for documents in plan:
        loss = nn.functional.cross_entropy(
            network(*to_tensors(split, documents, torch.device("cpu"))), label_ids[documents]
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(split.lengths.sum()) / (time.perf_counter() - started)


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", choices=("short", "long"), default="long")
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--hidden", type=int, default=128)
    options = parser.parse_args()
    torch.manual_seed(0)
    split = generate(options.lengths, options.documents)
    random_plan = plan_batches(np.zeros(len(split), np.int32), batch_size=BATCH, seed=0, epoch=0)
    bucket_plan = plan_batches(split.buckets, batch_size=BATCH, seed=0, epoch=0)
    padded = TextClassifier(
        num_embeddings=VOCABULARY, embedding_dim=EMBEDDING, num_classes=CLASSES, padding_idx=0,
        hidden_size=options.hidden, pooling="last",
    )  # fmt: skip
    packed = Packed(options.hidden)
    ways: dict[str, Callable[[], float]] = {
        "tutorial: random batches, packed": lambda: time_pass(packed, split, random_plan),
        "bucketed, packed": lambda: time_pass(packed, split, bucket_plan),
        "gloveflow: bucketed, padded": lambda: time_pass(padded, split, bucket_plan),
    }
    for run in ways.values():
        run()  # warm-up
    rounds = [{name: run() for name, run in ways.items()} for _ in range(ROUNDS)]
    first = next(iter(ways))
    print(f"{'':36} tokens/s   ratio   padding efficiency")
    for name in ways:
        speed = statistics.median(r[name] for r in rounds)
        ratio = statistics.median(r[name] / r[first] for r in rounds)
        efficiency = padding_efficiency(split.lengths, random_plan if name == first else bucket_plan)
        print(f"{name:36} {speed:8,.0f} {ratio:7.1f}   {efficiency:.3f}")


if __name__ == "__main__":
    main()
