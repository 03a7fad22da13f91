"""A server process of a command: started, waited for, watched, stopped. Imports only the standard library."""

import contextlib
import itertools
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from flows.cli.server_secret import LOGIN_PATH, Secret, identify_server
from pipeline_config.errors import ServiceError
from tasks.runtime.parent import PARENT_VARIABLE
from tasks.store.private_files import open_to_append

logger = logging.getLogger(__name__)
START_SECONDS = 120.0
STOP_SECONDS = 3.0
WATCH_SECONDS = 0.5
LOG_BYTES = 10 << 20
LOGS = 3  # older ones beside it
REASON = "gloveflow: "  # how the line of the log begins in which our server says why it did not start
# how the command hands them to the process
SOCKET_VARIABLE = "GLOVEFLOW_SERVER_SOCKET"
SECRET_VARIABLE = "GLOVEFLOW_SERVER_SECRET"
STORE_VARIABLE = "GLOVEFLOW_SERVER_STORE"
# variables that it must not inherit: another server, and what would switch off MLflow's checks of host and origin
_NOT_INHERITED = {"PREFECT_API_URL", "MLFLOW_SERVER_DISABLE_SECURITY_MIDDLEWARE"}


@dataclass
class Server:
    """A server process of this command.

    The command opens the socket and keeps it. So no other process can get the port, and requests wait while a server
    that has died starts again.

    Attributes:
        name: for messages, its log and the record.
        module: the module that `python -m` runs.
        variables: its environment variables, beside those of this process.
        listener: the socket on which it listens.
        log: the file of its output.
        secret: what it asks for.
    """

    name: str
    module: str
    variables: Mapping[str, str]
    listener: socket.socket
    log: Path
    secret: Secret
    process: subprocess.Popen[bytes] = field(init=False)

    @property
    def port(self) -> int:
        """The port on which it listens."""
        return int(self.listener.getsockname()[1])

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def link(self) -> str:
        """The address that logs a browser in."""
        return login_link(self.url, self.secret)

    def start(self) -> None:
        """Start the process."""
        handed = {
            SOCKET_VARIABLE: str(self.listener.fileno()),
            SECRET_VARIABLE: self.secret.text,
            STORE_VARIABLE: self.secret.store,
            PARENT_VARIABLE: str(os.getpid()),
        }
        inherited = {name: value for name, value in os.environ.items() if name not in _NOT_INHERITED}
        rotate_log(self.log)
        with open_to_append(self.log) as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", self.module],
                env={**inherited, **self.variables, **handed},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=[self.listener.fileno()],
                start_new_session=True,  # Ctrl-C goes to the command alone, which then stops its servers
            )

    def wait_until_up(self) -> None:
        """Wait until the server answers.

        Raises:
            ServiceError: it ended, or did not answer within `START_SECONDS`.
        """
        deadline = time.monotonic() + START_SECONDS
        while not self.is_up():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise self.failure()
            time.sleep(0.05)

    def failure(self) -> ServiceError:
        """Return the error of a server that did not start, with the reason that its log gives in the last line."""
        reason = ""
        with contextlib.suppress(OSError):
            last = self.log.read_bytes().decode("utf-8", "replace").rstrip("\n").rpartition("\n")[2]
            if last.startswith(REASON):
                reason = f": {last.removeprefix(REASON)}"
        return ServiceError(f"the {self.name} server did not start on {self.url}; its output is in {self.log}{reason}")

    def is_up(self) -> bool:
        """Return whether the server answers, and proves that it is the process that was started."""
        return identify_server(self.url, self.secret) == self.process.pid


def login_link(url: str, secret: Secret) -> str:
    """Return the link that logs a browser in to the server of ours at an address."""
    return f"{url}{LOGIN_PATH}?token={secret.login_token(int(url.rpartition(':')[2]))}"


def rotate_log(path: Path) -> None:
    """Copy a log that has grown to `LOG_BYTES` to `<name>.1`, and so on up to `LOGS`, and empty it.

    The processes that write to it go on: they append. A line that is written between the two steps is lost.
    """
    with contextlib.suppress(OSError):  # a log is not worth an error
        if path.stat().st_size < LOG_BYTES:
            return
        older = [path.with_name(f"{path.name}.{number}") for number in range(1, LOGS + 1)]
        for newer, place in reversed(list(itertools.pairwise(older))):
            if newer.exists():
                newer.replace(place)
        open_to_append(older[0]).close()
        shutil.copyfile(path, older[0])
        os.truncate(path, 0)


def stop_servers(servers: list[Server]) -> None:
    """End servers with SIGTERM, with SIGKILL those that still run after `STOP_SECONDS`, and give up their ports."""
    running = [server.process for server in servers if hasattr(server, "process")]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for server in servers:
        server.listener.close()


@contextlib.contextmanager
def watched(servers: list[Server]) -> Iterator[None]:
    """Start servers again that die during the body.

    Raises:
        ServiceError: one did not come back; the body is ended with SIGTERM.
    """
    ended = threading.Event()
    failures: list[ServiceError] = []

    def watch() -> None:
        try:
            keep_running(servers, ended)
        except ServiceError as error:
            failures.append(error)
            os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=watch, name="server-watch", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        if failures:
            raise failures[0]


def keep_running(servers: list[Server], ended: threading.Event) -> None:
    """Start servers again that die, until the event is set; each is logged.

    Raises:
        ServiceError: a server ended again before it was up, or is not up after `START_SECONDS`.
    """
    deadlines: dict[str, float] = {}  # of the servers that are starting
    while not ended.wait(WATCH_SECONDS):
        for server in servers:
            rotate_log(server.log)
            code = server.process.poll()
            if server.name in deadlines:
                if code is not None or time.monotonic() > deadlines[server.name]:
                    raise server.failure()
                if server.is_up():
                    del deadlines[server.name]
                    logger.info("the %s server is up again on %s", server.name, server.url)
            elif code is not None:
                how = f"exit code {code}" if code >= 0 else signal.Signals(-code).name
                logger.warning("the %s server ended (%s), it is started again on %s", server.name, how, server.url)
                server.start()
                deadlines[server.name] = time.monotonic() + START_SECONDS


def wait_for_interrupt() -> None:
    """Return after Ctrl-C or SIGTERM."""
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()


def listen(port: int) -> socket.socket:
    """Return a socket that listens on a port of 127.0.0.1 or, if it is in use, on another one.

    Raises:
        ServiceError: no port is free.
    """
    for wanted in (port, 0):
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", wanted))
            listener.listen(2048)
        except OSError:
            listener.close()
            continue
        if wanted != port:
            logger.warning("another program uses port %d, the server gets port %d", port, listener.getsockname()[1])
        return listener
    raise ServiceError("no port of 127.0.0.1 is free")
