"""A secret in the address of a corpus: whatever a run leaves or prints is searched for it."""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import trustme
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker

from flows.cli.console import show_log_lines
from flows.pipeline import train_pipeline
from pipeline_config import masking
from pipeline_config.errors import GloveflowError, ServiceError
from pipeline_config.resolve import resolve_config
from tasks.tracking.server import open_client
from tests.flaky_server import flaky_server
from tests.https_server import fixed, serve, whole
from tests.small_run import CommandLine, set_options

CANARY = "canary-5f1c7e9b"


def find_canary(folder: Path) -> list[str]:
    """Return the files of a folder, databases and their journals included, that hold the canary or have it as name."""
    return [
        str(path)
        for path in folder.rglob("*")
        if CANARY in path.name or (path.is_file() and CANARY.encode() in path.read_bytes())
    ]


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the variables that other tests referred to."""
    monkeypatch.setattr(masking, "_known", {})


def expect_no_canary(capfd: pytest.CaptureFixture[str], *roots: Path) -> None:
    """Search what was printed, and everything below some directories after Prefect has sent what it holds."""
    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)
    printed = capfd.readouterr()
    assert CANARY not in printed.out + printed.err
    assert {root: find_canary(root) for root in roots} == {root: [] for root in roots}


@pytest.mark.parametrize("given", ["literal", "reference"])
def test_a_secret_of_a_source_is_nowhere_in_what_a_run_leaves_and_prints(
    given: str,
    inputs: Path,
    overrides: list[str],
    prefect_api: str,
    prefect_server_root: Path,
    artifacts: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("CANARY_USER", f"me:{CANARY}")
    monkeypatch.setenv("CANARY", CANARY)
    secrets = (f"me:{CANARY}", CANARY) if given == "literal" else ("${CANARY_USER}", "${CANARY}")
    show_log_lines()
    with serve(authority) as server:
        at = f"https://{secrets[0]}@127.0.0.1:{server.server_port}"
        path = f"/c.csv?token={CANARY}"
        server.script(path, fixed(503), whole((inputs / "corpus.csv").read_bytes()))
        settings = [*overrides, f"corpus.source={at}/c.csv?token={secrets[1]}", "training.epochs=1"]
        config = resolve_config(preset="smoke", overrides=settings).config
        with monkeypatch.context() as patch:
            patch.setattr("tasks.fetching.mirrors.PAUSE_SECONDS", 0.01)
            result = train_pipeline(config)
        assert server.requests[-1][1]["Authorization"].startswith("Basic ")
        gone = resolve_config(
            preset="smoke", overrides=[*overrides, f"corpus.source={at}/gone.csv?token={secrets[1]}"]
        ).config
        server.script(f"/gone.csv?token={CANARY}", fixed(404))
        with pytest.raises(GloveflowError, match="got status 404") as failed:
            train_pipeline(gone)
    assert CANARY not in str(failed.value)
    logging.getLogger("tasks").warning("https://me:%s@host", CANARY)
    EventsWorker.drain_all(timeout=10)
    APILogWorker.drain_all(timeout=10)
    params = open_client().get_run(result.mlflow_url.rpartition("/")[2]).data.params
    assert "c.csv?token=" in params["corpus.source"]  # it is logged, but without the secret
    printed = capfd.readouterr()
    assert "@host" in printed.err
    assert CANARY not in printed.out + printed.err
    assert find_canary(artifacts) == []
    assert find_canary(prefect_server_root) == []


def test_a_secret_in_parameters_of_another_caller_is_masked_in_mlflow(config: Any, artifacts: Path) -> None:
    from tasks.tracking.runs import log_json, log_tags, track_run

    literal = config.model_copy(
        update={"corpus": config.corpus.model_copy(update={"source": f"https://me:{CANARY}@host/c.csv"})}
    )
    with track_run(literal, name="masked", tags={"a": f"https://{CANARY}@host"}) as run:
        log_tags(run.run_id, {"b": f"https://host/?token={CANARY}"})
        log_json(run.run_id, {"c": [f"https://{CANARY}@host"]}, "c.json")
    logged = open_client().get_run(run.run_id).data
    assert logged.params["corpus.source"] == "https://***@host/c.csv"
    assert json.dumps(logged.tags).count("***") == 2
    assert find_canary(artifacts) == []


def test_a_secret_in_an_error_of_a_library_is_masked_in_prefect_and_printed_nowhere(
    finished: tuple[Path, Any],
    config: Any,
    prefect_api: str,
    prefect_server_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> None:
        raise ConnectionResetError(f"GET https://me:{CANARY}@host/?token={CANARY} was cut")

    shutil.copytree(finished[0] / "store", tmp_path / "artifacts" / "store")
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr("tasks.tracking.metrics.log_metrics", fail)
    show_log_lines()
    with pytest.raises(RuntimeError, match=r"^ConnectionResetError: GET https://\*\*\*@host/\?token=\*\*\* was cut$"):
        train_pipeline(config)
    expect_no_canary(capfd, tmp_path / "artifacts", prefect_server_root)


def test_the_secret_of_a_proxy_is_nowhere(
    overrides: list[str],
    prefect_api: str,
    prefect_server_root: Path,
    artifacts: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://me:{CANARY}@127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("tasks.fetching.mirrors.PAUSE_SECONDS", 0.0)
    monkeypatch.setattr("tasks.fetching.mirrors.MAX_TRIES_WITHOUT_PROGRESS", 1)
    config = resolve_config(preset="smoke", overrides=[*overrides, "corpus.source=https://corpus.example/c.csv"]).config
    show_log_lines()
    with pytest.raises(ServiceError, match=r"corpus\.example"):
        train_pipeline(config)
    expect_no_canary(capfd, artifacts, prefect_server_root)


def test_secrets_of_the_addresses_of_servers_are_nowhere(
    command_line: CommandLine, overrides: list[str], prefect_server: str, prefect_server_root: Path
) -> None:
    user = os.environ["PREFECT_API_AUTH_STRING"]
    password = user.partition(":")[2]
    with flaky_server() as mlflow:
        mlflow.statuses["POST"] = 500
        command_line.environment |= {
            "PREFECT_API_URL": prefect_server.replace("//", f"//{user}@"),
            "MLFLOW_TRACKING_URI": mlflow.url.replace("//", f"//me:{CANARY}@"),
        }
        command_line.environment.pop("PREFECT_API_AUTH_STRING")
        code, output = command_line.run("run", "--preset", "smoke", *set_options(overrides))
    assert code == 5, output
    assert f"MLflow at {mlflow.url} failed at" in output
    assert CANARY not in output
    assert password not in output
    assert find_canary(command_line.artifacts) == []
    assert find_canary(prefect_server_root) == []
    assert not any(password.encode() in path.read_bytes() for path in prefect_server_root.rglob("*.db*"))
