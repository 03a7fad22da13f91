"""Time training steps of this project and of other loops, on the same documents, network and optimizer.

    python tests/benchmarks/training.py [--lengths long|short|FILE.parquet] [--batches N] [--hidden H] [--threads N]
                                        [--rivals] [--only NAME...]

- tutorial: batches in random order, `pack_padded_sequence`, a bidirectional `nn.LSTM`, gather of the last real output
- torchtext: the same network over `BucketIterator` batches, sorted within
- tutorial, denormals as zero: the first with `torch.set_flush_denormal(True)`, which users seldom call, in the project's
  torch thread
- gloveflow: our buckets and network, and the whole step of the project's loop: clipping, checks for finite numbers,
  metrics; in float32, in bfloat16 where the processor's LSTM works in it, and in float32 with all kinds of dropout

Lengths are those of the column `text` of a Parquet file (in `basic_english` tokens, cut at 400), or generated: `short`
has those of tweets, `long` those of film reviews. Token ids are random and follow Zipf's law. Each loop plans an epoch
over all documents and runs some of its batches. Prints the medians of alternating rounds: real tokens per second, the
ratios to the tutorial and to torchtext, the padding efficiency of the plan, and a share of the machine's float32 matrix
product, which is measured for seconds right before and after. That share counts the LSTM's operations on real tokens,
forward and backward, as three times those of the forward pass.
"""

import argparse
import dataclasses
import json
import math
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torchtext.data import BucketIterator, Dataset, Example, Field

from pipeline_config.settings import BucketingConfig, PipelineConfig, TrainingConfig
from tasks.batches.batching import assign_buckets, choose_boundaries, padding_efficiency, plan_batches
from tasks.batches.encoded_split import EncodedSplit
from tasks.evaluation.prediction import to_tensors
from tasks.runtime.memory import keep_freed_memory
from tasks.runtime.torch_thread import run_in_torch_thread
from tasks.served.network import TextClassifier
from tasks.served.tokenizers import tokenize_texts
from tasks.tracking.metrics import MetricStream
from tasks.tracking.runs import track_run
from tasks.training.device import has_bfloat16_lstm
from tasks.training.fitting import Training, fit
from tasks.training.reproducibility import describe_machine

VOCABULARY, EMBEDDING, CLASSES, BATCH, LONGEST = 30_000, 100, 2, 64, 400
TUTORIAL, BUCKET_ITERATOR = "tutorial: random batches, packed", "torchtext: BucketIterator, packed"
HALF = "gloveflow, bf16"
CPU = torch.device("cpu")
Batches = list[np.ndarray]
Way = tuple[Batches, Callable[[Batches], None]]  # the plan of an epoch, and a function that runs some of its batches


class Packed(nn.Module):
    """The tutorial's model."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, EMBEDDING, padding_idx=0)
        self.lstm = nn.LSTM(EMBEDDING, hidden, batch_first=True, bidirectional=True)
        self.linear = nn.Linear(2 * hidden, CLASSES)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(
            self.embedding(input_ids), lengths.cpu(), batch_first=True, enforce_sorted=False
        )
        _, (hidden, _) = self.lstm(packed)
        return self.linear(torch.cat([hidden[0], hidden[1]], dim=1))


def main() -> None:
    """Run the rounds and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", default="long", help="long, short, or a Parquet file with a column `text`")
    parser.add_argument("--batches", type=int, default=6, help="batches of each round")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, help="CPU threads; without it, torch's default")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        metavar="NAME",
        help="only the ways whose name contains one of these; without tutorial and torchtext, ratios are to the first way",
    )
    parser.add_argument("--way", help=argparse.SUPPRESS)
    parser.add_argument("--logging", action="store_true", help="measure only the cost of showing and logging metrics")
    parser.add_argument("--rivals", action="store_true", help="also Keras and Flair, see rivals.py")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    torch.manual_seed(0)
    if options.way:
        measure_here(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "lengths.npy")
        if options.logging:
            time_logging(make_split(read_lengths(options.lengths)), options.hidden, options.rounds)
        else:
            np.save(path, run_elsewhere(read_lengths, options.lengths))
            options.lengths = str(path)
            compare_ways(options)


def describe_processor() -> str:
    """Return the processor's name and the instructions that torch uses of it."""
    machine = describe_machine(CPU)
    return f"{machine['cpu']}, {machine['instructions']}"


def run_elsewhere(body: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function in a new process; a process that has computed slows its children by a fifth."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(body, *arguments).result()


def compare_ways(options: argparse.Namespace) -> None:
    """Run the rounds, each way in its own process, and print the table."""
    half_works = run_elsewhere(has_bfloat16_lstm)
    there = [name for name in (*WAYS, *(RIVALS if options.rivals else [])) if half_works or name != HALF]
    names = [name for name in there if any(part in name for part in options.only)]
    if not names:
        raise SystemExit(f"--only: got {' '.join(options.only)}, expected parts of {', '.join(there)}")
    rivals = [name for name in (TUTORIAL, BUCKET_ITERATOR) if name in names] or names[:1]
    rounds: list[dict[str, dict[str, float]]] = []
    product = run_elsewhere(measure_product, options.threads)
    for _ in range(options.rounds):
        rounds.append({})
        for name in names:
            before, measured = product, measure(name, options)
            product = run_elsewhere(measure_product, options.threads)
            rounds[-1][name] = {**measured, "product": (before + product) / 2}
    operations = count_operations(options.hidden)
    print(describe_processor())
    print(f"{len(np.load(options.lengths)):,} documents, {torch.get_num_threads()} threads, ", end="")
    heads = " ".join(f"{'/ ' + rival.split(':')[0]:>10}" for rival in rivals)
    product = statistics.median(measured["product"] for ways in rounds for measured in ways.values())
    half = run_elsewhere(measure_product, options.threads, torch.bfloat16) if half_works else None
    in_half = f"{half / 1e9:.0f} in bfloat16" if half else "no LSTM in bfloat16 on this processor, so it is skipped"
    print(f"products of {product / 1e9:.0f} GFLOP/s in float32, {in_half}")
    print(f"{'':36} tokens/s {heads} padding  share")
    for name in names:
        speed = statistics.median(r[name]["speed"] for r in rounds)
        ratios = [statistics.median(r[name]["speed"] / r[rival]["speed"] for r in rounds) for rival in rivals]
        share = statistics.median(r[name]["speed"] * operations / r[name]["product"] for r in rounds)
        against = " ".join(f"{ratio:10.1f}" for ratio in ratios)
        print(f"{name:36} {speed:8,.0f} {against} {rounds[0][name]['padding']:8.3f} {share:6.2f}")


def measure(name: str, options: argparse.Namespace) -> dict[str, float]:
    """Measure a way in its own process: OpenMP's threads of several ways would outnumber the processors."""
    command = [sys.executable, __file__, "--way", name, "--lengths", options.lengths]
    command += ["--batches", str(options.batches), "--hidden", str(options.hidden)]
    command += ["--threads", str(options.threads or torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{name}: {done.stderr}")
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def measure_here(options: argparse.Namespace) -> None:
    """Run a way twice in this process; print tokens per second of the second time, and padding, as JSON.

    The first time fills caches that have one entry per width of a batch.
    """
    split = make_split(np.load(options.lengths))
    plan, run = {**WAYS, **RIVALS}[options.way](split, options.hidden)
    chosen = draw_batches(plan, split, options.batches)
    run(chosen)
    print(json.dumps({"speed": time_run(run, split, chosen), "padding": padding_efficiency(split.lengths, plan)}))


def time_logging(split: EncodedSplit, hidden: int, rounds: int) -> None:
    """Print the time of an epoch without any reports, and with progress and metrics logged to MLflow as in a run."""
    config = TrainingConfig(
        optimizer="adam", learning_rate=1e-3, precision="fp32", device="cpu", epochs=1, ema_decay=None
    )
    few = dataclasses.replace(
        split,
        offsets=split.offsets[:65],
        **{name: getattr(split, name)[:64] for name in ("label_ids", "buckets", "doc_ids")},
    )

    def run_silently() -> None:
        training = Training(make_network(hidden), split, few, config=config, batch_size=BATCH, seed=0)
        for _ in training.run_epoch():
            pass
        training.close_epoch()

    def run_with_reports() -> None:
        with MetricStream(run.run_id) as stream:
            fit(make_network(hidden), split, few, config=config, batch_size=BATCH, seed=0, on_metrics=stream.log)

    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"GLOVEFLOW_ARTIFACTS": folder, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
        with track_run(PipelineConfig(name="benchmark"), name="benchmark", tags={}) as run:
            seconds = {
                way: [_time(partial(run_in_torch_thread, way, threads=None)) for _ in range(rounds)]
                for way in (run_silently, run_with_reports)
            }
    silent, reported = (statistics.median(times) for times in seconds.values())
    print(
        f"{len(split):,} documents, an epoch: {silent:.2f} s, with progress and metrics {reported:.2f} s, {reported / silent - 1:+.1%}"
    )


def read_lengths(source: str) -> np.ndarray:
    """Return the lengths of documents in tokens, int64[N]."""
    draw = np.random.default_rng(0)
    if source == "short":
        return np.clip(draw.normal(19, 6, 25_000).round(), 2, 60).astype(np.int64)
    if source == "long":
        return np.clip(draw.lognormal(5.4, 0.65, 25_000).round(), 10, LONGEST).astype(np.int64)
    texts = pq.read_table(source, columns=["text"])["text"].to_pylist()
    return np.array([min(max(len(tokens), 1), LONGEST) for tokens in tokenize_texts(texts, "basic_english")])


def make_split(lengths: np.ndarray) -> EncodedSplit:
    """Return documents of these lengths, with random tokens and labels."""
    draw = np.random.default_rng(1)
    shares = 1 / np.arange(1, VOCABULARY - 1)
    default = BucketingConfig()
    boundaries = choose_boundaries(lengths, scheme=default.scheme, num_buckets=default.num_buckets)
    return EncodedSplit(
        input_ids=draw.choice(np.arange(2, VOCABULARY), lengths.sum(), p=shares / shares.sum()).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        label_ids=draw.integers(0, CLASSES, len(lengths)).astype(np.int32),
        buckets=assign_buckets(lengths, boundaries).astype(np.int32),
        doc_ids=np.arange(len(lengths)),
        scheme=default.scheme,
        token_budget=default.token_budget,
    )


def plan_randomly(split: EncodedSplit) -> Batches:
    """Return batches in random order, as a `DataLoader` makes them."""
    return plan_batches(
        np.zeros(len(split), np.int32),
        lengths=split.lengths,
        scheme="none",
        batch_size=BATCH,
        token_budget=None,
        seed=0,
        epoch=0,
    )


def tutorial(split: EncodedSplit, hidden: int) -> Way:
    """The tutorial's loop."""
    return plan_randomly(split), run_tutorial(Packed(hidden), split)


def tutorial_without_denormals(split: EncodedSplit, hidden: int) -> Way:
    """The same with denormals as zero."""
    return plan_randomly(split), run_apart(run_tutorial(Packed(hidden), split))


def torchtext(split: EncodedSplit, hidden: int) -> Way:
    """The tutorial's loop over batches of similar length."""
    return plan_torchtext(split), run_tutorial(Packed(hidden), split)


def ours(split: EncodedSplit, hidden: int, *, precision: str = "fp32", **options: Any) -> Way:
    """The project's steps."""
    plan = split.plan_batches(batch_size=BATCH, seed=0, epoch=0)
    return plan, run_apart(run_ours(split, hidden, precision, **options))


def keras(split: EncodedSplit, hidden: int) -> Way:
    """Keras' `train_on_batch`."""
    from rivals import run_keras  # beside this file, where Python looks first

    return plan_randomly(split), run_keras(split, draw_vectors(), hidden=hidden, classes=CLASSES)


def flair(split: EncodedSplit, hidden: int) -> Way:
    """Flair's classifier."""
    from rivals import run_flair

    return plan_randomly(split), run_flair(split, draw_vectors(), hidden=hidden)


def draw_vectors() -> np.ndarray:
    """Return random vectors, float32[V, E]."""
    return np.random.default_rng(0).normal(0, 0.4, (VOCABULARY, EMBEDDING)).astype(np.float32)


ALL_DROPOUT = {"dropout": 0.5, "embedding_dropout": 0.5, "word_dropout": 0.1, "recurrent_dropout": 0.2}
WAYS: dict[str, Callable[[EncodedSplit, int], Way]] = {
    TUTORIAL: tutorial,
    "tutorial, denormals as zero": tutorial_without_denormals,
    BUCKET_ITERATOR: torchtext,
    "gloveflow": ours,
    HALF: partial(ours, precision="bf16"),
    "gloveflow, mean_max and all dropout": partial(ours, pooling="mean_max", **ALL_DROPOUT),
}
RIVALS: dict[str, Callable[[EncodedSplit, int], Way]] = {
    "Keras on TensorFlow: random batches": keras,
    "Flair: DocumentRNNEmbeddings": flair,
}


def plan_torchtext(split: EncodedSplit) -> Batches:
    """Return the batches that torchtext's iterator makes of the documents."""
    fields = [("number", Field(sequential=False, use_vocab=False))]
    examples = [Example.fromlist([number], fields) for number in range(len(split))]
    lengths = split.lengths
    iterator = BucketIterator(
        Dataset(examples, fields),
        BATCH,
        sort_key=lambda example: lengths[example.number],
        sort_within_batch=True,
        shuffle=True,
        train=True,
    )
    return [batch.number.numpy() for batch in iterator]


def run_apart(run: Callable[[Batches], None]) -> Callable[[Batches], None]:
    """Return a function that runs batches as a stage does: in the torch thread, with freed memory kept for reuse."""
    keep_freed_memory()
    return lambda batches: run_in_torch_thread(lambda: run(batches), threads=None)


def run_tutorial(network: nn.Module, split: EncodedSplit, device: torch.device = CPU) -> Callable[[Batches], None]:
    """Return the tutorial's loop."""
    network = network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    label_ids = torch.from_numpy(split.label_ids.astype(np.int64)).to(device)

    def run(batches: Batches) -> None:
        for documents in batches:
            optimizer.zero_grad()
            logits = network(*to_tensors(split, documents, device))
            loss = nn.functional.cross_entropy(logits, label_ids[documents])
            loss.backward()
            optimizer.step()
            loss.item()

    return run


def run_ours(
    split: EncodedSplit,
    hidden: int,
    precision: str,
    *,
    layout: str = "padded",
    device: torch.device = CPU,
    **options: Any,
) -> Callable[[Batches], None]:
    """Return the project's own steps."""
    network = make_network(hidden, **{"pooling": "last", **options}).to(device)
    config = TrainingConfig(
        optimizer="adam", learning_rate=1e-3, precision=precision, layout=layout, epochs=1, ema_decay=None
    )
    training = Training(network, split, split, config=config, batch_size=BATCH, seed=0)
    network.train()

    def run(batches: Batches) -> None:
        for documents in batches:
            training.take_step([documents])

    return run


def make_network(hidden: int, **options: Any) -> TextClassifier:
    """Return the project's network."""
    return TextClassifier(
        num_embeddings=VOCABULARY,
        embedding_dim=EMBEDDING,
        num_classes=CLASSES,
        padding_idx=0,
        unk_idx=1,
        hidden_size=hidden,
        **{"num_layers": 1, "bidirectional": True, **options},
    )


def draw_batches(plan: Batches, split: EncodedSplit, count: int) -> Batches:
    """Return some batches of a plan, evenly spread over its batches ordered by their tokens."""
    by_tokens = sorted(plan, key=lambda documents: int(split.lengths[documents].sum()))
    return [by_tokens[i] for i in np.linspace(0, len(by_tokens) - 1, count + 2)[1:-1].astype(int)]


def time_run(run: Callable[[Batches], None], split: EncodedSplit, batches: Batches) -> float:
    """Return real tokens per second."""
    started = time.perf_counter()
    run(batches)
    return float(sum(split.lengths[documents].sum() for documents in batches)) / (time.perf_counter() - started)


def count_operations(hidden: int) -> int:
    """Return the LSTM's operations for a token, in two directions, forward and backward."""
    return 3 * 2 * 2 * 4 * hidden * (EMBEDDING + hidden)


def measure_product(threads: int | None, dtype: torch.dtype = torch.float32, seconds: float = 1.0) -> float:
    """Return the operations per second that large matrix products sustain, in the best of three sizes."""
    torch.set_num_threads(threads or torch.get_num_threads())
    best = 0.0
    for size in (1024, 2048, 4096):
        one, other = (torch.randn(size, size, dtype=dtype) for _ in range(2))
        multiply = partial(torch.mm, one, other, out=torch.zeros(size, size, dtype=dtype))  # no time in new memory
        count = math.ceil(seconds / _time(multiply))
        best = max(best, 2 * size**3 * count / sum(_times(multiply, count)))
    return best


def _time(body: Callable[[], object]) -> float:
    return next(_times(body, 1))


def _times(body: Callable[[], object], count: int) -> Iterator[float]:
    for _ in range(count):
        started = time.perf_counter()
        body()
        yield time.perf_counter() - started


if __name__ == "__main__":
    main()
