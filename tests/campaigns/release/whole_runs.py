"""Whole runs of the command line on a small corpus, and what they must leave behind."""

import atexit
import functools
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from tasks.tracking.loading import load_model
from tests.small_run import CommandLine, set_options, small_run, write_inputs

MODEL = "gloveflow-tiny"
TEXTS = ("goal match team", "rain and wind on the hill", "bread with cheese and soup", "a text of no class")


def small_options(folder: Path, *more: str) -> list[str]:
    """Write the small corpus and its vectors into a new folder, and return the options of a run on them."""
    folder.mkdir()
    return ["--preset", "smoke", *set_options([*small_run(write_inputs(folder)), *more])]


def new_store(folder: Path) -> CommandLine:
    """Return the command line on an artifacts directory of its own, which does not exist yet; it starts its servers."""
    return CommandLine(folder / "artifacts")


def output_digests(artifacts: Path) -> dict[str, str]:
    """Return the digests of all committed outputs, by stage and key; those of unbroken runs are the same."""
    manifests = (artifacts / "store").glob("*/*/manifest.json")
    return {f"{path.parts[-3]}/{path.parts[-2]}": json.loads(path.read_text())["digest"] for path in manifests}


@dataclass(frozen=True)
class Finished:
    """A run that was not disturbed.

    Attributes:
        artifacts: its artifacts directory, which must not be changed.
        digests: what `output_digests` says of it.
        answers: what its champion answers to `TEXTS`.
    """

    artifacts: Path
    digests: dict[str, str]
    answers: list[dict[str, Any]]


@functools.cache
def finished_run() -> Finished:
    """Run once in this process's life, and return what came."""
    folder = Path(tempfile.mkdtemp(prefix="gloveflow-finished-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    line = new_store(folder)
    code, output = line.run("run", *small_options(folder / "inputs"))
    if code != 0:
        raise RuntimeError(f"an undisturbed run ended with {code}: {output}")
    return describe_finished(line.artifacts)


def describe_finished(artifacts: Path) -> Finished:
    """Return digests and answers of a finished run."""
    with mock.patch.dict(os.environ, GLOVEFLOW_ARTIFACTS=str(artifacts), MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false"):
        answers = load_model(MODEL, "champion").classify(list(TEXTS))
    return Finished(artifacts, output_digests(artifacts), answers)
