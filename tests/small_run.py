"""A run of seconds from the command line: its small corpus, its vectors, its options, its processes."""

import os
import random
import subprocess
import sys
from pathlib import Path

WORDS = {
    "sports": "goal match team player coach league score ball win season",
    "weather": "rain wind cloud storm sunny snow degrees forecast humid fog",
    "food": "bread cheese soup roast apple salt pepper kitchen taste sauce",
}
COMMON = ["the", "a", "of", "and", "to", "in", "it", "was", "is", "on", "for", "with", "as", "at", "by"]


def write_corpus(path: Path, documents: int = 240) -> Path:
    """Write a CSV of three classes, which differ by their words."""
    draw = random.Random(7)
    lines = ["text,label"]
    for number in range(documents):
        label = list(WORDS)[number % 3]
        words = draw.choices(WORDS[label].split(), k=draw.randint(2, 5)) + draw.choices(COMMON, k=draw.randint(2, 9))
        draw.shuffle(words)
        lines.append(f"{' '.join(words)} {number},{label}")
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def write_vectors(path: Path, dim: int = 8) -> Path:
    """Write vectors for every word of the corpus, in GloVe's text format."""
    draw = random.Random(11)
    words = COMMON + " ".join(WORDS.values()).split()
    rows = [f"{word} {' '.join(f'{draw.gauss(0, 1):.5f}' for _ in range(dim))}" for word in words]
    path.write_text("\n".join(rows) + "\n", "utf-8")
    return path


def write_inputs(folder: Path) -> Path:
    """Write `corpus.csv` and `vectors.txt` into a folder, and return it."""
    write_corpus(folder / "corpus.csv")
    write_vectors(folder / "vectors.txt")
    return folder


def small_run(inputs: Path) -> list[str]:
    """Return the `--set` values that turn the smoke preset into a run of seconds on the files of `write_inputs`."""
    return [
        "name=tiny",
        f"corpus.source={inputs / 'corpus.csv'}",
        "corpus.label_column=label",
        "corpus.encoding=utf-8",
        "corpus.max_documents=null",
        f"embeddings.source={inputs / 'vectors.txt'}",
        "embeddings.dim=8",
        "embeddings.max_vectors=null",
        "vocabulary.min_freq=1",
        "bucketing.batch_size=8",
        "bucketing.num_buckets=4",
        "model.hidden_size=16",
        "training.learning_rate=0.05",
        "training.epochs=6",
        "training.patience=null",
        "model.dropout=0.2",
        "registration.smoke_documents=0",  # saves five seconds
    ]


def set_options(overrides: list[str]) -> list[str]:
    """Return command line options that set the values."""
    return [part for text in overrides for part in ("--set", text)]


class CommandLine:
    """Run `gloveflow` in processes of its own, on one artifacts directory.

    Attributes:
        artifacts: the artifacts directory.
        environment: the variables of its processes, which may be changed. Without the API of a Prefect server each
            command starts one of its own.
    """

    def __init__(self, artifacts: Path, api: str | None = None) -> None:
        self.artifacts = artifacts
        self.environment = {**os.environ, "GLOVEFLOW_ARTIFACTS": str(artifacts)}
        for name in ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI") if api is None else ():
            self.environment.pop(name, None)
        if api is not None:
            self.environment["PREFECT_API_URL"] = api

    def start(self, *arguments: str, before: str = "") -> subprocess.Popen[str]:
        """Start a command as a terminal does; `before` is Python source that runs first in its process.

        A process that a shell starts in the background ignores SIGINT, and so do its children.
        """
        listen = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)"
        source = f"{listen}\n{before}\nfrom flows.cli.main import main\nmain(sys.argv[1:])"
        return subprocess.Popen(
            [sys.executable, "-c", source, *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str, before: str = "", seconds: float = 240) -> tuple[int, str]:
        """Run a command to its end, which has to come within some seconds, and return exit code and output."""
        process = self.start(*arguments, before=before)
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
