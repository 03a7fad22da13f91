"""Where MLflow is: its tracking address, a client for it, and the addresses of its pages.

By default, runs and models are in `<artifacts>/mlflow` (SQLite and files). `MLFLOW_TRACKING_URI` names another server.
"""

import os
from pathlib import Path
from urllib.parse import quote, unquote

import mlflow
from mlflow import MlflowClient
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode

from pipeline_config.errors import GloveflowError, ServiceError
from pipeline_config.masking import split_user
from tasks.store.artifacts import artifacts_root
from tasks.store.disk_errors import find_store_error
from tasks.store.locks import file_lock
from tasks.tracking.client import TrackingClient
from tasks.tracking.database import prepare_mlflow_database

_SQLITE = "sqlite:///"
ABSENT = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}  # of a model or alias


def tracking_uri() -> str:
    """Return where runs are tracked: `MLFLOW_TRACKING_URI`, or SQLite under the artifacts directory."""
    move_credentials()
    return os.environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}{mlflow_directory()}/mlflow.db"


def move_credentials() -> None:
    """Move user and password of an HTTP address to the variables from which MLflow sends them.

    MLflow and this project write the address into messages, tags and links.
    """
    url, user = split_user(os.environ.get("MLFLOW_TRACKING_URI", ""))
    if user and url.startswith("http"):
        name, _, password = user.partition(":")
        os.environ["MLFLOW_TRACKING_URI"] = url
        os.environ.setdefault("MLFLOW_TRACKING_USERNAME", unquote(name))
        os.environ.setdefault("MLFLOW_TRACKING_PASSWORD", unquote(password))


def mlflow_directory() -> Path:
    """Return the directory of MLflow's database, files and locks."""
    return artifacts_root() / "mlflow"


def open_client() -> MlflowClient:
    """Return a client, whose calls raise `ServiceError` while the server is away.

    One process sets up or migrates a database while other processes wait.

    Raises:
        ServiceError: the database cannot be opened.
        StoreError: the database cannot be migrated or written.
    """
    uri = tracking_uri()
    _set_tracking_uri(uri)
    if not uri.startswith(_SQLITE):
        return TrackingClient(uri)
    with file_lock(mlflow_directory() / ".database.lock", waiting_for="another run to set up the MLflow database"):
        try:
            _prepare(uri)
            return TrackingClient(uri)
        except GloveflowError:
            raise
        except Exception as error:
            if found := find_store_error(error, mlflow_directory()):
                raise found from error
            raise ServiceError(f"{uri}: MLflow cannot open its database: {error}") from error


def run_url(experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{ui_url()}/#/experiments/{experiment_id}/runs/{run_id}"


def model_url(name: str, version: str) -> str:
    """Return the address of a model version's page."""
    return f"{ui_url()}/#/models/{quote(name, safe='')}/versions/{version}"


def ui_url() -> str:
    """Return the address of the MLflow pages."""
    uri = tracking_uri()
    return (uri if uri.startswith("http") else os.environ.get("GLOVEFLOW_MLFLOW_URL", "http://127.0.0.1:5000")).rstrip(
        "/"
    )


def _prepare(uri: str) -> None:
    """Make an SQLite database ready for a client."""
    name, own = uri.removeprefix(_SQLITE), mlflow_directory() / "mlflow.db"
    if name == str(own):
        prepare_mlflow_database(own, files=mlflow_directory() / "files")
    elif name and not {":", "?"} & set(name):  # neither in memory nor with options
        prepare_mlflow_database(Path(name), files=None)


def _set_tracking_uri(uri: str) -> None:
    """Set MLflow's global tracking address, without the environment variable that MLflow sets with it.

    The registry needs the global address. The variable would still name the old place after the artifacts directory
    changed, and child processes would inherit it.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)
