"""Servers: ports, addresses, starting, waiting, stopping."""

import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from prefect.server.api.server import create_app

from flows.cli import servers
from flows.cli.environment import read_servers
from flows.cli.prefect_secret import make_secret
from flows.cli.servers import Server, embedded_prefect, find_port, running_servers, start_prefect, wait_for_end
from pipeline_config.errors import ServiceError

SLEEP = "import time; time.sleep(600)"
IGNORE_SIGTERM = (
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True)\n" + SLEEP
)
STARTS_A_SERVER = """
import os, signal, sys
from pathlib import Path
from flows.cli.servers import _start

server = _start("sleeping", ["http.server", "0"], url="http://127.0.0.1:1", health="/", root=Path(sys.argv[1]))
print(server.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def make_server(tmp_path: Path):
    """Return a function that starts a Python process as a server; the processes end with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def make_server(source: str = SLEEP, name: str = "toy", url: str = "http://127.0.0.1:1") -> Server:
        process = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE)
        started.append(process)
        return Server(name, url, "/health", tmp_path / f"{name}.log", process)

    yield make_server
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def all_up(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let every server answer at once; the addresses that were asked."""
    asked: list[str] = []
    monkeypatch.setattr(servers, "answers", lambda url: asked.append(url) or True)
    return asked


def test_a_free_port_is_used_as_wanted() -> None:
    free = find_port(0)
    assert find_port(free) == free


def test_in_place_of_a_port_in_use_another_one_is_found() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        taken = listener.getsockname()[1]
        assert find_port(taken) not in (0, taken)


def test_a_server_is_up_once_its_health_address_answers(make_server: Callable[..., Server], all_up: list[str]) -> None:
    make_server(url="http://127.0.0.1:7").wait_until_up()
    assert all_up == ["http://127.0.0.1:7/health"]


def test_a_server_that_ends_before_it_is_up_is_an_error_that_names_its_log(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "answers", lambda _: False)
    server = make_server("raise SystemExit(1)")
    server.process.wait()
    with pytest.raises(ServiceError, match=r"the toy server did not start on http://127\.0\.0\.1:1; .*/toy\.log"):
        server.wait_until_up()


def test_the_reason_that_a_server_gives_in_its_log_is_part_of_the_error(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(servers, "answers", lambda _: False)
    (tmp_path / "toy.log").write_text(f"old lines\n{servers.REASON}prefect.db: cannot be migrated\n")
    server = make_server("raise SystemExit(1)")
    server.process.wait()
    with pytest.raises(ServiceError, match=r"its output is in .*/toy\.log: prefect\.db: cannot be migrated$"):
        server.wait_until_up()


def test_a_server_that_does_not_answer_in_time_is_an_error(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "answers", lambda _: False)
    monkeypatch.setattr(servers, "START_SECONDS", -1.0)
    with pytest.raises(ServiceError, match="the toy server did not start"):
        make_server().wait_until_up()


def test_a_server_is_stopped_with_sigterm(make_server: Callable[..., Server]) -> None:
    server = make_server()
    server.stop()
    assert server.process.returncode == -signal.SIGTERM


def test_a_server_that_ignores_sigterm_is_killed(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "STOP_SECONDS", 0.05)
    server = make_server(IGNORE_SIGTERM)
    assert server.process.stdout is not None
    assert server.process.stdout.readline() == b"ready\n"
    server.stop()
    assert server.process.returncode == -signal.SIGKILL


def test_running_servers_are_recorded_and_stopped_after_the_body(
    make_server: Callable[..., Server], all_up: list[str], tmp_path: Path
) -> None:
    starts = [lambda: make_server(name="prefect", url="http://a"), lambda: make_server(name="mlflow", url="http://b")]
    with running_servers(tmp_path, starts) as running:
        assert [server.process.poll() for server in running] == [None, None]
        assert read_servers(tmp_path) == {"prefect": "http://a", "mlflow": "http://b"}
    assert [server.process.returncode for server in running] == [-signal.SIGTERM] * 2


def test_a_failed_start_stops_the_servers_that_run_already_and_records_none(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(servers, "answers", lambda _: False)
    made: list[Server] = []

    def start(source: str) -> Server:
        made.append(make_server(source))
        return made[-1]

    starts = [lambda: start("raise SystemExit(1)"), lambda: start(SLEEP)]
    with pytest.raises(ServiceError, match="did not start"), running_servers(tmp_path, starts):
        pytest.fail("entered without servers")
    assert all(server.process.poll() is not None for server in made)
    assert read_servers(tmp_path) == {}


def test_waiting_ends_with_an_error_when_a_server_ends(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    server = make_server("pass")
    server.process.wait()
    with pytest.raises(ServiceError, match=r"the toy server ended unexpectedly; its output is in .*toy\.log"):
        wait_for_end([server])


def test_waiting_ends_without_an_error_at_ctrl_c(
    make_server: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(_seconds: float) -> None:
        raise KeyboardInterrupt

    handlers = {}
    monkeypatch.setattr(signal, "signal", handlers.__setitem__)
    monkeypatch.setattr(servers.time, "sleep", interrupt)
    wait_for_end([make_server()])
    assert handlers == {signal.SIGTERM: signal.default_int_handler}


def test_a_server_of_the_user_is_used_and_none_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    monkeypatch.setattr(servers, "start_prefect", lambda *_, **__: pytest.fail("started a server"))
    with embedded_prefect(tmp_path) as wait:
        wait()
        assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"
    assert os.environ["PREFECT_API_URL"] == "http://prefect.example/api"


def test_the_embedded_server_serves_the_body_and_is_stopped_after_an_error(
    make_server: Callable[..., Server], all_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_UI_URL"):
        monkeypatch.setenv(name, "")  # so that monkeypatch undoes what the code sets
        monkeypatch.delenv(name)
    server = make_server(url="http://127.0.0.1:9")
    monkeypatch.setattr(servers, "start_prefect", lambda *_, **__: server)

    def use_server() -> None:
        with embedded_prefect(tmp_path) as wait:
            assert os.environ["PREFECT_API_URL"] == "http://127.0.0.1:9/api"
            wait()
            raise RuntimeError("body")

    with pytest.raises(RuntimeError, match="body"):
        use_server()
    assert "PREFECT_API_URL" not in os.environ
    assert server.process.returncode == -signal.SIGTERM


def test_only_one_embedded_server_starts_at_a_time(
    make_server: Callable[..., Server], all_up: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.store.locks import try_lock

    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_UI_URL"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(servers, "start_prefect", lambda *_, **__: make_server())
    lock = tmp_path / "prefect" / ".start.lock"

    def is_free() -> bool:
        with lock.open("a") as file:
            return try_lock(file.fileno(), lock)

    with embedded_prefect(tmp_path) as wait:
        assert not is_free()  # until the server is up, since it may still migrate the database
        wait()
        assert is_free()


@pytest.mark.parametrize("pages", [True, False])
def test_prefect_is_started_for_its_purpose_and_without_the_address_of_another_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pages: bool
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://prefect.example/api")
    seen: dict[str, object] = {}

    def popen(command: list[str], **options: object) -> None:
        seen.update(options, command=command)

    monkeypatch.setattr(subprocess, "Popen", popen)
    server = start_prefect(tmp_path, 4299, pages=pages)
    environment = seen["env"]
    assert isinstance(environment, dict)
    assert (server.name, server.url, server.health) == ("prefect", "http://127.0.0.1:4299", "/api/health")
    assert server.log == tmp_path / "logs" / "prefect-server.log"
    assert environment["PREFECT_UI_ENABLED"] == ("true" if pages else "false")
    assert ("PREFECT__SERVER_EPHEMERAL" in environment) is not pages  # without it, the scheduler runs
    assert "PREFECT_API_URL" not in environment
    assert environment["PREFECT_SERVER_API_AUTH_STRING"] == server.secret == make_secret(tmp_path)
    assert environment["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1:4299,http://localhost:4299"
    assert server.secret not in str(seen["command"])  # every user can read the arguments of a process
    assert seen["command"][-1:] == ["3"]  # type: ignore[index]
    assert seen["start_new_session"] is True


def test_prefect_still_reads_the_undocumented_variables_that_we_set() -> None:
    source = inspect.getsource(create_app)
    assert "PREFECT__SERVER_EPHEMERAL" in source
    assert "PREFECT__SERVER_FINAL" in source


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot bind a process to its parent")
def test_a_server_ends_with_the_process_that_started_it_even_if_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", STARTS_A_SERVER, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    ended = threading.Event()
    status = Path(f"/proc/{parent.stdout.strip()}/stat")
    for _ in range(200):
        try:
            if status.read_text().rpartition(")")[2].split()[0] == "Z":  # ended; nobody has collected it yet
                break
        except (FileNotFoundError, ProcessLookupError):
            break
        ended.wait(0.05)
    else:
        os.kill(int(parent.stdout), signal.SIGKILL)
        pytest.fail("the server outlived its parent")
