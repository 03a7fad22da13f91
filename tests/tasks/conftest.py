"""A small pipeline run once, and a migrated MLflow database made once; tests work on copies of both."""

import random
import shutil
import ssl
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
import trustme

from pipeline_config.settings import PipelineConfig
from tasks.training.device import set_precision
from tests.https_server import Server, serve
from tests.stage_chain import ChainOutputs, run_chain

TOPICS = {
    "food": ["bread", "soup", "cheese", "kitchen", "taste", "recipe", "café"],
    "sport": ["goal", "match", "team", "coach", "score", "league", "stadium"],
    "météo": ["rain", "cloud", "storm", "sunny", "wind", "forecast", "snow"],
}
FILLER = ["the", "a", "we", "it", "was", "very", "and", "then", "today", "again", "so", "with"]
EMBEDDING_DIM = 8
DOCUMENTS_PER_TOPIC = 40


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request: pytest.FixtureRequest) -> torch.device:
    """A device to train on: each that is there, with float32 multiplied as it is."""
    device = torch.device(request.param)
    set_precision("fp32", device)
    return device


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def server(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> Iterator[Server]:
    """An HTTPS server with a certificate that the environment says to trust; new tries come at once."""
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("tasks.fetching.mirrors.PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("tasks.fetching.mirrors.MAX_TRIES_WITHOUT_PROGRESS", 1)
    with serve(authority) as made:
        yield made


@pytest.fixture
def write(tmp_path: Path, artifacts: Path) -> Callable[..., Path]:
    """Write a file, and the folders that it is in, into the test's own directory."""

    def write(name: str, content: bytes = b"text,label\nx,a\n") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> Iterator[str]:
    """Serve the test's directory over HTTPS, with a certificate that the environment says to trust."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="session")
def toy_root(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ChainOutputs]:
    """The artifacts directory of the small pipeline; tests take `toy`, which copies it."""
    root = tmp_path_factory.mktemp("toy")
    corpus, glove = root / "corpus.csv", root / "glove.txt"
    corpus.write_text(_corpus(), "utf-8")
    glove.write_text(_glove(), "utf-8")
    config = PipelineConfig.model_validate(
        {
            "name": "toy",
            "registration": {"smoke_documents": 0},  # five seconds; tests/tasks/registry/test_smoke.py has it
            "corpus": {"source": str(corpus), "validation_fraction": 0.2, "test_fraction": 0.2},
            "embeddings": {"source": str(glove), "dim": EMBEDDING_DIM},
            "vocabulary": {"min_freq": 2, "extend_from_vectors": 0},
            "bucketing": {"batch_size": 8, "num_buckets": 3, "max_length": 12},
            "model": {
                "hidden_size": 6,
                "dropout": 0.2,
                "embedding_dropout": 0.5,
                "word_dropout": 0.0,
                "pool_embeddings": False,
                "bigram_buckets": 0,
            },
            "training": {
                "epochs": 3,
                "learning_rate": 0.05,
                "schedule": "one_cycle",
                "warmup": 0.3,
                "ema_decay": None,
                "device": "cpu",
                "precision": "fp32",
                "threads": 1,
                "log_every_steps": 2,
            },
        }
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOVEFLOW_ARTIFACTS", str(root))
        return root, run_chain(config)


@pytest.fixture
def toy(artifacts: Path, toy_root: tuple[Path, ChainOutputs]) -> ChainOutputs:
    """The small pipeline's outputs in this test's own artifacts directory."""
    root, run = toy_root
    shutil.copytree(root / "store", artifacts / "store")
    return run


@pytest.fixture(scope="session")
def migrated_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty MLflow database; making one costs seconds, copying it milliseconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def tracked(artifacts: Path, migrated_database: Path) -> Path:
    """The artifacts directory with an empty MLflow database in it."""
    (artifacts / "mlflow").mkdir(parents=True)
    shutil.copyfile(migrated_database, artifacts / "mlflow" / "mlflow.db")
    return artifacts


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """Let torch use one thread, which is faster for tiny tensors."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def registered_root(
    tmp_path_factory: pytest.TempPathFactory, toy_root: tuple[Path, ChainOutputs], migrated_database: Path
) -> Path:
    """An artifacts directory in which the small pipeline's classifier is registered, as version 1 and champion."""
    from tasks.registry.register_model import register_model
    from tasks.tracking.runs import track_run

    root, (store, run) = tmp_path_factory.mktemp("registered"), toy_root
    shutil.copytree(store / "store", root / "store")
    (root / "mlflow").mkdir()
    shutil.copyfile(migrated_database, root / "mlflow" / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOVEFLOW_ARTIFACTS", str(root))
        with track_run(run.config, name="toy run", tags={}) as tracked_run:
            register_model.fn(
                tracked_run, run.classifier, run.vocabulary, run.evaluation, run.documents, run.baseline, run.config
            )
    (logged,) = (root / "mlflow" / "files").rglob("MLmodel")
    shutil.copytree(logged.parent, root / "as-logged")  # later tests load the model, and MLflow leaves files with it
    return root


@pytest.fixture(scope="session")
def registered_model(registered_root: Path) -> Path:
    """A copy of the registered model's directory, as it was logged; read it, do not change it."""
    return registered_root / "as-logged"


@pytest.fixture
def registered(artifacts: Path, registered_root: Path, toy_root: tuple[Path, ChainOutputs]) -> ChainOutputs:
    """The small pipeline with its classifier registered as version 1, in this test's own store and database."""
    from tasks.tracking.server import open_client

    shutil.copytree(registered_root / "store", artifacts / "store")
    (artifacts / "mlflow").mkdir()
    shutil.copyfile(registered_root / "mlflow" / "mlflow.db", artifacts / "mlflow" / "mlflow.db")
    shutil.copytree(registered_root / "mlflow" / "files", artifacts / "mlflow" / "files")
    open_client()  # lets MLflow's own functions find the database, too
    return toy_root[1]


def _corpus() -> str:
    """Return CSV in which the class shows in the words, with one label in ten wrong."""
    generator = random.Random(7)
    labels = sorted(TOPICS)
    rows = ["text,label"]
    for number in range(DOCUMENTS_PER_TOPIC * len(labels)):
        label = labels[number % len(labels)]
        words = generator.choices(TOPICS[label], k=generator.randint(1, 4))
        words += generator.choices(FILLER, k=generator.randint(1, 9))
        generator.shuffle(words)
        given = labels[(number + 1) % len(labels)] if number % 10 == 9 else label
        rows.append(f"{' '.join(words)} {number},{given}")
    return "\n".join(rows) + "\n"


def _glove() -> str:
    """Return GloVe text: a direction per topic plus noise, some words left out."""
    generator = np.random.Generator(np.random.PCG64(3))
    lines = []
    for axis, words in enumerate([*TOPICS.values(), FILLER]):
        for word in words[:-1]:
            vector = 0.3 * generator.standard_normal(EMBEDDING_DIM)
            vector[axis] += 1.0
            lines.append(" ".join([word, *(f"{value:.5g}" for value in vector)]))
    return "\n".join(lines) + "\n"
