"""The record of running servers, and the ports of the next start."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.cli import server_records
from flows.cli.server_records import forget_servers, last_port, read_servers, record_servers
from flows.cli.server_secret import make_secret
from tests.flows.cli.conftest import MakeToy


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The addresses whose servers prove that they are ours."""
    urls: set[str] = set()
    monkeypatch.setattr(server_records, "identify_server", lambda url, _secret: 7 if url in urls else None)
    return urls


def record_for(process: int, root: Path, servers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, "getpid", lambda: process)
        record_servers(root, servers)


def test_of_several_servers_the_youngest_that_is_ours_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, believed: set[str]
) -> None:
    make_secret(tmp_path)
    parent = os.getppid()
    record_for(parent, tmp_path, {"prefect": "http://127.0.0.1:1", "mlflow": "http://127.0.0.1:2"}, monkeypatch)
    record_servers(tmp_path, {"prefect": "http://127.0.0.1:3"})
    believed |= {"http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3"}
    assert read_servers(tmp_path) == {"prefect": "http://127.0.0.1:3", "mlflow": "http://127.0.0.1:2"}
    believed.remove("http://127.0.0.1:3")
    assert read_servers(tmp_path)["prefect"] == "http://127.0.0.1:1"
    forget_servers(tmp_path)
    assert [entry["process"] for entry in json.loads((tmp_path / "servers.json").read_text())] == [parent] * 2


def test_entries_of_killed_commands_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    record_for(ended.pid, tmp_path, {"prefect": "http://127.0.0.1:1"}, monkeypatch)
    record_servers(tmp_path, {"mlflow": "http://127.0.0.1:2"})
    assert [entry["name"] for entry in json.loads((tmp_path / "servers.json").read_text())] == ["mlflow"]
    forget_servers(tmp_path)
    assert not (tmp_path / "servers.json").exists()
    assert (last_port(tmp_path, "prefect"), last_port(tmp_path, "mlflow")) == (1, 2)


def test_without_an_earlier_start_the_usual_ports_are_wanted(tmp_path: Path) -> None:
    assert (last_port(tmp_path, "prefect"), last_port(tmp_path, "mlflow")) == (4200, 5000)


@pytest.mark.parametrize("content", ["", "{", "null", "[1]", '{"prefect": "http://127.0.0.1:1"}', '[{"name": "a"}]'])
def test_an_unreadable_record_counts_as_empty(tmp_path: Path, content: str, believed: set[str]) -> None:
    make_secret(tmp_path)
    believed.add("http://127.0.0.1:1")
    (tmp_path / "servers.json").write_text(content)
    (tmp_path / "prefect" / "ports.json").write_text(content)
    assert read_servers(tmp_path) == {}
    assert last_port(tmp_path, "prefect") == 4200
    record_servers(tmp_path, {"prefect": "http://127.0.0.1:1"})
    assert read_servers(tmp_path) == {"prefect": "http://127.0.0.1:1"}


def test_the_server_of_another_store_that_has_got_the_port_is_not_believed(make_toy: MakeToy, tmp_path: Path) -> None:
    server = make_toy()
    server.start()
    server.wait_until_up()
    other = tmp_path / "other"
    make_secret(other)
    for root in (tmp_path, other):
        record_servers(root, {"prefect": server.url})
    assert read_servers(tmp_path) == {"prefect": server.url}
    assert read_servers(other) == {}
