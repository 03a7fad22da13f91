"""What strangers can reach: flow parameters, configurations, vectors, corpora, archives, checkpoints, and a Prefect server.

Every attack tries to make a file. It is lost if the file is there, and wrong if the answer is no error of ours. With more
trials than there are light attacks, `gloveflow serve` is also pointed to a plain Prefect server, which anybody may use.
"""

import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from flows.cli.server_process import listen
from pipeline_config.errors import GloveflowError
from pipeline_config.resolve import resolve_config
from pipeline_config.settings import PipelineConfig
from tasks.corpus.ingest_corpus import ingest_corpus
from tasks.reading.sources import locate_corpus
from tasks.tokens.availability import check_tokenizer
from tasks.training.checkpoints import Checkpoints
from tasks.vectors.download_glove import download_glove, locate_vectors
from tests.campaigns.hostile_archives import BAD_NAMES, MEMBER, read_all
from tests.campaigns.release.trials import Part, Trials
from tests.campaigns.release.whole_runs import new_store, small_options
from tests.small_run import small_run, write_inputs
from tests.zip_files import make_zip

SERVE_SECONDS = 240.0
FUNCTIONS = ("os:system", "subprocess:getoutput", "builtins:exec", "builtins:eval", "os:path.sys.modules", " os:system")
CODE_URLS = (
    "reference://ran.csv::file://{folder}/references.json",
    "simplecache::reference://ran.csv::file://{folder}/references.json",
    "dask://127.0.0.1:8786/ran.csv",
    "http://127.0.0.1:9/ran.csv",
    "python:os.system",
    "package:../..:{folder}/corpus.csv",
)
TAGS = (
    "!!python/object/apply:os.system ['touch {mark}']",
    "!!python/name:os.system",
    "!!python/object/new:subprocess.Popen [['touch', '{mark}']]",
)
TEMPLATES = (
    "{{ ''.__class__ }}",
    "{config.corpus}",
    "${HOME}",
    "$(touch {mark})",
    "`touch {mark}`",
    "%(touch)s",
    "../x",
)
Attack = Callable[[Path, Path, random.Random], None]


class Harmless(GloveflowError):  # noqa: N818 (not an error)
    """The attack was taken as plain data, which is right."""


class Command:
    """An object whose pickle makes a file when it is read."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self.mark}",)


def function_as_tokenizer(folder: Path, mark: Path, draw: random.Random) -> None:
    name = draw.choice(FUNCTIONS)
    check_tokenizer(PipelineConfig.model_validate({"tokenization": {"tokenizer": name}}).tokenization)


def address_that_names_code(folder: Path, mark: Path, draw: random.Random) -> None:
    code = "{{ cycler.__init__.__globals__.os.system('touch " + str(mark) + "') }}"
    generated = {"key": "ran.csv", "url": code, "offset": "1", "length": "1", "dimensions": {"i": {"stop": 1}}}
    references = {"version": 1, "templates": {"u": code}, "gen": [generated], "refs": {"ran.csv": "text,label\na,b\n"}}
    (folder / "references.json").write_text(json.dumps(references))
    source = draw.choice(CODE_URLS).format(folder=folder)
    locate_corpus(PipelineConfig.model_validate({"corpus": {"source": source}}).corpus)


def pickle_as_vectors(folder: Path, mark: Path, draw: random.Random) -> None:
    path = folder / draw.choice(["v.txt", "v.bin", "v.txt.gz", "v.zip", "v.npy", "v.pkl"])
    content = pickle.dumps(Command(mark))
    if path.suffix == ".npy":
        np.save(path, np.array([Command(mark)], dtype=object), allow_pickle=True)
    elif path.suffix == ".zip":
        path.write_bytes(make_zip(("data.pkl", content), ("v.txt", content)))
    else:
        path.write_bytes(content)
    config = PipelineConfig.model_validate({"embeddings": {"source": str(path), "dim": 8}}).embeddings
    download_glove.fn(locate_vectors(config), config)


def pickle_as_corpus(folder: Path, mark: Path, draw: random.Random) -> None:
    """An extension type that older versions of pyarrow restored with pickle, or a bare pickle."""
    content = pickle.dumps(Command(mark))
    path = folder / draw.choice(["c.parquet", "c.csv", "c.jsonl"])
    if path.suffix == ".parquet":
        metadata = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": content}
        field = pa.field("text", pa.string(), metadata=metadata)
        schema = pa.schema([field, pa.field("label", pa.string())])
        pq.write_table(pa.Table.from_arrays([pa.array(["a", "b"]), pa.array(["x", "y"])], schema=schema), path)
    else:
        path.write_bytes(content)
    config = PipelineConfig.model_validate({"corpus": {"source": str(path), "label_column": "label"}}).corpus
    ingest_corpus.fn(locate_corpus(config), config, 1)
    if path.suffix == ".parquet":
        raise Harmless


def pickle_as_checkpoint(folder: Path, mark: Path, draw: random.Random) -> None:
    directory = folder / "checkpoints"
    checkpoints = Checkpoints(directory, machine={})
    checkpoints.save({"weight": torch.ones(3)}, {"step": 1})
    for path in directory.iterdir():
        if draw.random() < 0.5:
            path.write_bytes(pickle.dumps(Command(mark)))
        else:
            torch.save(Command(mark), path)
    if checkpoints.load() is None:
        raise Harmless


def tag_in_a_configuration(folder: Path, mark: Path, draw: random.Random) -> None:
    text = draw.choice(TAGS).format(mark=mark)
    if draw.random() < 0.5:
        (folder / "c.yaml").write_text(f"name: {text}\n")
        resolve_config(preset="smoke", file=folder / "c.yaml", overrides=[])
    else:
        resolve_config(preset="smoke", file=None, overrides=[f"name={text}"])


def path_out_of_an_archive(folder: Path, mark: Path, draw: random.Random) -> None:
    path = folder / "a.zip"
    name = draw.choice([*BAD_NAMES, f"../{mark.name}", str(mark)])
    path.write_bytes(make_zip((name, b"a 1 2\n"), (MEMBER, b"a 1 2\n")))
    if read_all(path) in (None, b"a 1 2\n"):
        raise Harmless


def template_in_a_name(folder: Path, mark: Path, draw: random.Random) -> None:
    name = draw.choice(TEMPLATES).replace("{mark}", str(mark))
    config = resolve_config(preset="smoke", file=None, overrides=[f"name={json.dumps(name)}"]).config
    if config.name == name:
        raise Harmless


LIGHT: tuple[Attack, ...] = (
    function_as_tokenizer, address_that_names_code, pickle_as_vectors, pickle_as_corpus, pickle_as_checkpoint,
    tag_in_a_configuration, path_out_of_an_archive, template_in_a_name,
)  # fmt: skip


def play(trials: Trials) -> None:
    """Play the light attacks in turn; with more trials than these, half an hour of the heavy ones at most."""
    for number in range(trials.count):
        folder = trials.folder / f"attack-{number}"
        folder.mkdir()
        _play_one(trials, LIGHT[number % len(LIGHT)], folder)
    if trials.count > 2 * len(LIGHT):
        play_a_foreign_server(trials)


PART = Part(
    "attacks",
    "nothing that comes from elsewhere runs: parameters, files, models, or a Prefect server that is not ours",
    play,
    count=400,
    quick=2 * len(LIGHT),
)


def _play_one(trials: Trials, attack: Attack, folder: Path) -> None:
    mark, before = folder / "ran", os.environ.get("GLOVEFLOW_ARTIFACTS")
    os.environ["GLOVEFLOW_ARTIFACTS"] = str(folder / "artifacts")
    answer = "was accepted"
    try:
        attack(folder, mark, trials.draw)
    except GloveflowError:
        answer = ""
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    finally:
        os.environ.pop("GLOVEFLOW_ARTIFACTS")
        if before is not None:
            os.environ["GLOVEFLOW_ARTIFACTS"] = before
    if mark.exists():
        trials.record_lost(f"{attack.__name__} ran")
    elif answer:
        trials.record_wrong(f"{attack.__name__}: {answer}")
    else:
        trials.passed()


def play_a_foreign_server(trials: Trials) -> None:
    """Create runs of a served deployment at an open Prefect server, with parameters that name code."""
    mark = trials.folder / "ran"
    inputs = write_inputs(trials.folder)
    (inputs / "commands.csv").write_text(f"text,label\ntouch {mark},a\ntouch {mark} ,b\n" * 20)
    config = resolve_config(preset="smoke", file=None, overrides=small_run(inputs)).config.model_dump(mode="json")
    changes = [("tokenization", "tokenizer", name) for name in FUNCTIONS[:3]]
    changes += [("corpus", "source", url.format(folder=trials.folder)) for url in CODE_URLS[:2]]
    changes += [("embeddings", "source", "python:os.system"), ("name", "", "{{ config }}")]
    with _open_prefect(trials.folder) as api:
        command_line = new_store(trials.folder)
        command_line.environment |= {"PREFECT_API_URL": api, "PREFECT_RUNNER_POLL_FREQUENCY": "1"}
        process = command_line.start("serve", "--cron", "0 0 1 1 *", *small_options(trials.folder / "served"))
        try:
            deployment = _wait(lambda: httpx.post(f"{api}/deployments/filter", json={}).json())[0]["id"]
            for section, key, value in changes:
                evil = json.loads(json.dumps(config))
                evil["corpus"]["source"] = str(inputs / "commands.csv")
                if key:
                    evil[section][key] = value
                else:
                    evil[section] = value
                body = {"parameters": {"config": evil}, "enforce_parameter_schema": False}
                created = _wait(lambda body=body: _post(f"{api}/deployments/{deployment}/create_flow_run", body))
                if created.status_code == 422:  # Prefect itself refuses it
                    trials.passed()
                    continue
                run = created.json()["id"]
                state = _wait(lambda run=run: _final_state(api, run))
                if mark.exists():
                    trials.record_lost(f"{section}.{key}={value} ran at a foreign server")
                    mark.unlink()
                elif state != "FAILED" and key:
                    trials.record_wrong(f"{section}.{key}={value}: the run ended as {state}")
                else:
                    trials.passed()
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=60)


@contextmanager
def _open_prefect(folder: Path) -> Iterator[str]:
    """Run Prefect's own server, without a secret and without checks, as a user might."""
    listener = listen(0)
    port = listener.getsockname()[1]
    listener.close()
    environment = {**os.environ, "PREFECT_HOME": str(folder / "open"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment |= {"PREFECT__SERVER_FINAL": "1", "PREFECT_UI_ENABLED": "false"}
    environment.pop("PREFECT_API_URL", None)
    command = [
        "uvicorn",
        "prefect.server.api.server:create_app",
        "--factory",
        "--port",
        str(port),
        "--log-level",
        "error",
    ]
    with (folder / "open.log").open("wb") as log:
        server = subprocess.Popen([sys.executable, "-m", *command], env=environment, stdout=log, stderr=log)
    try:
        _wait(lambda: _is_healthy(f"http://127.0.0.1:{port}/api/health"))
        yield f"http://127.0.0.1:{port}/api"
    finally:
        server.terminate()
        server.wait(30)


def _post(url: str, body: dict[str, object]) -> httpx.Response | None:
    """Return the answer, or None if the server is busy: its database is SQLite."""
    answer = httpx.post(url, json=body, timeout=30)
    return None if answer.status_code == 503 else answer


def _is_healthy(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.HTTPError:
        return False


def _final_state(api: str, run: str) -> str:
    state = httpx.get(f"{api}/flow_runs/{run}").json()["state_type"]
    return state if state in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED") else ""


def _wait(is_there: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + SERVE_SECONDS
    while not (found := is_there()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"nothing came within {SERVE_SECONDS:g} s")
        time.sleep(0.2)
    return found
