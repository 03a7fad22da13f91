"""Logged models and the model registry: log a model from code, register it, find it, set aliases."""

import contextlib
import json
import logging
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types.schema import ColSpec, DataType, Map, ParamSchema, ParamSpec, Schema

from pipeline_config.errors import GloveflowError, ServiceError, UnusableModelError
from tasks.store.locks import file_lock
from tasks.tracking.client import create_once
from tasks.tracking.model_files import verify_version, write_files_tag
from tasks.tracking.runs import TrackedRun
from tasks.tracking.server import ABSENT, mlflow_directory, open_client
from tasks.tracking.version_files import FILES_TAG, remove_leftovers

logger = logging.getLogger(__name__)
DIGEST_TAG = "gloveflow.model_digest"
SIGNATURE = ModelSignature(
    # Without inputs, because MLflow would drop the columns of a table that a signature does not name, or all but the
    # first, and refuse lists if it names one. The model reads tables by name, and refuses what is no text.
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "score"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    ),
    params=ParamSchema(
        [
            ParamSpec("top_k", DataType.long, None),
            ParamSpec("threshold", DataType.double, None),
            ParamSpec("explain", DataType.boolean, False),
            ParamSpec("on_error", DataType.string, "request"),
        ]
    ),
)
model_code_lock = threading.Lock()  # MLflow passes a model made from code through a global variable


class LoggedFiles(NamedTuple):
    """A logged model: its id, and the tag of its files that a version of it gets."""

    model_id: str
    files_tag: str


def log_model(
    run: TrackedRun, *, code: Path, bundle: Path, digest: str, requirements: list[str], example: str
) -> LoggedFiles:
    """Log a model from code with its bundle of files.

    No pickle is written: the logged model is the code, the bundle and MLflow's own descriptions. If MLflow is
    away meanwhile, the logged model stays pending until its run is ended.
    """
    client = open_client()
    logged = create_once(
        lambda: client.create_logged_model(
            run.experiment_id, name="classifier", source_run_id=run.run_id, tags={DIGEST_TAG: digest}
        ),
        lambda: _find_pending(client, run),
    )
    try:
        with tempfile.TemporaryDirectory() as folder, model_code_lock:
            path = Path(folder, "model")
            mlflow.pyfunc.save_model(
                path=path,
                python_model=str(code),
                artifacts={"bundle": str(bundle)},
                signature=SIGNATURE,
                input_example={"text": [example]},
                pip_requirements=requirements,
                mlflow_model=Model(
                    artifact_path=logged.name,  # not its place, which changes when the artifacts are moved
                    run_id=run.run_id,
                    model_uuid=logged.model_id,
                    model_id=logged.model_id,
                ),
            )
            remove_leftovers(path)
            files_tag = write_files_tag(path)
            client.log_model_artifacts(logged.model_id, str(path))
    except BaseException as error:
        if not isinstance(error, ServiceError):
            with contextlib.suppress(MlflowException, GloveflowError):  # the next run ends it
                client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return LoggedFiles(str(logged.model_id), files_tag)


def link_model(run_id: str, model_id: str, metrics: Mapping[str, float]) -> None:
    """Show a logged model and its metrics on the page of a run; repeated calls add it once."""
    client = open_client()

    def is_linked() -> bool:
        outputs = client.get_run(run_id).outputs
        return model_id in {output.model_id for output in (outputs.model_outputs if outputs else [])}

    def link() -> bool:
        client.log_outputs(run_id, [LoggedModelOutput(model_id=model_id, step=0)])
        return True

    if not is_linked():
        create_once(link, lambda: is_linked() or None)
    now = int(time.time() * 1000)
    client.log_batch(
        run_id, metrics=[Metric(k, v, now, 0, model_id=model_id, run_id=run_id) for k, v in metrics.items()]
    )


def find_version(name: str, digest: str) -> ModelVersion | None:
    """Return a model's newest registered version with a digest, or None.

    Versions whose files are gone or changed, or cannot be checked, do not count.
    """
    client = open_client()
    found = client.search_model_versions(
        f"name = '{name}' AND tags.`{DIGEST_TAG}` = '{digest}'", order_by=["version_number DESC"]
    )
    for version in found:
        try:
            verify_version(version)
            return version
        except UnusableModelError as error:
            logger.warning("a version with the same content is ignored: %s", error)
    return None


def find_alias(name: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias names, or None if there is no such alias or model."""
    try:
        return open_client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in ABSENT:
            return None
        raise


def register_version(
    name: str, run: TrackedRun, logged: LoggedFiles, *, tags: Mapping[str, str], description: str
) -> ModelVersion:
    """Register a logged model as a new version, with the digests of its files."""
    client, model_id = open_client(), logged.model_id
    with contextlib.suppress(MlflowException):  # it exists
        create_once(
            lambda: client.create_registered_model(name, description="LSTM text classifiers, trained by gloveflow"),
            lambda: client.get_registered_model(name),
        )
    version = create_once(
        lambda: client.create_model_version(
            name,
            f"models:/{model_id}",
            run.run_id,
            tags={**tags, FILES_TAG: logged.files_tag},
            description=description,
            model_id=model_id,
        ),
        lambda: next(iter(client.search_model_versions(f"name = '{name}' AND run_id = '{run.run_id}'")), None),
    )
    versions = json.dumps([{"name": name, "version": str(version.version)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
    return version


def set_alias(name: str, alias: str, version: str) -> None:
    """Point an alias at a version."""
    open_client().set_registered_model_alias(name, alias, version)


@contextlib.contextmanager
def registry_lock() -> Iterator[None]:
    """Keep other runs on these artifacts from registering during the body."""
    with file_lock(mlflow_directory() / ".registry.lock", waiting_for="another run to register its model"):
        yield


def model_id_of(version: ModelVersion) -> str:
    """Return the id of the logged model behind a version."""
    return str(version.source).rpartition("/")[2]


def _find_pending(client: MlflowClient, run: TrackedRun) -> LoggedModel | None:
    found = client.search_logged_models([run.experiment_id], f"source_run_id = '{run.run_id}'")
    return next((model for model in found if model.status == LoggedModelStatus.PENDING), None)
