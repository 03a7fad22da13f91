"""Server processes: ports, starting, waiting, watching, stopping."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from flows.cli import server_process
from flows.cli.server_process import Server, keep_running, listen, rotate_log, stop_servers, wait_for_interrupt, watched
from flows.cli.server_secret import identify_server
from pipeline_config.errors import ServiceError
from tasks.store.private_files import open_to_append
from tests.flows.cli.conftest import MakeToy

IS_KILLED = """
import os, signal, sys
from pathlib import Path
from tests.flows.cli.conftest import toy_server

server = toy_server(Path(sys.argv[1]), "good", "toy")
server.start()
server.wait_until_up()
print(server.process.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def wait_for(condition: Callable[[], object]) -> None:
    for _ in range(1200):
        if condition():
            return
        threading.Event().wait(0.05)
    pytest.fail("did not come in a minute")


def test_a_free_port_is_used_as_wanted_and_one_in_use_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with listen(0) as first:
        port = first.getsockname()[1]
        with caplog.at_level(logging.WARNING), listen(port) as second:
            other = second.getsockname()[1]
        assert other not in (0, port)
        assert f"another program uses port {port}, the server gets port {other}" in caplog.text
    with listen(port) as again:
        assert again.getsockname()[1] == port


def test_nobody_gets_the_port_of_a_server_that_has_not_started_or_has_died(make_toy: MakeToy) -> None:
    server = make_toy()
    for prepare in (lambda: None, lambda: (server.start(), server.wait_until_up(), server.process.kill())):
        prepare()
        with socket.socket() as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", server.port))


def test_a_server_is_up_once_it_proves_that_it_is_the_process_that_was_started(make_toy: MakeToy) -> None:
    server, other = make_toy(), make_toy(name="other")
    for each in (server, other):
        each.start()
        each.wait_until_up()
    assert identify_server(server.url, server.secret) == server.process.pid
    server.process, other.process = other.process, server.process
    assert not server.is_up()


def test_a_server_that_does_not_start_is_an_error_with_the_reason_of_its_log(make_toy: MakeToy) -> None:
    server = make_toy("failing")
    server.start()
    with pytest.raises(ServiceError, match=r"the toy server did not start on http.*/toy\.log: toy\.db: cannot be"):
        server.wait_until_up()


def test_a_server_that_does_not_answer_in_time_is_an_error(make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "START_SECONDS", -1.0)
    server = make_toy("silent")
    server.start()
    with pytest.raises(ServiceError, match=r"the toy server did not start on http.*/toy\.log$"):
        server.wait_until_up()


def test_servers_are_stopped_with_sigterm_and_killed_if_they_do_not_end(
    make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "STOP_SECONDS", 0.05)
    silent, stubborn, never = make_toy("silent"), make_toy("stubborn", "stubborn"), make_toy("silent", "never")
    for server in (silent, stubborn):
        server.start()
        wait_for(lambda server=server: "ready" in server.log.read_text())
    stop_servers([silent, stubborn, never])
    assert silent.process.returncode == -signal.SIGTERM
    assert stubborn.process.returncode == -signal.SIGKILL
    assert never.listener.fileno() == -1


def test_a_server_that_dies_is_started_again_at_its_address(
    make_toy: MakeToy, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "WATCH_SECONDS", 0.05)
    servers = [make_toy(), make_toy(name="other")]
    for server in servers:
        server.start()
    for server in servers:
        server.wait_until_up()
    before = [server.process.pid for server in servers]
    urls = [server.url for server in servers]
    with caplog.at_level(logging.INFO), watched(servers):
        servers[0].process.kill()
        wait_for(lambda: "the toy server is up again" in caplog.text)
    after = [server.process.pid for server in servers]
    assert (after[0] != before[0], after[1]) == (True, before[1])
    assert [identify_server(url, servers[0].secret) for url in urls] == after
    assert f"the toy server ended (SIGKILL), it is started again on {urls[0]}" in caplog.text


def test_a_server_that_cannot_start_again_ends_the_command(make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "WATCH_SECONDS", 0.01)
    server = make_toy("failing")
    server.start()
    server.process.wait()
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with pytest.raises(ServiceError, match=r"did not start.*cannot be migrated"), watched([server]):
            wait_for_interrupt()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_server_that_hangs_when_it_is_started_again_is_an_error(
    make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "WATCH_SECONDS", 0.01)
    monkeypatch.setattr(server_process, "START_SECONDS", -1.0)
    server = make_toy("silent")
    server.start()
    server.process.kill()
    with pytest.raises(ServiceError, match="the toy server did not start"):
        keep_running([server], threading.Event())


@pytest.mark.parametrize("variable", ["PREFECT_API_URL", "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"])
def test_what_would_mislead_a_server_or_switch_off_its_checks_is_not_inherited(
    make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("OTHER", "kept")
    server, seen = make_toy(), {}
    monkeypatch.setattr(subprocess, "Popen", lambda command, **options: seen.update(options, command=command))
    server.start()
    assert variable not in seen["env"]
    assert seen["env"]["OTHER"] == "kept"
    assert server.secret.text not in str(seen["command"])  # every user can read the arguments of a process
    assert seen["start_new_session"] is True
    del server.process


def test_a_server_ends_with_the_process_that_started_it_even_if_that_is_killed(tmp_path: Path) -> None:
    parent = subprocess.run(
        [sys.executable, "-c", IS_KILLED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert parent.returncode == -signal.SIGKILL, parent.stderr
    pid = int(parent.stdout)

    def is_gone() -> bool:
        state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return not state.stdout.strip() or state.stdout.startswith("Z")

    wait_for(is_gone)


def test_a_server_is_of_no_use_to_a_copy_of_its_store(make_toy: MakeToy, tmp_path: Path) -> None:
    import shutil

    from flows.cli.server_secret import read_secret

    server: Server = make_toy()
    server.start()
    server.wait_until_up()
    copy = shutil.copytree(tmp_path, tmp_path.with_name("copy"))
    secret = read_secret(copy)
    assert secret is not None
    assert secret.text == server.secret.text
    assert identify_server(server.url, secret) is None


def test_a_log_that_has_grown_is_copied_and_its_process_goes_on_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "LOG_BYTES", 10)
    log = tmp_path / "some.log"
    rotate_log(log)  # it is missing
    with open_to_append(log) as file:
        for number in range(6):
            file.write(b"short")
            file.flush()
            rotate_log(log)
            file.write(f"line {number}, long enough\n".encode())
            file.flush()
            rotate_log(log)
        file.write(b"last\n")
    contents = {path.name: path.read_text() for path in sorted(tmp_path.iterdir())}
    assert contents == {
        "some.log": "last\n",
        "some.log.1": "shortline 5, long enough\n",
        "some.log.2": "shortline 4, long enough\n",
        "some.log.3": "shortline 3, long enough\n",
    }
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}


def test_the_log_of_a_server_rotates_while_it_runs(make_toy: MakeToy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "LOG_BYTES", 100)
    server = make_toy()
    server.start()
    server.wait_until_up()
    with watched([server]), open_to_append(server.log) as file:
        file.write(b"x" * 1000)
        file.flush()
        wait_for(lambda: server.log.with_name(f"{server.log.name}.1").exists() and server.log.stat().st_size < 100)
