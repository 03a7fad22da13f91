"""The environment variables of a command: where artifacts are, which servers to use, what is logged.

Imports only the standard library, because the variables must be set before prefect and mlflow are imported. Variables
that the user has set are not changed. Reads and writes `<artifacts>/servers.json`, in which `gloveflow ui` and
`gloveflow serve` record the addresses of their servers.
"""

import json
import os
from pathlib import Path
from urllib.parse import unquote

from flows.cli.prefect_secret import identify_server, read_secret
from pipeline_config.masking import split_user
from tasks.runtime.loggers import OUR_LOGGERS
from tasks.store.private_files import make_directory

PREFECT_PORT = 4200
MLFLOW_PORT = 5000
_DEFAULTS = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(OUR_LOGGERS),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # in PREFECT_HOME, so that a slot of a deployment is given back even if the server was killed meanwhile
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command line prints the project's own lines
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_UV_AUTO_DETECT": "false",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # By default MLflow tries for minutes, and repeats even what creates something. Our client repeats what it may.
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "12",  # seconds
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}


def prepare_environment(artifacts: Path | None = None) -> Path:
    """Set the environment variables of this process and its children; return the artifacts directory."""
    root = (artifacts or Path(os.environ.get("GLOVEFLOW_ARTIFACTS") or "artifacts")).absolute()
    os.environ["GLOVEFLOW_ARTIFACTS"] = str(root)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    move_credentials()
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(root / "prefect"))
    servers = read_servers(root)
    url, secret = servers.get("prefect"), read_secret(root)
    if "PREFECT_API_URL" not in os.environ and url and secret and identify_server(url, secret):
        os.environ["PREFECT_API_URL"] = f"{url}/api"
        os.environ["PREFECT_API_AUTH_STRING"] = secret
    if url := servers.get("mlflow"):
        os.environ.setdefault("GLOVEFLOW_MLFLOW_URL", url)
    return root


def move_credentials() -> None:
    """Move user and password of `PREFECT_API_URL` to the variable from which Prefect sends them.

    Prefect writes the address into messages and links.
    """
    url, user = split_user(os.environ.get("PREFECT_API_URL", ""))
    if user:
        os.environ["PREFECT_API_URL"] = url
        os.environ.setdefault("PREFECT_API_AUTH_STRING", unquote(user))


def read_servers(root: Path) -> dict[str, str]:
    """Return the addresses of the servers that were last started for these artifacts, by name."""
    try:
        return {str(name): str(url) for name, url in json.loads((root / "servers.json").read_text("utf-8")).items()}
    except (OSError, ValueError, AttributeError):
        return {}


def write_servers(root: Path, servers: dict[str, str]) -> None:
    """Record the addresses of servers, beside those that are recorded already."""
    make_directory(root)
    temporary = root / f".servers-{os.getpid()}.json"
    temporary.write_text(json.dumps({**read_servers(root), **servers}), "utf-8")
    temporary.replace(root / "servers.json")


def answers(url: str, seconds: float = 1.0) -> bool:
    """Return whether an address answers a GET request with success within some seconds."""
    import http.client
    import urllib.request  # here: `gloveflow --help` does not need it

    try:
        with urllib.request.urlopen(url, timeout=seconds) as response:  # noqa: S310
            return bool(200 <= response.status < 300)
    except (OSError, http.client.HTTPException, ValueError):  # HTTPException: another kind of server listens there
        return False
