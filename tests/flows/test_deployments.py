"""Schedules: a served deployment gets its runs, and only one runs at a time."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import ConcurrencyLimitStrategy
from prefect.runner import Runner

from flows import deployments
from flows.deployments import check_schedule, end_runs, running_in_thread
from pipeline_config.errors import ConfigError, ServiceError
from tests.flows.waiting_flow import wait

IGNORES_SIGTERM = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
time.sleep(600)
"""
STOPS_BEFORE_THE_SERVERS = """
import sys
import flows.cli.servers
def stop(*_):
    print("prefect:", "prefect" in sys.modules)
    sys.exit()
flows.cli.servers.running_servers = stop
from flows.cli.main import main
main(sys.argv[1:])
"""


@pytest.mark.parametrize(
    ("cron", "timezone"), [("0 3 * *", "UTC"), ("61 * * * *", "UTC"), ("", "UTC"), ("0 3 * * *", "Nowhere")]
)
def test_a_wrong_schedule_is_refused(cron: str, timezone: str) -> None:
    with pytest.raises(ConfigError, match=r"--(cron|timezone): got"):
        check_schedule(cron, timezone)


def test_a_served_cron_deployment_gets_scheduled_runs(
    command_line: Any, overrides: list[str], prefect_api: str
) -> None:
    options = [part for text in overrides for part in ("--set", text)]
    served = command_line.start(
        "serve", "--preset", "smoke", *options, "--cron", "0 3 * * *", "--timezone", "Europe/Berlin"
    )
    try:
        deployment, runs = wait_for_runs("train-classifier/tiny", seconds=180)
        assert len(runs) >= 2, "the scheduler made no runs"
        assert {run.state_name for run in runs} == {"Scheduled"}
        assert {run.parameters["config"]["training"]["epochs"] for run in runs} == {6}
        local = [run.expected_start_time.astimezone().hour for run in runs if run.expected_start_time]
        assert local
        assert deployment.schedules[0].schedule.cron == "0 3 * * *"
        assert deployment.schedules[0].schedule.timezone == "Europe/Berlin"
        assert deployment.global_concurrency_limit.limit == 1
        assert deployment.concurrency_options.collision_strategy == ConcurrencyLimitStrategy.CANCEL_NEW
    finally:
        served.send_signal(signal.SIGTERM)
        output, _ = served.communicate(timeout=60)
    assert served.returncode == 0, output
    assert "Traceback" not in output
    with get_client(sync_client=True) as client:
        assert not client.read_deployment(deployment.id).paused


@pytest.mark.usefixtures("prefect_api")
def test_a_run_is_ended_at_once_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = Runner(name="waiting", query_seconds=0.2)
    deployment = runner.add_flow(wait, parameters={"seconds": 600})
    with running_in_thread(runner), get_client(sync_client=True) as client:
        assert not end_runs(runner)
        run = client.create_flow_run_from_deployment(deployment).id
        wait_until(lambda: client.read_flow_run(run).state_name == "Running")
        monkeypatch.setattr(deployments, "STOP_SECONDS", 60.0)  # it ends by itself
        assert end_runs(runner)
        state = client.read_flow_run(run).state
        assert state
        assert (state.name, state.message) == ("Crashed", "Execution was aborted by a termination signal.")


def test_a_runner_that_ends_on_its_own_is_an_error() -> None:
    class Broken:
        async def start(self) -> None:
            raise RuntimeError("no more")

    with pytest.raises(ServiceError, match="runner ended: no more"), running_in_thread(Broken()) as watch:  # type: ignore[arg-type]
        watch()


def test_a_run_that_does_not_end_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deployments, "STOP_SECONDS", 0.05)
    with subprocess.Popen([sys.executable, "-c", IGNORES_SIGTERM], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"ready\n"
        processes = SimpleNamespace(flow_run_ids=lambda: {1}, get={1: process}.get)
        assert end_runs(SimpleNamespace(_process_manager=processes))  # type: ignore[arg-type]
    assert process.returncode == -signal.SIGKILL


def test_prefect_is_not_imported_before_its_server_is_known(tmp_path: Path) -> None:
    """It reads the address when it is imported; without one, it would start a server that outlives the service."""
    ended = subprocess.run(
        [sys.executable, "-c", STOPS_BEFORE_THE_SERVERS, "serve", "--preset", "smoke", "--cron", "0 3 * * *"],
        env={**os.environ, "GLOVEFLOW_ARTIFACTS": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.stdout == "prefect: False\n", ended.stderr


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def wait_for_runs(name: str, *, seconds: float) -> tuple[Any, list[Any]]:
    """Return a deployment and its flow runs, once there are at least two or the time is over."""
    deadline = time.monotonic() + seconds
    deployment, runs = None, []
    with get_client(sync_client=True) as client:
        while time.monotonic() < deadline and len(runs) < 2:
            time.sleep(0.5)
            try:
                deployment = client.read_deployment_by_name(name)
            except Exception:
                continue
            runs = client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
            )
    return deployment, runs
