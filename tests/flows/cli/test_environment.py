"""The environment of a process, and the servers it knows."""

import os
from pathlib import Path

import pytest

from flows.cli import environment
from flows.cli.environment import prepare_environment, read_servers, write_servers


@pytest.fixture(autouse=True)
def clean_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GLOVEFLOW_ARTIFACTS", "PREFECT_HOME", "PREFECT_API_URL", "GLOVEFLOW_MLFLOW_URL"):
        monkeypatch.setenv(name, "")  # so that monkeypatch takes back what the code sets
        monkeypatch.delenv(name)


def test_artifacts_are_absolute_so_that_children_find_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert prepare_environment() == tmp_path / "artifacts"
    assert os.environ["GLOVEFLOW_ARTIFACTS"] == str(tmp_path / "artifacts")
    assert os.environ["PREFECT_HOME"] == str(tmp_path / "artifacts" / "prefect")


def test_what_the_user_has_set_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.setenv("MLFLOW_LOGGING_LEVEL", "DEBUG")
    prepare_environment(tmp_path)
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"
    assert os.environ["MLFLOW_LOGGING_LEVEL"] == "DEBUG"
    assert "PREFECT_HOME" not in os.environ


@pytest.mark.parametrize("up", [True, False])
def test_a_server_of_ours_is_used_only_while_it_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: bool
) -> None:
    write_servers(tmp_path, {"prefect": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:2"})
    monkeypatch.setattr(environment, "answers", lambda url: up and url == "http://127.0.0.1:1/api/health")
    prepare_environment(tmp_path)
    assert os.environ.get("PREFECT_API_URL") == ("http://127.0.0.1:1/api" if up else None)
    assert os.environ["GLOVEFLOW_MLFLOW_URL"] == "http://127.0.0.1:2"


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_an_unreadable_list_of_servers_is_no_server(tmp_path: Path, content: str) -> None:
    (tmp_path / "servers.json").write_text(content)
    assert read_servers(tmp_path) == {}
