"""Schedules: a served deployment gets its runs, and only one runs at a time."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from prefect import get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterId
from prefect.client.schemas.objects import ConcurrencyLimitStrategy

from flows.deployments import check_schedule
from pipeline_config.errors import ConfigError

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
        deployment, runs = wait_for_runs("train-classifier/tiny", seconds=90)
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
    assert "Traceback" not in output
    with get_client(sync_client=True) as client:
        assert not client.read_deployment(deployment.id).paused


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
