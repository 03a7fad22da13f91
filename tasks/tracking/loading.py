"""Load registered versions: find the one that an alias names, check its files, and run its code.

Reads the registry and MLflow's files.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, cast

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import ServiceError, UnusableModelError
from pipeline_config.schemas import MODEL_FILE
from tasks.store.artifacts import artifacts_root
from tasks.tracking.model_files import list_other_packages, open_verified, version_uri
from tasks.tracking.models import find_alias, model_code_lock
from tasks.tracking.server import ABSENT, open_client
from tasks.tracking.version_files import advise_mending, describe_absent
from tasks.tracking.version_list import list_versions

Classify = Callable[..., list[dict[str, Any]]]  # texts, options by name -> `label`, `score`, `probabilities` of each


class LoadedModel(NamedTuple):
    """A registered version that was checked and loaded.

    Attributes:
        version: its number.
        classify: the function from texts to answers.
        labels: the names of its classes.
        reading: how the files of its corpus were read; the default for versions of older releases.
        served: the object of its code, with network and tokenizer.
        temperature: divides its logits; 1 for versions of older releases.
        options: what `classify` takes beside the texts: the names of the `params` of the model.
    """

    version: str
    classify: Classify
    labels: tuple[str, ...]
    reading: Reading
    served: Any = None
    temperature: float = 1.0
    options: tuple[str, ...] = ()


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


class Described(NamedTuple):
    """What the description of a version says: see `LoadedModel`."""

    labels: tuple[str, ...]
    reading: Reading
    temperature: float


def describe_files(version: ModelVersion, folder: Path) -> Described:
    """Return what the verified files of a version say of it; no code of the version runs.

    Raises:
        UnusableModelError: its description is not usable.
    """
    try:
        description = json.loads((folder / "artifacts/bundle" / MODEL_FILE).read_text("utf-8"))
        return Described(
            tuple(map(str, description["labels"])),
            Reading.model_validate(description.get("reading", {})),
            float(description.get("temperature", 1.0)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        packages = list_other_packages(folder)
        raise UnusableModelError(describe_failure(version, "has no usable description", error, packages)) from error


def load_checked(version: ModelVersion) -> tuple[Any, Described, list[str]]:
    """Check the files of a registered version, then load it as MLflow's servers do.

    No code of a version runs whose files differ from their digests in the registry.

    Returns:
        The model, what its description says, and the packages that are here in another version than it was made with.

    Raises:
        UnusableModelError: its files cannot be had or differ from their digests, or its code fails with the packages
            that are installed here.
    """
    with open_verified(version) as folder:
        packages = list_other_packages(folder)
        try:
            with model_code_lock:
                model = mlflow.pyfunc.load_model(str(folder))
        except Exception as error:  # whatever the model's code raises
            raise UnusableModelError(describe_failure(version, "cannot be loaded", error, packages)) from error
        return model, describe_files(version, folder), packages


def open_version(version: ModelVersion) -> LoadedModel:
    """Check the files of a registered version, then load it.

    Raises:
        UnusableModelError: as in `load_checked`; its function raises it, too.
    """
    model, described, packages = load_checked(version)
    served = model.unwrap_python_model()
    if hasattr(served, "limits"):
        served.limits = None  # they are for requests from elsewhere

    def classify(texts: list[str], **params: Any) -> list[dict[str, Any]]:
        try:
            return cast("list[dict[str, Any]]", model.predict(texts, params=params or None))
        except Exception as error:
            raise UnusableModelError(describe_failure(version, "cannot classify texts", error, packages)) from error

    schema = model.metadata.get_params_schema()
    return LoadedModel(
        str(version.version),
        classify,
        described.labels,
        described.reading,
        served,
        described.temperature,
        options=tuple(param.name for param in schema.params) if schema else (),
    )


def describe_failure(version: ModelVersion, what: str, error: Exception, packages: list[str]) -> str:
    """Return the message that a version cannot be used.

    Args:
        version: the version.
        what: what it cannot do.
        error: what its code raised.
        packages: of `load_checked`.
    """
    needs = f"; it was registered with {', '.join(packages)}: install these versions" if packages else ""
    return f"{version_uri(version)}: {what}: {type(error).__name__}: {error}{needs}"
