"""One Prefect server, one small corpus and one finished run for all tests of the flows."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.settings import (
    PREFECT_API_AUTH_STRING,
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

from flows.cli.server_process import stop_servers
from flows.cli.servers import prefect_server as make_prefect_server
from pipeline_config.resolve import resolve_config
from pipeline_config.settings import PipelineConfig
from tests.small_run import CommandLine, small_run, write_inputs


@pytest.fixture(scope="session")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="session")
def overrides(inputs: Path) -> list[str]:
    """`--set` values that turn the smoke preset into a run of a few seconds on the small corpus."""
    return small_run(inputs)


@pytest.fixture(scope="session")
def config(overrides: list[str]) -> PipelineConfig:
    return resolve_config(preset="smoke", overrides=overrides).config


@pytest.fixture(scope="session")
def prefect_server_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the Prefect server: its database and its log."""
    return tmp_path_factory.mktemp("prefect")


@pytest.fixture(scope="session")
def prefect_server(prefect_server_root: Path) -> Iterator[str]:
    """Run one Prefect server, scheduler included, and return its API's address."""
    root = prefect_server_root
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", str(root / "home"))
        patch.setenv("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
        server = make_prefect_server(root, 0, pages=True)
        server.start()
    try:
        server.wait_until_up()
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_API_AUTH_STRING", server.secret.text)
            yield f"{server.url}/api"
        EventsWorker.drain_all(timeout=5)
        APILogWorker.drain_all(timeout=5)
    finally:
        stop_servers([server])


@pytest.fixture
def prefect_api(prefect_server: str) -> Iterator[str]:
    """Let flows of this process use the server."""
    with temporary_settings(client_settings(prefect_server)):
        yield prefect_server


def client_settings(api: str) -> dict[Any, Any]:
    """Return the settings of Prefect with which this process uses the shared server."""
    secret = os.environ["PREFECT_API_AUTH_STRING"]
    return {PREFECT_API_URL: api, PREFECT_API_AUTH_STRING: secret, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}


@pytest.fixture(scope="session")
def finished(prefect_server: str, config: PipelineConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """Run the flow once and return its artifacts directory and its result; tests must not change either."""
    root = tmp_path_factory.mktemp("finished") / "artifacts"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GLOVEFLOW_ARTIFACTS", str(root))
        patch.setenv("PREFECT_API_URL", prefect_server)
        from flows.pipeline import train_pipeline

        with temporary_settings(client_settings(prefect_server)):
            return root, train_pipeline(config)


@pytest.fixture
def on_finished(finished: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> Any:
    """Point this process at the finished run's artifacts; returns the run's result."""
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(finished[0]))
    return finished[1]


@pytest.fixture
def on_copy(finished: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefect_api: str) -> Any:
    """Point this process at a copy of the finished run's artifacts, for further runs; returns the run's result."""
    copy_finished(finished[0], tmp_path / "copy")
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(tmp_path / "copy"))
    return finished[1]


@pytest.fixture
def command_line(tmp_path: Path, prefect_server: str) -> CommandLine:
    return CommandLine(tmp_path / "artifacts", prefect_server)


def copy_finished(root: Path, place: Path) -> None:
    """Copy the finished run's artifacts to a place that does not exist."""
    shutil.copytree(root, place)
