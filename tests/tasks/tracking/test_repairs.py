"""Runs and models that killed processes left open."""

import pytest

from tasks.store.locks import lock_before_naming
from tasks.tracking import repairs, runs
from tasks.tracking.models import DIGEST_TAG
from tasks.tracking.server import open_client


@pytest.fixture
def experiment(tracked):
    return open_client().create_experiment("e", artifact_location=(tracked / "mlflow" / "files").as_uri())


def start(experiment: str, name: str, lock: str | None) -> str:
    tags = {runs.LOCK_TAG: lock} if lock else {}
    return open_client().create_run(experiment, tags=tags, run_name=name).info.run_id


def status(run_id: str) -> str:
    return open_client().get_run(run_id).info.status


def test_only_runs_whose_lock_nobody_holds_are_dead(experiment):
    runs.live_directory().mkdir(parents=True)
    (runs.live_directory() / "dead.lock").touch()
    held = lock_before_naming(runs.live_directory() / "alive.lock")
    names = {"left": "dead", "without a file": "gone", "alive": "alive", "of others": None}
    ids = {name: start(experiment, name, lock) for name, lock in names.items()}
    assert held
    assert sorted(repairs.find_dead_runs()) == ["left", "without a file"]
    assert repairs.end_dead_runs() == "2 MLflow runs of processes that are gone are KILLED"
    assert {name: status(run_id) for name, run_id in ids.items()} == {
        "left": "KILLED",
        "without a file": "KILLED",
        "alive": "RUNNING",
        "of others": "RUNNING",
    }
    assert repairs.find_dead_runs() == []
    assert [path.name for path in runs.live_directory().iterdir()] == ["alive.lock"]


def test_models_left_pending_by_an_ended_run_become_failed(experiment):
    client = open_client()
    ended, running = start(experiment, "ended", None), start(experiment, "running", None)
    client.set_terminated(ended, "KILLED")
    made = {
        name: client.create_logged_model(experiment, name=name, source_run_id=run, tags=tags)
        for name, run, tags in (
            ("left", ended, {DIGEST_TAG: "x"}),
            ("busy", running, {DIGEST_TAG: "x"}),
            ("of-others", ended, {}),
        )
    }
    assert repairs.find_pending_models() == [made["left"].model_id]
    assert repairs.end_pending_models() == "1 logged models are FAILED"
    states = {name: str(client.get_logged_model(model.model_id).status) for name, model in made.items()}
    assert states == {"left": "FAILED", "busy": "PENDING", "of-others": "PENDING"}
