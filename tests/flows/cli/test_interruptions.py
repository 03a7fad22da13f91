"""Runs that are killed, interrupted, or started twice: no partial output, the right states, no work done twice."""

import json
import signal
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from prefect import get_client

from tasks.tracking import models, server
from tests.small_run import set_options

STAGES = [
    "download_glove",
    "ingest_corpus",
    "tokenize_corpus",
    "build_vocabulary",
    "align_embeddings",
    "bucket_corpus",
    "train_baseline",
    "train_classifier",
    "evaluate_classifier",
]

# Python that makes a run kill itself, with SIGKILL, at a point of its work on one stage.
KILL = """
import os, signal, tasks.store.commit as commit
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
"""
BEFORE_THE_MANIFEST = (
    KILL
    + """
manifest = commit._write_manifest
commit._write_manifest = lambda output, **k: die() if k["stage"] == "{stage}" else manifest(output, **k)
"""
)
IN_TRAINING = (
    KILL
    + """
import tasks.training.training_state as training_state
validate = training_state.validate
def die_in_second_epoch(network, split, seen=[]):
    seen.append(1)
    return die() if len(seen) > 1 else validate(network, split)
training_state.validate = die_in_second_epoch
"""
)
REGISTERING = (
    KILL
    + """
import tasks.tracking.models as models
models.set_alias = die
"""
)
WAITING = """
import tasks.training.training_state as training_state, time
validate = training_state.validate
def slow(network, split):
    print("TRAINING", flush=True)
    time.sleep(1)
    return validate(network, split)
training_state.validate = slow
"""


def digests(artifacts: Path) -> dict[str, list[str]]:
    """Return the digests of all committed outputs by stage."""
    return {
        stage: sorted(
            json.loads(path.read_text())["digest"] for path in (artifacts / "store" / stage).glob("*/manifest.json")
        )
        for stage in STAGES
    }


def last_run(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(artifacts))
    client = server.open_client()
    experiment = client.get_experiment_by_name("gloveflow/tiny")
    return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]


def flow_state(run: Any) -> str:
    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(UUID(run.data.tags["prefect.flow_run_id"])).state_name)


@pytest.mark.timeout(600)
def test_killed_at_any_point_the_next_run_finishes_with_the_same_outputs(
    command_line: Any,
    finished: tuple[Path, Any],
    overrides: list[str],
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    points = [  # the campaign `kills` plays all others
        BEFORE_THE_MANIFEST.replace("{stage}", "tokenize_corpus"),
        IN_TRAINING,
        REGISTERING,
    ]
    for point in points:
        code, output = command_line.run("run", "--preset", "smoke", *set_options(overrides), before=point)
        assert code == -signal.SIGKILL, output
    killed = last_run(command_line.artifacts, monkeypatch)
    assert killed.info.status == "RUNNING"
    code, output = command_line.run("run", "--preset", "smoke", *set_options(overrides))
    assert code == 0, output
    unbroken = {Path(directory).parent.name: Path(directory) for directory in finished[1].store.values()}
    expected = {
        stage: [json.loads((directory / "manifest.json").read_text())["digest"]]
        for stage, directory in unbroken.items()
    }
    assert digests(command_line.artifacts) == expected
    assert not list((command_line.artifacts / "store").glob("*/.tmp-*"))
    closed = server.open_client().get_run(killed.info.run_id)
    assert closed.info.status == "KILLED"
    assert flow_state(closed) == "Crashed"
    versions = server.open_client().search_model_versions("name = 'gloveflow-tiny'")
    assert len(versions) == 1
    assert models.find_alias("gloveflow-tiny", "champion") is not None


@pytest.mark.timeout(400)
def test_two_runs_on_one_fresh_store_both_finish_and_compute_each_stage_once(
    command_line: Any, finished: tuple[Path, Any], overrides: list[str]
) -> None:
    arguments = ("run", "--preset", "smoke", *set_options(overrides))
    runs = [command_line.start(*arguments) for _ in range(2)]
    outputs = [run.communicate(timeout=240)[0] for run in runs]
    assert [run.returncode for run in runs] == [0, 0], outputs
    for stage in STAGES:
        lines = [line for output in outputs for line in output.splitlines() if line[10:].startswith(f"{stage} ")]
        assert sorted("cached" in line for line in lines) == [False, True], lines


@pytest.mark.parametrize(
    ("number", "flow_run_state"), [(signal.SIGINT, "Cancelled"), (signal.SIGTERM, "Crashed")], ids=["ctrl-c", "sigterm"]
)
def test_an_interrupted_run_ends_soon_and_says_so_everywhere(
    command_line: Any,
    overrides: list[str],
    number: signal.Signals,
    flow_run_state: str,
    prefect_api: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options = set_options([*overrides, "training.epochs=200"])
    process = command_line.start("run", "--preset", "smoke", *options, before=WAITING)
    assert process.stdout is not None
    while "TRAINING" not in (line := process.stdout.readline()):
        assert line, "the run ended before it trained"
    process.send_signal(number)
    started = time.monotonic()
    output, _ = process.communicate(timeout=60)
    assert time.monotonic() - started < 30
    assert process.returncode == 130
    assert "Traceback" not in output
    assert "nterrupted" in output
    run = last_run(command_line.artifacts, monkeypatch)
    assert run.info.status == "KILLED"
    assert flow_state(run) == flow_run_state
    assert digests(command_line.artifacts)["train_classifier"] == []
    (checkpoint,) = (command_line.artifacts / "checkpoints" / "train_classifier").glob("*/checkpoint.safetensors")
    assert checkpoint.stat().st_size > 0  # from which the next run goes on
