"""The servers that commands start: Prefect's API (with or without its pages) and MLflow's pages.

They listen on 127.0.0.1 and answer only requests to that address from pages of their own, which MLflow checks itself.
Prefect asks for the secret of these artifacts. They write their output to `<artifacts>/logs`, and end with the process
that started them, even if that is killed. Imports only the standard library, so that a server starts while the command
still imports prefect.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from flows.cli.environment import MLFLOW_PORT, PREFECT_PORT, answers, write_servers
from flows.cli.prefect_secret import identify_server, make_secret
from pipeline_config.errors import ServiceError
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory, open_to_append

START_SECONDS = 120.0
STOP_SECONDS = 8.0
REASON = "gloveflow: "  # how the line of the log begins in which our server says why it did not start
# variables of MLflow that would switch off its checks of host and origin, or widen them
MLFLOW_CHECKS = (
    "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE",
    "MLFLOW_SERVER_ALLOWED_HOSTS",
    "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS",
)


class Server(NamedTuple):
    """A server process that this command has started."""

    name: str
    url: str
    health: str
    log: Path
    process: subprocess.Popen[bytes]
    secret: str | None = None

    def wait_until_up(self) -> None:
        """Wait until the server answers.

        Raises:
            ServiceError: it ended, or did not answer within `START_SECONDS`.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(
                    f"the {self.name} server did not start on {self.url}; its output is in {self.log}{self._reason()}"
                )
            time.sleep(0.05)

    def _reason(self) -> str:
        """Return the reason that `flows.cli.prefect_server` gave as its last line, if it did."""
        with contextlib.suppress(OSError):
            last = self.log.read_bytes().decode("utf-8", "replace").rstrip("\n").rpartition("\n")[2]
            if last.startswith(REASON):
                return f": {last.removeprefix(REASON)}"
        return ""

    def is_up(self) -> bool:
        """Return whether the server answers; one with a secret must prove that it is the process that was started."""
        if not answers(self.url + self.health):
            return False
        return self.secret is None or identify_server(self.url, self.secret) == self.process.pid

    def stop(self) -> None:
        """End the server with SIGTERM, and with SIGKILL if it still runs after `STOP_SECONDS`."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def embedded_prefect(root: Path) -> Iterator[Callable[[], None]]:
    """Run a Prefect API server without pages during the body, unless `PREFECT_API_URL` names a server.

    Yields:
        A function that waits until the server is up.
    """
    if "PREFECT_API_URL" in os.environ:
        yield lambda: None
        return
    lock = contextlib.ExitStack()  # two servers must not migrate one new database at the same time
    lock.enter_context(
        file_lock(root / "prefect" / ".start.lock", waiting_for="another run to start its Prefect server")
    )
    server = start_prefect(root, find_port(0), pages=False)
    before = os.environ.get("PREFECT_API_AUTH_STRING")
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    os.environ["PREFECT_API_AUTH_STRING"] = server.secret or ""
    os.environ.setdefault("PREFECT_UI_URL", f"http://127.0.0.1:{PREFECT_PORT}")  # where `gloveflow ui` shows the run

    def wait() -> None:
        with lock:
            server.wait_until_up()

    try:
        yield wait
    finally:
        lock.close()
        os.environ.pop("PREFECT_API_URL", None)
        os.environ.pop("PREFECT_API_AUTH_STRING", None)
        if before is not None:
            os.environ["PREFECT_API_AUTH_STRING"] = before
        server.stop()


@contextlib.contextmanager
def running_servers(root: Path, starts: list[Callable[[], Server]]) -> Iterator[list[Server]]:
    """Start servers, wait until all are up, record their addresses, and stop them after the body."""
    servers: list[Server] = []
    try:
        servers.extend(start() for start in starts)
        for server in servers:
            server.wait_until_up()
        write_servers(root, {server.name: server.url for server in servers})
        yield servers
    finally:
        for server in servers:
            server.stop()


def start_prefect(root: Path, port: int, *, pages: bool) -> Server:
    """Start a Prefect API server; with `pages` it also serves the UI and runs the scheduler."""
    url = f"http://127.0.0.1:{port}"
    make_directory(Path(os.environ.get("PREFECT_HOME", root)))
    secret = make_secret(root)
    environment = {
        "PREFECT_UI_ENABLED": "true" if pages else "false",
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": secret,
        "PREFECT_API_AUTH_STRING": secret,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        **({} if pages else {"PREFECT__SERVER_EPHEMERAL": "1"}),
    }
    command = [
        "flows.cli.prefect_server", "flows.cli.prefect_app:create_app", "--factory",
        "--host", "127.0.0.1", "--port", str(port), "--app-dir", str(Path(__file__).parents[2]),
        "--log-level", "error", "--lifespan", "on", "--timeout-keep-alive", "5", "--timeout-graceful-shutdown", "3",
    ]  # fmt: skip
    server = _start(
        "prefect",
        command,
        url=url,
        health="/api/health",
        root=root,
        environment=environment,
        without=("PREFECT_API_URL",),
    )
    return server._replace(secret=secret)


def start_mlflow(root: Path, port: int) -> Server:
    """Start MLflow's server on the tracking database."""
    from tasks.tracking.server import open_client, tracking_uri

    open_client()  # sets up a new database before the server opens it
    command = [
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", tracking_uri(), "--artifacts-destination", str(root / "mlflow" / "files"),
        "--allowed-hosts", f"127.0.0.1:{port},localhost:{port}",
        "--cors-allowed-origins", f"http://127.0.0.1:{port},http://localhost:{port}",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    return _start("mlflow", command, url=url, health="/health", root=root, without=MLFLOW_CHECKS)


def start_pages(root: Path) -> list[Callable[[], Server]]:
    """Return functions that start both servers with pages, on their usual ports if these are free."""
    return [
        lambda: start_prefect(root, find_port(PREFECT_PORT), pages=True),
        lambda: start_mlflow(root, find_port(MLFLOW_PORT)),
    ]


def find_port(wanted: int) -> int:
    """Return the wanted port of 127.0.0.1 if it is free, else a free one."""
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return int(probe.getsockname()[1])
    raise ServiceError("no free port on 127.0.0.1")


def _start(
    name: str,
    command: list[str],
    *,
    url: str,
    health: str,
    root: Path,
    environment: Mapping[str, str] = MappingProxyType({}),
    without: tuple[str, ...] = (),
) -> Server:
    """Start `python -m` a command as a server.

    Args:
        name: name of the server, for its log file and for messages.
        command: module and arguments.
        url: address of the server.
        health: path below the address that answers once the server is up.
        root: the artifacts directory.
        environment: variables to set for the server.
        without: variables of this process that the server must not inherit.
    """
    log = root / "logs" / f"{name}-server.log"
    inherited = {key: value for key, value in os.environ.items() if key not in without}
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"  # where mlflow finds uvicorn
    with open_to_append(log) as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**inherited, **environment, "PATH": scripts},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C goes to the command alone, which then stops its servers
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    return Server(name, url, health, log, process)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def wait_for_end(servers: list[Server]) -> None:
    """Return after Ctrl-C or SIGTERM.

    Raises:
        ServiceError: a server ended on its own.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for server in servers:
                if server.process.poll() is not None:
                    raise ServiceError(f"the {server.name} server ended unexpectedly; its output is in {server.log}")
            time.sleep(0.5)
