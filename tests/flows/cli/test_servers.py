"""The servers of the commands: which are started, how, and what is recorded while they run."""

import inspect
import os
import signal
from pathlib import Path

import pytest
from prefect.server.api.server import create_app

from flows.cli import servers
from flows.cli.server_process import Server, stop_servers
from flows.cli.server_records import read_servers, record_servers
from flows.cli.server_secret import make_secret
from flows.cli.servers import embedded_prefect, mlflow_server, page_servers, prefect_server, running_servers
from pipeline_config.errors import ServiceError
from tests.flows.cli.conftest import MakeToy


@pytest.fixture
def no_server_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_UI_URL", "MLFLOW_TRACKING_URI"):
        monkeypatch.setenv(name, "")  # so that monkeypatch undoes what the code sets
        monkeypatch.delenv(name)


def test_running_servers_are_recorded_and_stopped_after_the_body(make_toy: MakeToy, tmp_path: Path) -> None:
    running = [make_toy(name="prefect"), make_toy(name="mlflow")]
    urls = {server.name: server.url for server in running}
    handler = signal.getsignal(signal.SIGTERM)
    with running_servers(tmp_path, running):
        assert [server.process.poll() for server in running] == [None, None]
        assert read_servers(tmp_path) == urls
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    assert [server.process.returncode for server in running] == [-signal.SIGTERM] * 2
    assert not (tmp_path / "servers.json").exists()
    assert signal.getsignal(signal.SIGTERM) is handler


def test_a_failed_start_stops_the_servers_that_run_already_and_records_none(make_toy: MakeToy, tmp_path: Path) -> None:
    failing, good = make_toy("failing", "prefect"), make_toy(name="mlflow")
    with pytest.raises(ServiceError, match="did not start"), running_servers(tmp_path, [failing, good]):
        pytest.fail("entered without servers")
    assert good.process.poll() is not None
    assert not (tmp_path / "servers.json").exists()


@pytest.mark.usefixtures("no_server_variables")
def test_pages_come_back_at_their_last_ports(tmp_path: Path) -> None:
    first = page_servers(tmp_path)
    ports = {server.name: server.port for server in first}
    record_servers(tmp_path, {server.name: server.url for server in first})
    stop_servers(first)
    again = page_servers(tmp_path)
    elsewhere = page_servers(tmp_path)
    try:
        assert {server.name: server.port for server in again} == ports
        assert not {server.port for server in elsewhere} & set(ports.values())
    finally:
        stop_servers(again + elsewhere)


@pytest.mark.usefixtures("no_server_variables")
@pytest.mark.parametrize(
    ("variable", "address", "started"),
    [
        ("PREFECT_API_URL", "http://prefect.example/api", ["mlflow"]),
        ("MLFLOW_TRACKING_URI", "https://mlflow.example", ["prefect"]),
        ("MLFLOW_TRACKING_URI", "postgresql://user:pass@db/mlflow", ["prefect", "mlflow"]),
    ],
)
def test_no_pages_are_started_for_a_server_of_the_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, address: str, started: list[str]
) -> None:
    monkeypatch.setenv(variable, address)
    made = page_servers(tmp_path)
    stop_servers(made)
    assert [server.name for server in made] == started
    assert page_servers(tmp_path, without=("prefect", "mlflow")) == []


def test_a_prefect_server_of_the_user_is_used_and_none_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.setattr(servers, "prefect_server", lambda *_, **__: pytest.fail("started a server"))
    with embedded_prefect(tmp_path) as wait:
        wait()
        assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"


@pytest.mark.usefixtures("no_server_variables")
def test_the_embedded_server_serves_the_body_and_is_stopped_after_an_error(
    make_toy: MakeToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server: Server = make_toy()
    url = server.url
    monkeypatch.setattr(servers, "prefect_server", lambda *_, **__: server)

    def use_server() -> None:
        with embedded_prefect(tmp_path) as wait:
            assert os.environ["PREFECT_API_URL"] == f"{url}/api"
            assert os.environ["PREFECT_API_AUTH_STRING"] == server.secret.text
            wait()
            raise RuntimeError("body")

    with pytest.raises(RuntimeError, match="body"):
        use_server()
    assert "PREFECT_API_URL" not in os.environ
    assert server.process.returncode == -signal.SIGTERM


@pytest.mark.usefixtures("no_server_variables")
def test_only_one_embedded_server_starts_at_a_time(
    make_toy: MakeToy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.store.locks import try_lock

    monkeypatch.setattr(servers, "prefect_server", lambda *_, **__: make_toy())
    lock = tmp_path / "prefect" / ".start.lock"

    def is_free() -> bool:
        with lock.open("a") as file:
            return try_lock(file.fileno(), lock)

    with embedded_prefect(tmp_path) as wait:
        assert not is_free()  # until the server is up, since it may still migrate the database
        wait()
        assert is_free()


@pytest.mark.parametrize("pages", [True, False])
def test_prefect_is_started_for_its_purpose(tmp_path: Path, pages: bool) -> None:
    server = prefect_server(tmp_path, 0, pages=pages)
    port = server.port
    stop_servers([server])
    assert server.log == tmp_path / "logs" / "prefect-server.log"
    assert server.variables["PREFECT_UI_ENABLED"] == ("true" if pages else "false")
    assert ("PREFECT__SERVER_EPHEMERAL" in server.variables) is not pages  # without it, the scheduler runs
    assert server.variables["PREFECT_SERVER_API_AUTH_STRING"] == server.secret.text == make_secret(tmp_path).text
    origins = f"http://127.0.0.1:{port},http://localhost:{port}"
    assert server.variables["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == origins


def test_the_password_of_a_database_is_in_no_list_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://user:canary@db/mlflow")
    seen: list[object] = []
    monkeypatch.setattr("subprocess.Popen", lambda command, **_: seen.append(command))
    server = mlflow_server(tmp_path, 0)
    server.start()
    server.listener.close()
    assert len(seen) == 1
    assert "canary" not in str(seen)


@pytest.mark.parametrize("name", ["PREFECT__SERVER_EPHEMERAL", "PREFECT__SERVER_FINAL"])
def test_prefect_still_reads_the_undocumented_variables_that_we_set(name: str) -> None:
    assert name in inspect.getsource(create_app)
