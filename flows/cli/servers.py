"""The servers that commands start: Prefect's API (with or without its pages) and MLflow's pages.

They listen on 127.0.0.1, behind the checks of `flows.cli.guard`, write their output to `<artifacts>/logs`, and end with
the process that started them, even if that is killed. Imports only the standard library, so that a server starts while
the command still imports prefect.
"""

import contextlib
import os
import signal
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from flows.cli.server_process import Server, listen, stop_servers
from flows.cli.server_records import forget_servers, last_port, record_servers
from flows.cli.server_secret import make_secret
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory


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
    server = prefect_server(root, 0, pages=False)
    server.start()
    before = os.environ.get("PREFECT_API_AUTH_STRING")
    os.environ["PREFECT_API_URL"] = f"{server.url}/api"
    os.environ["PREFECT_API_AUTH_STRING"] = server.secret.text
    # where `gloveflow ui` shows the run
    os.environ.setdefault("PREFECT_UI_URL", f"http://127.0.0.1:{last_port(root, 'prefect')}")

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
        stop_servers([server])


@contextlib.contextmanager
def running_servers(root: Path, servers: list[Server]) -> Iterator[None]:
    """Start servers, wait until all are up, and record them; stop them after the body. SIGTERM ends it like Ctrl-C."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        for server in servers:
            server.start()
        for server in servers:
            server.wait_until_up()
        record_servers(root, {server.name: server.url for server in servers})
        yield
    finally:
        stop_servers(servers)
        forget_servers(root)
        signal.signal(signal.SIGTERM, before)


def prefect_server(root: Path, port: int, *, pages: bool) -> Server:
    """Return a Prefect API server to start, on a port or, if that is in use, another one.

    Args:
        root: the artifacts directory.
        port: the wanted port, or 0 for any.
        pages: whether it also serves the UI and runs the scheduler.
    """
    make_directory(Path(os.environ.get("PREFECT_HOME", root)))
    secret, listener = make_secret(root), listen(port)
    port = listener.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    variables = {
        "PREFECT_UI_ENABLED": "true" if pages else "false",
        "PREFECT_SERVER_UI_API_URL": f"{url}/api",
        "PREFECT_SERVER_API_HOST": "127.0.0.1",
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": secret.text,
        "PREFECT_API_AUTH_STRING": secret.text,
        "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": f"{url},http://localhost:{port}",
        "PREFECT__SERVER_FINAL": "1",
        "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "WARNING",
        **({} if pages else {"PREFECT__SERVER_EPHEMERAL": "1"}),
    }
    log = root / "logs" / "prefect-server.log"
    return Server("prefect", "flows.cli.prefect_server", variables, listener, log, secret)


def mlflow_server(root: Path, port: int) -> Server:
    """Return an MLflow server on the tracking database to start, on a port or, if that is in use, another one.

    The address of the database may hold a password. The process finds it in its environment.
    """
    secret, listener = make_secret(root), listen(port)
    port = listener.getsockname()[1]
    variables = {
        "GLOVEFLOW_ARTIFACTS": str(root),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port},localhost:{port}",
        "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": f"http://127.0.0.1:{port},http://localhost:{port}",
    }
    return Server("mlflow", "flows.cli.mlflow_server", variables, listener, root / "logs" / "mlflow-server.log", secret)


def page_servers(root: Path, *, without: Collection[str] = ()) -> list[Server]:
    """Return the servers with pages to start, on their last ports if these are free.

    There is none for Prefect or MLflow if the user's environment names a server of it.

    Args:
        root: the artifacts directory.
        without: names of servers that are there already.
    """
    servers = []
    if "PREFECT_API_URL" not in os.environ and "prefect" not in without:
        servers.append(prefect_server(root, last_port(root, "prefect"), pages=True))
    if not os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://")) and "mlflow" not in without:
        servers.append(mlflow_server(root, last_port(root, "mlflow")))
    return servers
