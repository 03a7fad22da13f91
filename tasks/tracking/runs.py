"""Everything that talks to MLflow: runs, metrics, datasets, the logged model and the registry.

This is the only module that imports mlflow, the served model aside. It uses the client interface with explicit
run ids, because MLflow's notion of an active run does not cross threads. By default it reads and writes
`<artifacts>/mlflow` (SQLite and files); `MLFLOW_TRACKING_URI` names another place.
"""

import contextlib
import csv
import getpass
import io
import json
import logging
import os
import subprocess
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, cast

import mlflow
import yaml
from mlflow import MlflowClient
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    LoggedModelStatus,
    Metric,
    Param,
    RunTag,
    ViewType,
)
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.types.schema import AnyType, ColSpec, DataType, Map, Schema

from pipeline_config.errors import GloveflowError, ServiceError
from pipeline_config.resolve import flatten
from pipeline_config.settings import PipelineConfig
from tasks.store.locks import file_lock, try_lock
from tasks.store.artifacts import artifacts_root

logger = logging.getLogger(__name__)
Classify = Callable[[list[str]], list[dict[str, Any]]]  # texts -> label, score, probabilities of each
LOCK_TAG = "gloveflow.lock"
DIGEST_TAG = "gloveflow.model_digest"
FLUSH_METRICS = 500
FLUSH_SECONDS = 5.0
SIGNATURE = ModelSignature(
    # Without a name, so that lists, Series and tables all serve; of any type, because for a string MLflow's server
    # would make the texts "None" and "1" of a null and a number, which the model refuses.
    inputs=Schema([ColSpec(AnyType())]),  # type: ignore[no-untyped-call]
    outputs=Schema(
        [
            ColSpec(DataType.string, "label"),
            ColSpec(DataType.double, "score"),
            ColSpec(Map(DataType.double), "probabilities"),
        ]
    ),
)
_model_code = threading.Lock()  # MLflow passes a model made from code through a global variable
_ABSENT = {ErrorCode.Name(RESOURCE_DOES_NOT_EXIST), ErrorCode.Name(INVALID_PARAMETER_VALUE)}


class TrackedRun(NamedTuple):
    """An MLflow run: its ids and the address of its page."""

    run_id: str
    experiment_id: str
    url: str


class MetricStream:
    """Log metrics of a run in batches; without a run it does nothing.

    A tracking server that does not answer costs the metrics, not the training: it is told once.
    """

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id
        self._buffer: list[Metric] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Take metrics of a step."""
        if self._run_id is None:
            return
        self._buffer.extend(_metrics(metrics, step))
        if len(self._buffer) >= FLUSH_METRICS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what has been taken."""
        if self._run_id is None or not self._buffer:
            return
        try:
            open_client().log_batch(self._run_id, metrics=self._buffer)
        except (MlflowException, GloveflowError) as error:
            logger.warning("live metrics are off, MLflow does not take them: %s", error)
            self._run_id = None
        self._buffer, self._flushed = [], time.monotonic()


def tracking_uri() -> str:
    """Return where runs are tracked: `MLFLOW_TRACKING_URI`, or SQLite under the artifacts directory."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{_home()}/mlflow.db"


def open_client() -> MlflowClient:
    """Return a client; a fresh database is set up by one process while others wait.

    Raises:
        ServiceError: MLflow cannot be reached.
    """
    uri = tracking_uri()
    _set_tracking_uri(uri)
    if not uri.startswith("sqlite:///"):
        return MlflowClient(uri)
    with file_lock(_home() / ".database.lock", waiting_for="another run to set up the MLflow database"):
        try:
            return MlflowClient(uri)
        except Exception as error:
            raise ServiceError(f"{uri}: MLflow cannot open its database: {error}") from error


@contextlib.contextmanager
def track_run(config: PipelineConfig, *, name: str, tags: Mapping[str, str]) -> Iterator[TrackedRun]:
    """Open an MLflow run for the body and end it in the right state.

    FINISHED when the body returns, FAILED when it raises an error, KILLED when it is interrupted (Ctrl-C,
    termination). Should the process die instead, the lock file it held tells `sweep_dead_runs`.
    """
    client = open_client()
    experiment_id = _experiment(client, f"gloveflow/{config.name}")
    lock = uuid.uuid4().hex
    with _held(_lock_path(lock)):
        values = {**tags, **_source_tags(), LOCK_TAG: lock, "mlflow.source.name": "gloveflow", "mlflow.user": _user()}
        run_id = client.create_run(experiment_id, tags=values, run_name=name).info.run_id
        try:
            _log_config(client, run_id, config)
            yield TrackedRun(run_id, experiment_id, run_url(experiment_id, run_id))
        except Exception:
            _end(client, run_id, "FAILED")
            raise
        except BaseException:
            _end(client, run_id, "KILLED")
            raise
        _end(client, run_id, "FINISHED")
    _lock_path(lock).unlink(missing_ok=True)


def sweep_dead_runs() -> list[str]:
    """End, as KILLED, the runs whose process is gone.

    Returns:
        The Prefect flow run ids of these runs.
    """
    client = open_client()
    flow_run_ids = []
    for path in (_home() / "live").glob("*.lock"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # its run may end meanwhile
            if not try_lock(file.fileno(), path):
                continue
            for run in _runs_with_lock(client, path.stem):
                _end(client, run.info.run_id, "KILLED")
                logger.warning("MLflow run %s was left running by a killed process: now KILLED", run.info.run_name)
                flow_run_ids.append(run.data.tags.get("prefect.flow_run_id", ""))
            path.unlink(missing_ok=True)
    return [identity for identity in flow_run_ids if identity]


def run_url(experiment_id: str, run_id: str) -> str:
    """Return the address of a run's page."""
    return f"{ui_url()}/#/experiments/{experiment_id}/runs/{run_id}"


def model_url(name: str, version: str) -> str:
    """Return the address of a model version's page."""
    return f"{ui_url()}/#/models/{name}/versions/{version}"


def ui_url() -> str:
    """Return the address of the MLflow pages."""
    uri = tracking_uri()
    return (uri if uri.startswith("http") else os.environ.get("GLOVEFLOW_MLFLOW_URL", "http://127.0.0.1:5000")).rstrip(
        "/"
    )


def log_metrics(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log metrics at one step."""
    open_client().log_batch(run_id, metrics=_metrics(metrics, step))


def log_history(run_id: str, rows: list[dict[str, float]], *, marker: str) -> None:
    """Log the rows of a history (each with `step`) that the run does not have yet.

    Args:
        run_id: the run.
        rows: one mapping of metrics per step.
        marker: a metric of every row, by which rows that are there already are known.
    """
    client = open_client()
    known = {metric.step for metric in client.get_metric_history(run_id, marker)}
    missing = [row for row in rows if int(row["step"]) not in known]
    metrics = [
        metric
        for row in missing
        for metric in _metrics({k: v for k, v in row.items() if k != "step"}, int(row["step"]))
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def log_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    open_client().log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def log_json(run_id: str, value: dict[str, Any], name: str) -> None:
    """Log a value as a JSON file."""
    open_client().log_dict(run_id, value, name)


def log_table(run_id: str, rows: list[dict[str, Any]], name: str) -> None:
    """Log rows as `tables/<name>.csv`, which MLflow's page shows as a table; doing it again changes nothing."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    open_client().log_text(run_id, text.getvalue(), f"tables/{name}.csv")


def log_file(run_id: str, path: Path, folder: str | None = None) -> None:
    """Log a file, under a folder of the run's artifacts."""
    open_client().log_artifact(run_id, str(path), folder)


def log_dataset(run_id: str, *, name: str, digest: str, path: Path, context: str, rows: int) -> None:
    """Log that a run used a dataset: its name, digest, file, role and size."""
    dataset = Dataset(
        name=name,
        digest=digest[:36],  # MLflow takes no more
        source_type="local",
        source=json.dumps({"uri": str(path)}),
        profile=json.dumps({"num_rows": rows}),
    )
    tags = [InputTag("mlflow.data.context", context), InputTag("sha256", digest)]
    open_client().log_inputs(run_id, datasets=[DatasetInput(dataset=dataset, tags=tags)])


def log_model(run: TrackedRun, *, code: Path, bundle: Path, digest: str, requirements: list[str], example: str) -> str:
    """Log a model from code with its bundle of files, and return the logged model's id.

    No pickle is written: the code, the bundle and MLflow's descriptions are all there is.
    """
    client = open_client()
    logged = client.create_logged_model(
        run.experiment_id, name="classifier", source_run_id=run.run_id, tags={DIGEST_TAG: digest}
    )
    try:
        with tempfile.TemporaryDirectory() as folder, _model_code:
            path = Path(folder, "model")
            mlflow.pyfunc.save_model(
                path=path,
                python_model=str(code),
                artifacts={"bundle": str(bundle)},
                signature=SIGNATURE,
                input_example=[example],
                pip_requirements=requirements,
                mlflow_model=Model(
                    artifact_path=logged.artifact_location,
                    run_id=run.run_id,
                    model_uuid=logged.model_id,
                    model_id=logged.model_id,
                ),
            )
            client.log_model_artifacts(logged.model_id, str(path))
    except BaseException:
        client.finalize_logged_model(logged.model_id, LoggedModelStatus.FAILED)
        raise
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    return str(logged.model_id)


def link_model(run_id: str, model_id: str, metrics: Mapping[str, float]) -> None:
    """Show a logged model, with metrics, on the page of a run."""
    client = open_client()
    outputs = client.get_run(run_id).outputs
    if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else [])}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id=model_id, step=0)])
    now = int(time.time() * 1000)
    client.log_batch(
        run_id, metrics=[Metric(k, v, now, 0, model_id=model_id, run_id=run_id) for k, v in metrics.items()]
    )


def find_version(name: str, digest: str) -> ModelVersion | None:
    """Return the newest registered version of a model with a digest, or None.

    A version whose files are gone does not count.
    """
    client = open_client()
    found = client.search_model_versions(
        f"name = '{name}' AND tags.`{DIGEST_TAG}` = '{digest}'", order_by=["version_number DESC"]
    )
    for version in found:
        with contextlib.suppress(MlflowException, OSError):
            if client.list_logged_model_artifacts(model_id_of(version), "artifacts/bundle"):
                return version
        logger.warning("version %s of %s has lost its files", version.version, name)
    return None


def find_alias(name: str, alias: str) -> ModelVersion | None:
    """Return the version that an alias names, or None when there is no such alias or model."""
    try:
        return open_client().get_model_version_by_alias(name, alias)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            return None
        raise


def register_version(
    name: str, run: TrackedRun, model_id: str, *, tags: Mapping[str, str], description: str
) -> ModelVersion:
    """Register a logged model as a new version."""
    client = open_client()
    with contextlib.suppress(MlflowException):
        client.create_registered_model(name, description="LSTM text classifiers, trained by gloveflow")
    version = client.create_model_version(
        name, f"models:/{model_id}", run.run_id, tags=dict(tags), description=description, model_id=model_id
    )
    versions = json.dumps([{"name": name, "version": str(version.version)}])
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": versions})
    return version


def set_alias(name: str, alias: str, version: str) -> None:
    """Let an alias name a version."""
    open_client().set_registered_model_alias(name, alias, version)


@contextlib.contextmanager
def registry_lock() -> Iterator[None]:
    """Keep other runs on this store from registering while the body does."""
    with file_lock(_home() / ".registry.lock", waiting_for="another run to register its model"):
        yield


def model_id_of(version: ModelVersion) -> str:
    """Return the id of the logged model behind a version."""
    return str(version.source).rpartition("/")[2]


def load_model(name: str, alias: str) -> Classify:
    """Load the registered model that an alias names, as a function from texts to answers.

    Raises:
        ServiceError: there is no such model or alias, or its files cannot be read.
    """
    open_client()
    uri = f"models:/{name}@{alias}"
    try:
        with _model_code:
            model = mlflow.pyfunc.load_model(uri)
    except MlflowException as error:
        if error.error_code in _ABSENT:
            raise ServiceError(f"{uri}: no such registered model; `gloveflow run` makes one") from error
        raise ServiceError(f"{uri}: cannot be loaded: {error.message}") from error
    except OSError as error:
        raise ServiceError(f"{uri}: its files cannot be read: {error}") from error
    return lambda texts: cast("list[dict[str, Any]]", model.predict(texts))


def _set_tracking_uri(uri: str) -> None:
    """Set MLflow's global address, on which the registry insists, but not the variable that it sets with it.

    The variable would outlast a change of the artifacts directory, and pass it on to child processes.
    """
    before = os.environ.get("MLFLOW_TRACKING_URI")
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop("MLFLOW_TRACKING_URI", None)


def _home() -> Path:
    return artifacts_root() / "mlflow"


def _lock_path(lock: str) -> Path:
    return _home() / "live" / f"{lock}.lock"


@contextlib.contextmanager
def _held(path: Path) -> Iterator[BinaryIO]:
    """Hold a lock file, which gets its name once it is locked, so that no sweep takes its run for a dead one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unnamed = path.with_suffix(".new")
    with unnamed.open("wb") as file:
        try_lock(file.fileno(), path)
        unnamed.rename(path)
        yield file


def _runs_with_lock(client: MlflowClient, lock: str) -> list[Any]:
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    query = f"attributes.status = 'RUNNING' AND tags.`{LOCK_TAG}` = '{lock}'"
    return list(client.search_runs(experiments, query)) if experiments else []


def _experiment(client: MlflowClient, name: str) -> str:
    location = None if tracking_uri().startswith("http") else (_home() / "files").as_uri()
    with file_lock(_home() / ".database.lock", waiting_for="another run to create the experiment"):
        found = client.get_experiment_by_name(name)
        if found is None:
            files = location and f"{location}/{uuid.uuid4().hex[:8]}"
            tags = {"mlflow.experimentKind": "custom_model_development"}  # which pages the UI shows
            return str(client.create_experiment(name, artifact_location=files, tags=tags))
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _log_config(client: MlflowClient, run_id: str, config: PipelineConfig) -> None:
    values = config.model_dump(mode="json")
    params = [Param(key, "null" if value is None else str(value)) for key, value in flatten(values)]
    client.log_batch(run_id, params=params)
    client.log_text(run_id, yaml.safe_dump(values, sort_keys=False), "config.yaml")


def _end(client: MlflowClient, run_id: str, status: str) -> None:
    try:
        client.set_terminated(run_id, status)
    except MlflowException as error:
        logger.warning("MLflow run %s could not be ended as %s: %s", run_id, status, error.message)


def _metrics(metrics: Mapping[str, float], step: int) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(key, float(value), now, step) for key, value in metrics.items()]


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def _source_tags() -> dict[str, str]:
    """Return the commit of the source tree, when it is a git checkout."""
    found = subprocess.run(
        ["git", "rev-parse", "HEAD"],  # noqa: S607
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    return {"mlflow.source.git.commit": found.stdout.strip()} if found.returncode == 0 else {}
