"""Kill trainings at every step and start them again: each must end with the bits of a training that was never killed.

    python -m tests.campaigns.killed_training [--steps 60] [--every 1] [--threads 2]

There are sixteen kinds of training: one or two directions, one or two layers (with two, also a bag of bigrams), dropout
0 or 0.3 everywhere, float32 or, where the processor has it, bfloat16. All have a moving average of the weights,
validations between the epochs, and a checkpoint every four steps. For each kind and each step, a process trains and
kills itself with SIGKILL, in turn after the step, half-way through writing a checkpoint, and right after a checkpoint
was renamed into place. Another process resumes. Best weights, last weights and history are compared byte for byte with
those of an unbroken training. A difference ends the campaign with exit code 1.
"""

import argparse
import itertools
import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from pipeline_config.settings import TrainingConfig
from tasks.batches.encoded_split import EncodedSplit
from tasks.served.network import TextClassifier
from tasks.training import checkpoints as checkpoint_module
from tasks.training.checkpoints import Checkpoints
from tasks.training.device import has_bfloat16_lstm
from tasks.training.fitting import fit
from tasks.training.reproducibility import describe_machine
from tests.encoded_splits import make_split

VOCABULARY, CLASSES, BATCH, EPOCHS = 200, 3, 8, 4
MOMENTS = ("after the step", "half-way through a checkpoint", "after a checkpoint")


def main() -> None:
    """Run the campaign and print a line per kind of training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=60, help="steps of a training, a multiple of 4")
    parser.add_argument("--every", type=int, default=1, help="kill at every n-th step")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    kills, started = 0, time.monotonic()
    with tempfile.TemporaryDirectory(prefix="killed-training-") as folder:
        torch.set_num_threads(1)  # because OpenMP's threads would not survive the forks
        train(
            Path(folder, "warm-up"), options.steps, False, 1, 0.0, "fp32"
        )  # so that torch has done its late imports before the forks
        precisions = ("fp32", "bf16") if has_bfloat16_lstm() else ("fp32",)
        if len(precisions) == 1:
            print("bf16: skipped, because this processor cannot run an LSTM in bfloat16", flush=True)
        for variant in itertools.product((False, True), (1, 2), (0.0, 0.3), precisions, (options.threads,)):
            root = Path(folder, "-".join(map(str, variant)))
            unbroken = finish(root / "unbroken", options.steps, *variant)
            for step in range(1, options.steps + 1, options.every):
                moment = MOMENTS[step % len(MOMENTS)]
                in_child(-signal.SIGKILL, die, root / str(step), step, moment, options.steps, *variant)
                results = finish(root / str(step), options.steps, *variant)
                if results != unbroken:
                    names = ", ".join(name for name in unbroken if results[name] != unbroken[name])
                    sys.exit(f"{variant}: killed at step {step}, {moment}, it ends with different bits: {names}")
                kills += 1
            print(f"{variant}: always the same bits ({kills} kills so far)", flush=True)
    print(f"{kills} kills, {time.monotonic() - started:.0f} s, no difference")


def finish(directory: Path, *arguments: Any) -> dict[str, bytes]:
    """Train to the end in a child process and return its results: weights and history by name."""
    in_child(0, write_results, directory, *arguments)
    return {file.name: file.read_bytes() for file in sorted(directory.glob("result-*"))}


def in_child(expected: int, body: Callable[..., Any], *arguments: Any) -> None:
    """Run a body in a forked process and check how it ends."""
    child = os.fork()
    if child == 0:
        try:
            body(*arguments)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != expected:
        sys.exit(f"a process ended with {code}, expected {expected}")


def die(directory: Path, step: int, moment: str, steps: int, *variant: Any) -> None:
    """Train and be killed at a moment of a step."""

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    is_due, save_checkpoint = Checkpoints.is_due, Checkpoints.save

    def is_due_or_dead(self: Checkpoints, now: int) -> bool:
        if now == step and moment == MOMENTS[0]:
            kill()
        return now == step or is_due(self, now)

    def save_and_die(self: Checkpoints, tensors: Any, state: Any) -> None:
        if state["step"] == step and moment == MOMENTS[1]:
            checkpoint_module.sync = kill  # the file is written but not yet renamed into place
        save_checkpoint(self, tensors, state)
        if state["step"] == step:
            kill()

    Checkpoints.is_due, Checkpoints.save = is_due_or_dead, save_and_die
    train(directory, steps, *variant)


def write_results(directory: Path, steps: int, *variant: Any) -> None:
    """Train to the end, from a checkpoint if there is one, and write everything that must not differ."""
    results = train(directory, steps, *variant)
    directory.mkdir(parents=True, exist_ok=True)
    for name, value in results.items():
        (directory / f"result-{name}").write_bytes(value)


def train(
    directory: Path, steps: int, bidirectional: bool, num_layers: int, dropout: float, precision: str, threads: int = 1
) -> dict[str, bytes]:
    """Return best weights, last weights and history of a training, by name."""
    torch.set_num_threads(threads)
    rates = ("dropout", "embedding_dropout", "word_dropout", "recurrent_dropout")
    network = TextClassifier(
        num_embeddings=VOCABULARY, embedding_dim=12, num_classes=CLASSES, padding_idx=0, unk_idx=1, hidden_size=16,
        num_layers=num_layers, bidirectional=bidirectional, pooling="mean_max", bigram_buckets=64 * (num_layers - 1),
        **dict.fromkeys(rates, dropout),
    )  # fmt: skip
    network.reset_weights(torch.Generator().manual_seed(0))
    config = TrainingConfig(
        epochs=EPOCHS,
        learning_rate=2e-3,
        precision=precision,
        ema_decay=0.9,
        patience=None,
        log_every_steps=1,
        adversarial=dropout,
    )
    documents = steps // EPOCHS * BATCH
    history, last = fit(
        network,
        draw_split(documents, seed=0),
        draw_split(40, seed=1),
        config=config,
        batch_size=BATCH,
        seed=0,
        checkpoints=Checkpoints(directory, describe_machine(torch.device("cpu")), every_steps=4),
    )
    if history.step != steps:
        raise ValueError(f"{history.step} steps, expected {steps}: --steps must be a multiple of {EPOCHS}")
    recorded = {name: value for name, value in vars(history).items() if name != "seconds"}
    weights = {"best": dict(network.state_dict()), "last": last}
    results = {f"{kind}-{name}": save({"": w}) for kind, named in weights.items() for name, w in named.items()}
    return {**results, **{name: json.dumps(value).encode() for name, value in recorded.items()}}


def draw_split(documents: int, *, seed: int) -> EncodedSplit:
    """Return random documents of 1 to 20 tokens."""
    draw = np.random.default_rng(seed)
    lengths = draw.integers(1, 21, documents)
    texts = [draw.integers(2, VOCABULARY, length) for length in lengths]
    return make_split(texts, draw.integers(0, CLASSES, documents), bucket_width=8)


if __name__ == "__main__":
    main()
