"""Runs whose process is gone are ended everywhere, and what they held is free again."""

import importlib
import os
import signal
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow, get_client, task
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.states import Pending, Running

from flows import recovery
from flows.recovery import (
    close_late_task_runs,
    close_task_runs,
    hold_flow_run,
    hold_process,
    recover_deployment,
    sweep,
    sweeping,
)

HOLD = """
import sys, time
from pathlib import Path
from tasks.store.locks import lock_before_naming
lock_before_naming(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@flow(name="toy")
def toy() -> None:
    """A flow that is never called."""


@task
def work() -> None:
    """A task that is never called."""


@pytest.fixture(autouse=True)
def no_mlflow(monkeypatch: pytest.MonkeyPatch, artifacts: Path) -> None:
    monkeypatch.setattr(recovery, "end_dead_runs", list)


@pytest.fixture
def deployment(prefect_api: str) -> Any:
    """A deployment of which one run at a time may go on."""
    name = f"d{uuid4().hex[:8]}"
    limit = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)
    made = toy.to_deployment(name, concurrency_limit=limit)
    made.apply()
    with get_client(sync_client=True) as client:
        return client.read_deployment_by_name(f"toy/{name}")


def start_run(deployment: Any, *, running: bool = True) -> UUID:
    """Create a flow run that takes the slot of the deployment, as a service does."""
    with get_client(sync_client=True) as client:
        run = client.create_flow_run_from_deployment(deployment.id)
        client.set_flow_run_state(run.id, Pending())
        if running:
            client.set_flow_run_state(run.id, Running())
        return run.id


def state_of(identity: UUID) -> str:
    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(identity).state_name)


def slots_of(deployment: Any) -> int:
    with get_client(sync_client=True) as client:
        return int(client.read_deployment(deployment.id).global_concurrency_limit.active_slots)


def lock_file(identity: UUID, artifacts: Path) -> Path:
    path = artifacts / "prefect" / "live" / f"{identity}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def test_a_run_that_was_killed_before_it_began_is_found_by_the_tag_of_its_process(
    prefect_api: str, artifacts: Path
) -> None:
    tags = [hold_process(), "process-1-of-a-killed-one"]
    dead = artifacts / "prefect" / "live" / f"{tags[1]}.lock"
    dead.touch()
    with get_client(sync_client=True) as client:
        runs = [client.create_flow_run(toy, tags=[tag], state=Pending()).id for tag in tags]
        sweep()
        assert [client.read_flow_run(run).state.name for run in runs] == ["Pending", "Crashed"]
    assert not dead.exists()


class TestSweep:
    def test_a_run_is_left_alone_while_its_process_lives_and_ended_when_it_is_killed(
        self, deployment: Any, artifacts: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        run = start_run(deployment)
        path = artifacts / "prefect" / "live" / f"{run}.lock"
        holder = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
        try:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
            sweep()
            assert (state_of(run), slots_of(deployment)) == ("Running", 1)
        finally:
            holder.send_signal(signal.SIGKILL)
            holder.communicate()
        sweep()
        assert (state_of(run), slots_of(deployment)) == ("Crashed", 0)
        assert list((artifacts / "prefect" / "live").iterdir()) == []
        assert f"flow run {run} was left Running by a process that is gone: now Crashed" in caplog.messages
        assert state_of(start_run(deployment)) == "Running"  # which the slot did not hinder

    def test_task_runs_of_ended_flow_runs_are_ended_too(self, deployment: Any, artifacts: Path) -> None:
        run = start_run(deployment)
        lock_file(run, artifacts)
        with get_client(sync_client=True) as client:
            left = [
                client.create_task_run(work, run, dynamic_key=str(n), state=state).id
                for n, state in enumerate((Running(), Pending()))
            ]
            sweep()
            assert [client.read_task_run(identity).state_name for identity in left] == ["Crashed"] * 2

    def test_a_task_run_that_is_recorded_after_its_flow_run_was_ended_is_ended_later(self, deployment: Any) -> None:
        crashed, alive = (start_run(deployment, running=False) for _ in range(2))
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(crashed, recovery.Crashed(), force=True)
            late, own, not_ready = (
                client.create_task_run(work, run, dynamic_key=key, state=Pending(name=key)).id
                for run, key in ((crashed, "Pending"), (alive, "Pending"), (crashed, "NotReady"))
            )
            close_late_task_runs(deployment.name)
            states = [str(client.read_task_run(identity).state_name) for identity in (late, own, not_ready)]
            assert states == ["Crashed", "Pending", "NotReady"]

    def test_a_run_that_ended_by_itself_keeps_its_state(self, deployment: Any, artifacts: Path) -> None:
        with get_client(sync_client=True) as client:
            run = client.create_flow_run_from_deployment(deployment.id).id
            client.set_flow_run_state(run, recovery.Crashed(name="Ended"), force=True)
        file = lock_file(run, artifacts)
        sweep()
        assert (state_of(run), file.exists()) == ("Ended", False)

    def test_the_files_stay_while_a_server_is_away(self, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(_: object) -> None:
            raise httpx.ConnectError("refused")

        monkeypatch.setattr(recovery, "close_flow_runs", refuse)
        file = lock_file(uuid4(), artifacts)
        with pytest.raises(httpx.ConnectError):
            sweep()
        assert file.exists()

    def test_without_ended_runs_no_server_is_asked(self, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(recovery, "get_client", lambda **_: pytest.fail("asked a server"))
        identity = str(uuid4())
        hold_flow_run(identity)  # by this process, which lives
        assert [path.stem for path in (artifacts / "prefect" / "live").iterdir()] == [identity]
        sweep()
        close_task_runs([])


class TestRecoverDeployment:
    @staticmethod
    def recover(deployment: Any, *, seconds_from_now: float = 60) -> None:
        recover_deployment(f"toy/{deployment.name}", before=datetime.now(UTC) + timedelta(seconds=seconds_from_now))

    @pytest.mark.parametrize("running", [False, True], ids=["pending", "running"])
    def test_a_run_that_no_process_holds_is_ended_and_its_slot_is_free(self, deployment: Any, running: bool) -> None:
        run = start_run(deployment, running=running)
        self.recover(deployment)
        assert (state_of(run), slots_of(deployment)) == ("Crashed", 0)

    def test_a_later_run_and_a_run_with_a_lock_file_are_left_alone(self, deployment: Any, artifacts: Path) -> None:
        run = start_run(deployment)
        self.recover(deployment, seconds_from_now=-60)
        lock_file(run, artifacts)
        self.recover(deployment)
        assert (state_of(run), slots_of(deployment)) == ("Running", 1)

    def test_a_slot_that_no_run_holds_is_freed(self, deployment: Any) -> None:
        with get_client(sync_client=True) as client:
            client.update_global_concurrency_limit(
                f"deployment:{deployment.id}", recovery.GlobalConcurrencyLimitUpdate(active_slots=1)
            )
        self.recover(deployment)
        assert slots_of(deployment) == 0

    @pytest.mark.usefixtures("prefect_api")
    def test_a_deployment_that_is_not_there_yet_needs_nothing(self) -> None:
        recover_deployment("toy/never-served", before=datetime.now(UTC))


class TestSweeping:
    @pytest.fixture
    def calls(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        """What was called, in order; the second sweep says so."""
        made: list[str] = []
        monkeypatch.setattr(recovery, "sweep", lambda: made.append("sweep"))
        monkeypatch.setattr(recovery, "recover_deployment", lambda name, *, before: made.append(name))  # noqa: ARG005
        return made

    def test_it_sweeps_at_the_start_and_goes_on(self, calls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
        again = threading.Event()
        monkeypatch.setattr(recovery, "SWEEP_SECONDS", 0.01)
        monkeypatch.setattr(recovery, "close_late_task_runs", lambda name: again.set() if name == "x" else None)
        with sweeping("toy/x", own_server=True):
            assert calls[:2] == ["sweep", "toy/x"]
            assert again.wait(5)

    def test_runs_of_other_machines_and_of_another_service_are_left_alone(self, calls: list[str]) -> None:
        with sweeping("toy/x", own_server=False):
            assert calls == ["sweep"]
        with sweeping("toy/x", own_server=True), sweeping("toy/x", own_server=True):
            assert calls == ["sweep", "sweep", "toy/x", "sweep"]

    def test_a_server_that_is_away_is_logged_and_the_service_goes_on(
        self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def refuse() -> None:
            raise httpx.ConnectError("refused")

        monkeypatch.setattr(recovery, "sweep", refuse)
        with sweeping("toy/x", own_server=True):
            assert caplog.messages == ["runs of processes that are gone could not be ended this time: refused"]


def test_leases_are_kept_on_disk_by_a_module_that_prefect_has() -> None:
    module = importlib.import_module(os.environ["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"])
    storage = module.ConcurrencyLeaseStorage()
    assert storage.storage_path == Path(os.environ["PREFECT_HOME"]) / "concurrency_leases"
