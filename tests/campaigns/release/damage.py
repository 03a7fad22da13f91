"""Damaged files: bits that flip, ends that are cut off, files that vanish, in everything that a run reads back.

Each trial damages one file of a copy of a finished run, and then reads it with the product's own modules. What is read
is either right, or computed again, or refused with a message of ours that names the file or the model.
"""

import contextlib
import os
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest import mock

import torch
import trustme

from flows.cli.prefect_server import prepare_prefect_database
from pipeline_config.errors import GloveflowError
from tasks.fetching import mirrors
from tasks.store.artifacts import ArtifactRef, find_output
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tasks.store.stage import describe_output
from tasks.tracking.loading import load_model
from tasks.tracking.runs import end_dead_runs
from tasks.training.checkpoints import CHECKPOINT, Checkpoints
from tests.campaigns.release.trials import Trials
from tests.campaigns.release.whole_runs import MODEL, TEXTS, Finished, finished_run
from tests.https_server import Server, ranged, serve

Problem = str | None  # what was done and what came of it, if that was wrong


def play(trials: Trials) -> None:
    """Damage files of every kind in turn, most often those of the store."""
    finished = finished_run()
    kinds: list[Callable[[Finished, Path, random.Random], Problem]] = [
        damage_store, damage_store, damage_checkpoint, damage_download, damage_model, damage_mlflow, damage_prefect,
    ]  # fmt: skip
    for number in range(trials.count):
        folder = trials.folder / str(number)
        kind = kinds[number % len(kinds)]
        with working_on(folder):
            try:
                problem = kind(finished, folder, trials.draw)
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
        shutil.rmtree(folder, ignore_errors=True)
        trials.check(f"trial {number}, {kind.__name__}", problem)


@contextlib.contextmanager
def working_on(artifacts: Path) -> Iterator[None]:
    """Let the product work on an artifacts directory."""
    artifacts.mkdir(parents=True)
    with mock.patch.dict(os.environ, GLOVEFLOW_ARTIFACTS=str(artifacts)):
        yield


def damage_file(path: Path, draw: random.Random) -> str:
    """Damage a file in one way, and return what was done."""
    size, way = path.stat().st_size, draw.choice(["flip", "flip", "flip", "cut", "cut", "remove"])
    if way == "remove" or not size:
        path.unlink()
        return f"{path.name} removed"
    at = draw.choice([draw.randrange(size), draw.randrange(min(size, 200))])  # headers are short and matter
    if way == "cut":
        os.truncate(path, at)
        return f"{path.name} cut to {at} of {size} bytes"
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1 << draw.randrange(8)]))
    return f"{path.name} with a bit of byte {at} of {size} changed"


def damage_store(finished: Finished, folder: Path, draw: random.Random) -> Problem:
    """Damage a file of a stage output: the output is found whole, or it is computed again."""
    stage, key = draw.choice(sorted(finished.digests)).split("/")
    whole = finished.artifacts / "store" / stage / key
    directory = folder / "store" / stage / key
    shutil.copytree(whole, directory)
    facts = _find(finished.artifacts, stage, key).facts
    done = damage_file(draw.choice(sorted(directory.iterdir())), draw)

    def write(output: StageOutput) -> None:
        for path in whole.iterdir():
            if path.name != "manifest.json":
                shutil.copy(path, output.directory)
        output.facts.update(facts)

    found = find_output(stage, key)
    if found is not None and (found.facts != facts or not _is_whole(found, whole)):
        return f"{stage}: {done}, and it was found as if it were whole"
    reference, computed = commit_output(stage, key, write)
    describe_output(reference, computed=computed)
    if reference.digest != finished.digests[f"{stage}/{key}"] or not _is_whole(reference, whole):
        return f"{stage}: {done}, and computed again it was not the same"
    left = sorted(path.name for path in directory.parent.iterdir())
    return None if left == [f".{key}.lock", key] else f"{stage}: {done}, and {left} were left"


def _find(artifacts: Path, stage: str, key: str) -> ArtifactRef:
    with mock.patch.dict(os.environ, GLOVEFLOW_ARTIFACTS=str(artifacts)):
        found = find_output(stage, key)
    assert found is not None
    return found


def _is_whole(reference: ArtifactRef, whole: Path) -> bool:
    names = [path.name for path in whole.iterdir() if path.name != "manifest.json"]
    return all(reference.path(name).read_bytes() == (whole / name).read_bytes() for name in names)


def damage_checkpoint(_finished: Finished, folder: Path, draw: random.Random) -> Problem:
    """Damage a checkpoint: the training resumes from what was saved, or from the beginning."""
    generator = torch.Generator().manual_seed(draw.randrange(1 << 30))
    tensors = {name: torch.randn(rows, 8, generator=generator) for name, rows in (("weight", 5), ("moment", 3))}
    state = {"step": 7, "best": 0.5}
    Checkpoints(folder, {"threads": 1}).save(tensors, state)
    done = damage_file(folder / CHECKPOINT, draw)
    loaded = Checkpoints(folder, {"threads": 1}).load()
    if loaded is None:
        return None
    same = loaded[1] == state and {n: t.tolist() for n, t in loaded[0].items()} == {
        n: t.tolist() for n, t in tensors.items()
    }
    return None if same else f"{done}, and it was loaded"


def damage_download(_finished: Finished, folder: Path, draw: random.Random) -> Problem:
    """Damage a download, its recorded digest, or what an unfinished one left: the file is right, or it is refused."""
    name = draw.choice(["corpus.csv", "vectors.txt"])
    body = draw.randbytes(2000)
    with certified_server(folder) as server, mock.patch.object(mirrors, "PAUSE_SECONDS", 0.0):
        url = server.script(f"/{name}", ranged(body))
        final = mirrors.get_local_path(url, name)
        if draw.random() < 0.5:
            mirrors.download_file([url])
        else:
            part = mirrors.get_partial_file(final)
            final.parent.mkdir()
            part.path.write_bytes(body[: draw.randrange(1, 2000)])
            part.write_sidecar(url, '"v1"', None)
        done = damage_file(draw.choice([path for path in sorted(final.parent.iterdir()) if path.stat().st_size]), draw)
        try:
            got = mirrors.download_file([url]).read_bytes()
        except GloveflowError as error:
            return None if name in str(error) else f"{done}, and the message does not name it: {error}"
    return None if got == body else f"{done}, and other bytes were accepted"


@contextlib.contextmanager
def certified_server(folder: Path) -> Iterator[Server]:
    """Run an HTTPS server whose certificate this process trusts."""
    authority, certificate = trustme.CA(), folder / "authority.pem"
    authority.cert_pem.write_to_path(str(certificate))
    with mock.patch.dict(os.environ, SSL_CERT_FILE=str(certificate), NO_PROXY="127.0.0.1"), serve(authority) as server:
        yield server


def damage_model(finished: Finished, folder: Path, draw: random.Random) -> Problem:
    """Damage a file of the registered version: it answers as before, or it is refused by name."""
    _copy(finished.artifacts, folder, "mlflow")
    files = sorted(path for path in folder.glob("mlflow/files/*/models/*/artifacts/**/*") if path.is_file())
    return _ask_champion(finished, damage_file(draw.choice(files), draw), MODEL)


def damage_mlflow(finished: Finished, folder: Path, draw: random.Random) -> Problem:
    """Damage MLflow's database: the champion answers as before, or the message names the file or the model."""
    _copy(finished.artifacts, folder, "mlflow")
    database = folder / "mlflow" / "mlflow.db"
    done = damage_file(database, draw)
    try:
        end_dead_runs()
    except GloveflowError as error:
        return None if str(database) in str(error) else f"{done}, and the message does not name it: {error}"
    return _ask_champion(finished, done, str(database), MODEL)


def _ask_champion(finished: Finished, done: str, *names: str) -> Problem:
    try:
        answers = load_model(MODEL, "champion").classify(list(TEXTS))
    except GloveflowError as error:
        named = any(name in str(error) for name in names)
        return None if named else f"{done}, and the message does not name it: {error}"
    return None if answers == finished.answers else f"{done}, and the champion answers {answers}"


def damage_prefect(finished: Finished, folder: Path, draw: random.Random) -> Problem:
    """Damage Prefect's database: the server gets a whole one, or the message names the file."""
    _copy(finished.artifacts, folder, "prefect")
    database = folder / "prefect" / "prefect.db"
    done = damage_file(database, draw)
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings

    try:
        with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{database}"}):
            prepare_prefect_database()
    except GloveflowError as error:
        return None if str(database) in str(error) else f"{done}, and the message does not name it: {error}"
    with contextlib.closing(sqlite3.connect(database)) as connection:
        problem = connection.execute("PRAGMA quick_check").fetchone()[0]
    return None if problem == "ok" else f"{done}, and the server would start on it: {problem}"


def _copy(source: Path, target: Path, room: str) -> None:
    shutil.copytree(source / room, target / room, dirs_exist_ok=True)
