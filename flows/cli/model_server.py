"""`gloveflow serve-model`: a registered model behind HTTP, which follows its alias."""

import argparse
import json
import logging
import os
import shlex
import socket
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.evaluation import version_number
from flows.cli.options import choose_alias, resolve
from pipeline_config.errors import GloveflowError, ServiceError, UnusableModelError
from pipeline_config.names import check_model_name

if TYPE_CHECKING:
    from tasks.tracking.scoring_app import ScoringApp

logger = logging.getLogger(__name__)
ASKED = "GLOVEFLOW_SERVED_MODEL"  # how the command tells its worker processes what to serve
_START_FAILED = 3  # the exit code with which a worker tells uvicorn that another one would fail as well


def add_serve_model(parser: argparse.ArgumentParser) -> None:
    """Add what `serve-model` takes."""
    parser.add_argument("--model", metavar="NAME", help="registered model (default: of the configuration)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=version_number, metavar="N", help="number of the version, which then stays")
    which.add_argument("--alias", metavar="A", help="alias to follow (default: the configured champion alias)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: 127.0.0.1, this machine)")
    parser.add_argument("--port", type=_port, default=8080, help="port to listen on; 0 is any (default: 8080)")
    parser.add_argument("--workers", type=version_number, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--poll", type=_seconds, default=5.0, metavar="SECONDS", help="how often to look at the alias (default: 5)"
    )
    parser.add_argument(
        "--write-container",
        type=Path,
        metavar="DIRECTORY",
        help="serve nothing; write a Dockerfile with the version and its server into a new directory",
    )


def serve_model(options: argparse.Namespace, root: Path) -> int:
    """Serve a registered model over HTTP, and change to another version when its alias moves."""
    config = resolve(options).config
    name = check_model_name(options.model, "--model") if options.model else config.registered_model
    asked = {"name": name, "alias": choose_alias(options, config), "version": options.version, "poll": options.poll}
    check_files(root, name, asked["alias"], options.version)
    from flows.cli.console import show_log_lines
    from tasks.tracking.reachability import require_tracking_server

    if options.write_container:
        require_tracking_server()
        _write_container(asked, options.write_container)
        return 0
    listener = listen_at(options.host, options.port)
    require_tracking_server()
    show_log_lines()
    _serve(asked, listener, options.workers)
    return 0


def check_files(root: Path, name: str, alias: str, number: int | None) -> None:
    """Compare the files of a version with their digests, if that can be done before mlflow is imported.

    Raises:
        ServiceError: there is no such version.
        UnusableModelError: a file differs.
    """
    from tasks.tracking.version_files import advise_mending, find_problem, find_version_files

    found = find_version_files(root, name, alias=alias, number=number)
    if found and (problem := find_problem(found)):
        raise UnusableModelError(f"models:/{name}/{found.version}: {problem}. {advise_mending(name)}")


def listen_at(host: str, port: int) -> socket.socket:
    """Return a socket that listens.

    Raises:
        ServiceError: the address is not one of this machine, or the port is in use or not allowed.
    """
    listener = None
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        if listener:
            listener.close()
        reason = error.strerror or str(error)
        raise ServiceError(
            f"serve-model: cannot listen on port {port} of {host}: {reason}. Choose another --port (0 is any that is "
            "free) or --host"
        ) from error
    listener.set_inheritable(True)
    return listener


def create_app() -> "ScoringApp":
    """Return the application of a worker process; one that cannot start says why and ends."""
    from tqdm import tqdm

    from flows.cli.console import print_error, show_log_lines
    from tasks.runtime.parent import end_with_parent

    end_with_parent()
    tqdm.set_lock(threading.RLock())  # its own is one of processes, which a signal would leave behind
    show_log_lines()
    try:
        return open_app(json.loads(os.environ[ASKED]))
    except GloveflowError as error:
        print_error(str(error))
        sys.exit(_START_FAILED)


def open_app(asked: dict[str, Any]) -> "ScoringApp":
    """Load a version, and return the application that serves it and follows its alias.

    Raises:
        ServiceError: there is no such version, or it cannot be used.
    """
    from tasks.tracking.loading import require_served
    from tasks.tracking.scoring_app import ScoringApp
    from tasks.tracking.serving import AliasWatch, open_served
    from tasks.tracking.version_files import advise_mending

    version = require_served(asked["name"], asked["alias"], asked["version"])
    try:
        app = ScoringApp(open_served(version))
    except UnusableModelError as error:
        raise UnusableModelError(f"{error}. {advise_mending(asked['name'])}") from error
    if asked["version"] is None:
        AliasWatch(app, asked["name"], asked["alias"], asked["poll"]).start()
    return app


def _serve(asked: dict[str, Any], listener: socket.socket, workers: int) -> None:
    from flows.cli.console import print_lines
    from tasks.tracking.scoring_app import serve, serving_config

    host, port = listener.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    if workers == 1:
        app = open_app(asked)
        print_lines([f"{app.served.uri} answers on {url}/invocations; Ctrl-C ends"])
        serve(serving_config(app), sockets=[listener])
    from uvicorn.supervisors import Multiprocess

    from tasks.runtime.parent import PARENT_VARIABLE

    os.environ |= {ASKED: json.dumps(asked), PARENT_VARIABLE: str(os.getpid())}
    name = f"{create_app.__module__}:{create_app.__name__}"
    config = serving_config(name, factory=True, workers=workers, timeout_worker_healthcheck=30)
    which = f"/{asked['version']}" if asked["version"] else f"@{asked['alias']}"
    print_lines([f"models:/{asked['name']}{which} is loaded by {workers} processes for {url}/invocations; Ctrl-C ends"])
    supervisor = Multiprocess(config, [listener])
    supervisor.run()
    if any(process.exitcode == _START_FAILED for process in supervisor.processes):
        raise ServiceError("serve-model: a process of the server did not start; it said why")


def _write_container(asked: dict[str, Any], folder: Path) -> None:
    from flows.cli.console import print_lines
    from tasks.tracking.containers import write_container
    from tasks.tracking.loading import require_served
    from tasks.tracking.model_files import version_uri

    version = require_served(asked["name"], asked["alias"], asked["version"])
    write_container(version, folder)
    command = f"docker build --tag model {shlex.quote(str(folder))}"
    print_lines([f"{folder} holds what serves {version_uri(version)}; `{command}` builds the container"])


def _port(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**16:
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0.05 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"expected seconds from 0.05 to 86,400, got {text}")
    return value
