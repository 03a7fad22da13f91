"""Damage in the records of runs and models, planted in a finished run's artifacts, and mended by the doctor."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import flow, get_client
from prefect.states import Completed, Running

from flows.cli.main import run_command
from flows.cli.prefect_damage import _held_slots, _open_flow_runs, check_flow_runs
from flows.cli.registry_damage import check_aliases, check_models
from pipeline_config.registration import RegistrationConfig
from tasks.store.locks import lock_before_naming
from tests.flows.conftest import copy_finished
from tests.registrations import model_folder

MODEL = "gloveflow-tiny"
GATE = RegistrationConfig()


@pytest.fixture
def store(finished: Any, artifacts: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run's artifacts; version 2, with files of its own, is champion, version 1 the previous."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    copy_finished(finished[0], artifacts)
    from tasks.registry.changes import promote
    from tasks.tracking.server import open_client

    client = open_client()
    version = client.get_model_version(MODEL, "1")
    copy = artifacts / "mlflow" / "files" / "second"
    shutil.copytree(model_folder("1", MODEL), copy)
    client.create_model_version(MODEL, copy.as_uri(), version.run_id, tags=version.tags)
    promote(MODEL, 2, GATE, why="a test")
    return artifacts


def snapshot(root: Path) -> dict[str, bytes]:
    skipped = (".lock", ".db-shm", ".db-wal")
    return {str(p): p.read_bytes() for p in root.rglob("*") if p.is_file() and not p.name.endswith(skipped)}


def aliases() -> dict[str, str]:
    from tasks.tracking.versions import require_model

    return require_model(MODEL)


def test_everything_that_is_planted_is_named_and_mended_and_nothing_else(
    store: Path, finished: tuple[Path, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    from tasks.tracking import runs
    from tasks.tracking.models import DIGEST_TAG
    from tasks.tracking.server import open_client

    client = open_client()
    experiment = client.get_experiment_by_name("gloveflow/tiny")
    assert experiment
    run = client.create_run(experiment.experiment_id, tags={runs.LOCK_TAG: "gone"}, run_name="killed").info.run_id
    ended = client.create_run(experiment.experiment_id).info.run_id
    client.set_terminated(ended, "KILLED")
    model = client.create_logged_model(
        experiment.experiment_id, name="half", source_run_id=ended, tags={DIGEST_TAG: "x"}
    )
    (model_folder("2", MODEL) / "model.py").write_text("raise SystemExit\n")
    damaged = store / Path(finished[1].store["evaluate_classifier"]).relative_to(finished[0])
    (damaged / "metrics.json").write_text("{}")
    (damaged.parent / f".tmp-{damaged.name}-01234567").mkdir()
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    entry = {"name": "mlflow", "url": "http://127.0.0.1:9", "process": gone.pid}
    (store / "servers.json").write_text(json.dumps([entry]))
    before = snapshot(store)
    assert run_command(["doctor", "--repair", "--dry-run"]) == 4
    bad = [line for line in capsys.readouterr().out.splitlines() if line.startswith("BAD")]
    assert [line.split()[1] for line in bad] == ["store", "leftover", "servers.json", "dead", "logged", "registry"]
    assert snapshot(store) == before
    assert run_command(["doctor", "--repair"]) == 0
    output = capsys.readouterr().out
    assert f"mend registry: champion of {MODEL} is moved from version 2 to version 1" in output
    assert client.get_run(run).info.status == "KILLED"
    assert str(client.get_logged_model(model.model_id).status) == "FAILED"
    assert aliases() == {"challenger": "1", "champion": "1"}
    lost = {path for path in before if not Path(path).exists()}
    assert lost == {str(path) for path in map(Path, before) if damaged in path.parents} | {str(store / "servers.json")}
    assert len(list((store / "moved-aside").glob("*/evaluate_classifier/*/metrics.json"))) == 1
    assert run_command(["predict", "--set", "name=tiny", "the goal of the match"]) == 0
    assert capsys.readouterr().out.startswith("sports")


def test_aliases_of_a_registry_that_is_not_of_these_artifacts_are_not_moved(store: Path) -> None:
    shutil.rmtree(model_folder("2", MODEL))
    own, other = ([f for f in check_aliases(store, GATE, own=value) if not f.ok] for value in (True, False))
    assert own[0].remedy
    assert own[0].mend
    assert [(finding.remedy, finding.mend) for finding in other] == [("", None)]


def test_open_flow_runs_are_found_in_the_database_of_prefect(prefect_server_root: Path, prefect_api: str) -> None:
    @flow
    def some() -> None: ...

    with get_client(sync_client=True) as client:
        open_one, ended = (str(client.create_flow_run(some, state=state).id) for state in (Running(), Completed()))
    database = prefect_server_root / "home" / "prefect.db"
    assert _open_flow_runs(database, [open_one, ended, str(uuid4())]) == [open_one]
    assert _open_flow_runs(database.with_name("none.db"), [open_one]) == []


def test_a_flow_run_whose_process_is_gone_is_left_to_a_server_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = tmp_path / "prefect" / "live"
    held = lock_before_naming(live / "held.lock")
    (live / "ended.lock").touch()
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert list(check_flow_runs(tmp_path)) == []  # our own database shows none as open
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    (finding,) = check_flow_runs(tmp_path)
    os.close(held)
    assert finding.text.startswith("1 flow runs whose process is gone")
    assert finding.remedy == "set those that are open to Crashed, as the next run would do"


def test_registrations_that_were_broken_off_are_mended_and_whole_ones_left_alone(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from tasks.tracking import runs, strays
    from tasks.tracking.models import DIGEST_TAG
    from tasks.tracking.server import open_client
    from tasks.tracking.version_list import DECISION_TAG, RUN_TAG

    client = open_client()
    assert list(check_models(store, GATE)) == []
    experiment = client.get_experiment_by_name("gloveflow/tiny")
    assert experiment
    killed = client.create_run(experiment.experiment_id, tags={runs.LOCK_TAG: "gone"}).info.run_id  # still RUNNING
    tags = client.get_model_version(MODEL, "1").tags
    half = {key: value for key, value in tags.items() if key != DECISION_TAG} | {RUN_TAG: killed}
    client.create_model_version(MODEL, model_folder("1", MODEL).as_uri(), killed, tags=half)
    unregistered = client.create_logged_model(
        experiment.experiment_id, name="whole", source_run_id=killed, tags={DIGEST_TAG: "x"}
    )
    client.log_model_artifacts(unregistered.model_id, str(model_folder("1", MODEL)))
    client.finalize_logged_model(unregistered.model_id, "READY")
    lost = store / "mlflow" / "files" / "01234567" / ("0" * 32)
    (lost / "artifacts").mkdir(parents=True)
    found = list(check_models(store, GATE))
    assert [finding.subject for finding in found] == ["registration", "registration", "leftover"]
    assert f"{MODEL} version 3" in found[0].text
    assert unregistered.model_id in found[1].text
    assert run_command(["doctor", "--repair"]) == 0
    assert "mend registration: removed 1 models" in capsys.readouterr().out
    assert "was interrupted" in client.get_model_version(MODEL, "3").tags[DECISION_TAG]
    assert client.get_model_version(MODEL, "1").tags[DECISION_TAG] == tags[DECISION_TAG]
    assert not lost.exists()
    assert strays.find_unregistered() == []
    assert aliases() == {"challenger": "1", "champion": "2", "previous": "1"}
    assert run_command(["doctor"]) == 0


def test_a_slot_that_no_run_holds_is_found_and_freed(prefect_server_root: Path, prefect_api: str) -> None:
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    from flows.recovery import free_slots

    database = prefect_server_root / "home" / "prefect.db"
    with get_client(sync_client=True) as client:
        for name, slots in (("held", 1), ("free", 0)):
            client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=1, active_slots=slots))
    assert "held" in _held_slots(database)
    assert "free" not in _held_slots(database)
    free_slots(["held"])
    assert "held" not in _held_slots(database)
