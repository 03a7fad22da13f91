"""The environment variables of a command, and the recorded servers."""

import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli import environment
from flows.cli.environment import prepare_environment, read_servers, write_servers
from flows.cli.prefect_secret import make_secret


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
def test_a_recorded_server_is_used_only_while_it_proves_that_it_is_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, up: bool
) -> None:
    write_servers(tmp_path, {"prefect": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:2"})
    secret = make_secret(tmp_path)
    known = {("http://127.0.0.1:1", secret): 7} if up else {}
    monkeypatch.setattr(environment, "identify_server", lambda *asked: known.get(asked))
    prepare_environment(tmp_path)
    assert os.environ.get("PREFECT_API_URL") == ("http://127.0.0.1:1/api" if up else None)
    assert os.environ.get("PREFECT_API_AUTH_STRING") == (secret if up else None)
    assert os.environ["GLOVEFLOW_MLFLOW_URL"] == "http://127.0.0.1:2"


@pytest.mark.parametrize("content", ["", "[1]", "{", "null"])
def test_an_unreadable_list_of_servers_counts_as_empty(tmp_path: Path, content: str) -> None:
    (tmp_path / "servers.json").write_text(content)
    assert read_servers(tmp_path) == {}


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """A socket that listens on 127.0.0.1."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener


@pytest.mark.parametrize(
    ("reply", "answered"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", True),
        (b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n", False),
        (b"220 mail.example ESMTP\r\n", False),
        (b"", False),
    ],
    ids=["success", "failure", "another protocol", "no reply"],
)
def test_only_a_success_counts_as_an_answer(listener: socket.socket, reply: bytes, answered: bool) -> None:
    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(4096)
            connection.sendall(reply)

    thread = threading.Thread(target=serve)
    thread.start()
    assert environment.answers(f"http://127.0.0.1:{listener.getsockname()[1]}/health") is answered
    thread.join()


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/health", "no address"])
def test_an_address_without_a_server_does_not_answer(url: str) -> None:
    assert environment.answers(url) is False
