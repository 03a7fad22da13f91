"""One Prefect server, one small corpus and one finished run for all tests of the flows."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from flows.cli.servers import find_port, start_prefect
from pipeline_config.resolve import resolve_config
from pipeline_config.settings import PipelineConfig

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


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    write_corpus(folder / "corpus.csv")
    write_vectors(folder / "vectors.txt")
    return folder


@pytest.fixture(scope="session")
def overrides(inputs: Path) -> list[str]:
    """`--set` values that turn the smoke preset into a run of a few seconds on the small corpus."""
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
    ]


@pytest.fixture(scope="session")
def config(overrides: list[str]) -> PipelineConfig:
    return resolve_config(preset="smoke", overrides=overrides).config


@pytest.fixture(scope="session")
def prefect_server_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the Prefect server: its database and its log."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def prefect_server(prefect_server_root: Path) -> Iterator[str]:
    """Run one Prefect server, scheduler included, and return its API's address."""
    root = prefect_server_root
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(root / "home"))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        server = start_prefect(root, find_port(0), pages=True)
    try:
        server.wait_until_up()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_API_AUTH_STRING", server.secret or "")
            yield f"{server.url}/api"
        EventsWorker.drain_all(timeout=5)
        APILogWorker.drain_all(timeout=5)
    finally:
        server.stop()


@pytest.fixture
def prefect_api(prefect_server: str) -> Iterator[str]:
    """Let flows of this process use the server."""
    with temporary_settings(client_settings(prefect_server)):
        yield prefect_server


def client_settings(api: str) -> dict[Any, Any]:
    """Return the settings of Prefect with which this process uses the shared server."""
    secret = os.environ["PREFECT_API_AUTH_STRING"]
    return {PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: secret, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}


@pytest.fixture(scope="session")
def finished(prefect_server: str, config: PipelineConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Run the flow once and return its artifacts directory and its result; tests must not change either."""
    root = tmp_path_factory.mktemp("finished") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOVEFLOW_ARTIFACTS", str(root))
        patch.setenv("PREFECT_API_URL", prefect_server)
        from flows.pipeline import train_pipeline

        with temporary_settings(client_settings(prefect_server)):
            return root, train_pipeline(config)


@pytest.fixture
def on_finished(finished: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> Any:
    """Point this process at the finished run's artifacts; returns the run's result."""
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(finished[0]))
    return finished[1]


class CommandLine:
    """Run `gloveflow` in processes of its own, on one artifacts directory and the shared server."""

    def __init__(self, artifacts: Path, api: str) -> None:
        self.artifacts = artifacts
        self.environment = {**os.environ, "GLOVEFLOW_ARTIFACTS": str(artifacts), "PREFECT_API_URL": api}

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

    def run(self, *arguments: str, before: str = "") -> tuple[int, str]:
        """Run a command to its end and return exit code and output."""
        process = self.start(*arguments, before=before)
        output, _ = process.communicate(timeout=240)
        return process.returncode, output


@pytest.fixture
def command_line(tmp_path: Path, prefect_server: str) -> CommandLine:
    return CommandLine(tmp_path / "artifacts", prefect_server)
