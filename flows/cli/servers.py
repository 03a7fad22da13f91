"""The servers that our commands start for themselves: Prefect's API (and pages) and MLflow's pages.

They listen on 127.0.0.1, write their output under `<artifacts>/logs`, and end with the process that started
them, however that ends. Only standard library, so that a server can start while prefect is still importing.
"""

import contextlib
import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from flows.cli.environment import MLFLOW_PORT, PREFECT_PORT, answers, write_servers
from pipeline_config.errors import ServiceError
from tasks.store.locks import file_lock

START_SECONDS = 120.0
STOP_SECONDS = 8.0


class Server(NamedTuple):
    """A server process of ours."""

    name: str
    url: str
    health: str
    log: Path
    process: subprocess.Popen[bytes]

    def wait_until_up(self) -> None:
        """Wait until the server answers.

        Raises:
            ServiceError: it ended, or did not answer in time.
        """
        deadline = time.monotonic() + START_SECONDS
        while not answers(self.url + self.health):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise ServiceError(f"the {self.name} server did not start on {self.url}; its output is in {self.log}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End the server, by force if it does not end by itself."""
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def embedded_prefect(root: Path) -> Iterator[Callable[[], None]]:
    """Run a Prefect API server without pages for the body, unless `PREFECT_API_URL` names one already.

    Yields:
        A function that waits until the server is up.
    """
    if "PREFECT_API_URL" in os.environ:
        yield lambda: None
        return
    lock = contextlib.ExitStack()  # two fresh servers on one database must not migrate it at the same time
    lock.enter_context(
        file_lock(root / "prefect" / ".start.lock", waiting_for="another run to start its Prefect server")
    )
    server = start_prefect(root, find_port(0), pages=False)
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    os.environ.setdefault("PREFECT_UI_URL", f"http://127.0.0.1:{PREFECT_PORT}")  # `gloveflow ui` shows the run there

    def wait() -> None:
        with lock:
            server.wait_until_up()

    try:
        yield wait
    finally:
        lock.close()
        os.environ.pop("PREFECT_API_URL", None)
        server.stop()


@contextlib.contextmanager
def running_servers(root: Path, starts: list[Callable[[], Server]]) -> Iterator[list[Server]]:
    """Run servers for the body, once all are up, and note their addresses for other commands."""
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
    Path(os.environ.get("PREFECT_HOME", root)).mkdir(parents=True, exist_ok=True)
    environment = {
        "PREFECT_UI_ENABLED": "true" if pages else "false",
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        **({} if pages else {"PREFECT__SERVER_EPHEMERAL": "1"}),
    }
    command = [
        "uvicorn", "prefect.server.api.server:create_app", "--factory", "--host", "127.0.0.1", "--port", str(port),
        "--log-level", "error", "--lifespan", "on", "--timeout-keep-alive", "5", "--timeout-graceful-shutdown", "3",
    ]  # fmt: skip
    return _start("prefect", url, "/api/health", command, root, environment, without=("PREFECT_API_URL",))


def start_mlflow(root: Path, port: int) -> Server:
    """Start MLflow's server on the tracking database."""
    from tasks.tracking.server import open_client, tracking_uri

    open_client()  # sets a fresh database up before the server looks at it
    command = [
        "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1",
        "--backend-store-uri", tracking_uri(), "--artifacts-destination", str(root / "mlflow" / "files"),
    ]  # fmt: skip
    return _start("mlflow", f"http://127.0.0.1:{port}", "/health", command, root, {})


def start_pages(root: Path) -> list[Callable[[], Server]]:
    """Return how to start both servers with pages, on their usual ports where these are free."""
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
    name: str, url: str, health: str, command: list[str], root: Path, environment: dict[str, str],
    without: tuple[str, ...] = (),
) -> Server:  # fmt: skip
    log = root / "logs" / f"{name}-server.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    inherited = {key: value for key, value in os.environ.items() if key not in without}
    scripts = f"{Path(sys.executable).parent}{os.pathsep}{inherited.get('PATH', '')}"  # mlflow looks for uvicorn there
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command],
            env={**inherited, **environment, "PATH": scripts},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C is for the command, which then ends its servers
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    return Server(name, url, health, log, process)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def wait_for_end(servers: list[Server]) -> None:
    """Wait until Ctrl-C or SIGTERM.

    Raises:
        ServiceError: a server ended by itself.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for server in servers:
                if server.process.poll() is not None:
                    raise ServiceError(f"the {server.name} server ended; its output is in {server.log}")
            time.sleep(0.5)
