"""Load registered versions: find the one that an alias names, check its files, and run its code.

Reads the registry and MLflow's files.
"""

from typing import Any

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline_config.errors import ServiceError, UnusableModelError
from tasks.store.artifacts import artifacts_root
from tasks.tracking.loaded import (
    Classify,
    Described,
    LoadedModel,
    describe_failure,
    describe_files,
    list_other_packages,
    make_loaded,
)
from tasks.tracking.model_files import open_verified, version_uri
from tasks.tracking.models import find_alias, model_code_lock
from tasks.tracking.server import ABSENT, open_client
from tasks.tracking.version_files import advise_mending, describe_absent
from tasks.tracking.version_list import list_versions


def load_model(name: str, alias: str, number: int | None = None) -> LoadedModel:
    """Load a version of a registered model.

    Args:
        name: name of the model.
        alias: alias of the version.
        number: number of the version, instead of an alias.

    Raises:
        ServiceError: there is no such model or alias, or the registry cannot be read.
        UnusableModelError: as in `load_version`.
    """
    version = require_served(name, alias, number)
    try:
        return open_version(version)
    except UnusableModelError as error:
        raise UnusableModelError(f"{error}. {advise_mending(name)}") from error


def require_served(name: str, alias: str, number: int | None = None) -> ModelVersion:
    """Return the version of a model that an alias or a number names.

    Raises:
        ServiceError: there is no such model, alias or version, or the registry cannot be read.
    """
    uri = f"models:/{name}@{alias}" if number is None else f"models:/{name}/{number}"
    try:
        version = find_alias(name, alias) if number is None else open_client().get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise ServiceError(f"{uri}: cannot be looked up: {error.message}") from error
        version = None
    if version is None:
        raise ServiceError(describe_absent(name, alias, number, list_versions(artifacts_root(), name)))
    return version


def load_version(version: ModelVersion) -> Classify:
    """Check the files of a registered version, then load it; return it as a function from texts to answers.

    Raises:
        UnusableModelError: as in `open_version`.
    """
    return open_version(version).classify


def load_checked(version: ModelVersion) -> tuple[Any, Described, list[str]]:
    """Check the files of a registered version, then load it as MLflow's servers do.

    No code of a version runs whose files differ from their digests in the registry.

    Returns:
        The model, what its description says, and the packages that are here in another version than it was made with.

    Raises:
        UnusableModelError: its files cannot be had or differ from their digests, or its code fails with the packages
            that are installed here.
    """
    uri = version_uri(version)
    with open_verified(version) as folder:
        packages = list_other_packages(folder)
        try:
            with model_code_lock:
                model = mlflow.pyfunc.load_model(str(folder))
        except Exception as error:  # whatever the model's code raises
            raise UnusableModelError(describe_failure(uri, "cannot be loaded", error, packages)) from error
        return model, describe_files(uri, folder), packages


def open_version(version: ModelVersion) -> LoadedModel:
    """Check the files of a registered version, then load it.

    Raises:
        UnusableModelError: as in `load_checked`; its function raises it, too.
    """
    model, described, packages = load_checked(version)
    schema = model.metadata.get_params_schema()
    return make_loaded(
        version_uri(version),
        described,
        packages,
        served=model.unwrap_python_model(),
        predict=lambda texts, params: model.predict(texts, params=params or None),
        options=[param.name for param in schema.params] if schema else [],
    )
