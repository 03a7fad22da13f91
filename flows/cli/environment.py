"""The environment variables of a command: where artifacts are, which servers to use, what is logged.

Imports only the standard library, because the variables must be set before prefect and mlflow are imported. Variables
that the user has set are not changed.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote

from flows.cli.server_records import last_port, read_servers
from flows.cli.server_secret import read_secret
from pipeline_config.masking import split_user
from tasks.runtime.loggers import OUR_LOGGERS

_DEFAULTS = {
    "PREFECT_LOGGING_EXTRA_LOGGERS": ",".join(OUR_LOGGERS),
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # in PREFECT_HOME, so that a slot of a deployment is given back even if the server was killed meanwhile
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",  # the command line prints the project's own lines
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",  # its tracebacks of outages, which we tell
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


def prepare_environment(artifacts: Path | None = None, *, use_running: bool = True) -> Path:
    """Set the environment variables of this process and its children; return the artifacts directory.

    Args:
        artifacts: the artifacts directory (default: that of `GLOVEFLOW_ARTIFACTS`, or `artifacts`).
        use_running: whether to use the servers that another command runs for these artifacts.
    """
    root = (artifacts or Path(os.environ.get("GLOVEFLOW_ARTIFACTS") or "artifacts")).absolute()
    os.environ["GLOVEFLOW_ARTIFACTS"] = str(root)
    for name, value in _DEFAULTS.items():
        os.environ.setdefault(name, value)
    move_credentials()
    if "PREFECT_API_URL" not in os.environ:
        os.environ.setdefault("PREFECT_HOME", str(root / "prefect"))
    if use_running:
        use_servers(root, read_servers(root))
    return root


def use_servers(root: Path, servers: Mapping[str, str]) -> None:
    """Let this process and its children use servers of ours, unless the user's environment names others.

    Args:
        root: the artifacts directory.
        servers: addresses by name.
    """
    url, secret = servers.get("prefect"), read_secret(root)
    if "PREFECT_API_URL" not in os.environ and url and secret:
        os.environ["PREFECT_API_URL"] = f"{url}/api"
        os.environ["PREFECT_API_AUTH_STRING"] = secret.text
    # links lead to where the pages are, or will most likely be
    os.environ.setdefault(
        "GLOVEFLOW_MLFLOW_URL", servers.get("mlflow") or f"http://127.0.0.1:{last_port(root, 'mlflow')}"
    )


def move_credentials() -> None:
    """Move user and password of `PREFECT_API_URL` to the variable from which Prefect sends them.

    Prefect writes the address into messages and links.
    """
    url, user = split_user(os.environ.get("PREFECT_API_URL", ""))
    if user:
        os.environ["PREFECT_API_URL"] = url
        os.environ.setdefault("PREFECT_API_AUTH_STRING", unquote(user))
