"""MLflow's own server as an application of a process of ours, on the database and the files of the artifacts."""

import os
from typing import Any

from tasks.tracking.server import mlflow_directory, open_client, tracking_uri


def create_mlflow_app() -> Any:
    """Return MLflow's application, an ASGI callable. MLflow reads its settings from variables of this process.

    Raises:
        ServiceError: the database cannot be opened.
        StoreError: the database cannot be migrated or written.
    """
    open_client()  # sets up a new database before the server opens it
    from mlflow.environment_variables import _MLFLOW_IN_JOB_EXECUTOR, _MLFLOW_SGI_NAME
    from mlflow.server import constants, handlers

    uri, artifacts = tracking_uri(), "mlflow-artifacts:/"
    os.environ.update(
        {
            constants.BACKEND_STORE_URI_ENV_VAR: uri,
            constants.REGISTRY_STORE_URI_ENV_VAR: uri,
            constants.ARTIFACT_ROOT_ENV_VAR: artifacts,
            constants.SERVE_ARTIFACTS_ENV_VAR: "true",
            constants.ARTIFACTS_DESTINATION_ENV_VAR: str(mlflow_directory() / "files"),
            _MLFLOW_SGI_NAME.name: "uvicorn",
            _MLFLOW_IN_JOB_EXECUTOR.name: "false",
        }
    )
    handlers.initialize_backend_stores(uri, uri, artifacts)
    from mlflow.server.fastapi_app import app

    return app
