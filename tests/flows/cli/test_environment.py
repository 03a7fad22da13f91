"""The environment variables of a command."""

import os
from pathlib import Path

import pytest

from flows.cli import server_records
from flows.cli.environment import prepare_environment
from flows.cli.server_records import record_servers
from flows.cli.server_secret import make_secret


@pytest.fixture(autouse=True)
def clean_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "GLOVEFLOW_ARTIFACTS",
        "PREFECT_HOME",
        "PREFECT_API_URL",
        "PREFECT_API_AUTH_STRING",
        "GLOVEFLOW_MLFLOW_URL",
    ):
        monkeypatch.setenv(name, "")  # so that monkeypatch undoes what the code sets
        monkeypatch.delenv(name)


def test_artifacts_are_absolute_so_that_children_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare_environment() == tmp_path / "artifacts"
    assert os.environ["GLOVEFLOW_ARTIFACTS"] == str(tmp_path / "artifacts")
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "artifacts" / "prefect")


def test_variables_that_the_user_has_set_are_not_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "DEBUG")
    prepare_environment(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"
    assert os.environ["MLFLOW_LOGGING_LEVEL"] == "DEBUG"
    assert "PREFECT_HOME" not in os.environ


@pytest.mark.parametrize("up", [True, False])
def test_servers_are_used_only_while_they_prove_that_they_are_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: bool
) -> None:
    record_servers(tmp_path, {"prefect": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:2"})
    secret = make_secret(tmp_path)
    monkeypatch.setattr(server_records, "identify_server", lambda _url, asked: 7 if up and asked == secret else None)
    prepare_environment(tmp_path)
    assert os.environ.get("PREFECT_API_URL") == ("http://127.0.0.1:1/api" if up else None)
    assert os.environ.get("PREFECT_API_AUTH_STRING") == (secret.text if up else None)
    assert os.environ["GLOVEFLOW_MLFLOW_URL"] == "http://127.0.0.1:2"  # where the pages will be again


def test_a_command_with_servers_of_its_own_uses_no_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_secret(tmp_path)
    record_servers(tmp_path, {"prefect": "http://127.0.0.1:1"})
    monkeypatch.setattr(server_records, "identify_server", lambda *_: 7)
    prepare_environment(tmp_path, use_running=False)
    assert not {"PREFECT_API_URL", "GLOVEFLOW_MLFLOW_URL"} & set(os.environ)
