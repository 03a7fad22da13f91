"""MLflow runs: open and end a run, end the runs of killed processes, log tags, files, tables and datasets.

Every call names its run id and uses `MlflowClient`, because MLflow's active run belongs to a thread and stages run in
several threads. Reads and writes where `tasks.tracking.server.tracking_uri` says.
"""

import contextlib
import csv
import getpass
import io
import json
import logging
import os
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModelStatus, Param, Run, RunTag, ViewType
from mlflow.exceptions import MlflowException

from pipeline_config.errors import GloveflowError, ServiceError
from pipeline_config.masking import mask_secrets, mask_values
from pipeline_config.settings import PipelineConfig
from tasks.runtime.escaping import escape_cell
from tasks.store.artifacts import artifacts_root
from tasks.store.locks import file_lock, is_held, lock_before_naming, try_lock
from tasks.tracking.client import create_once
from tasks.tracking.run_settings import log_settings
from tasks.tracking.server import mlflow_directory, open_client, run_url, tracking_uri

logger = logging.getLogger(__name__)
LOCK_TAG = "gloveflow.lock"
FLOW_RUN_TAG = "prefect.flow_run_id"


class TrackedRun(NamedTuple):
    """An MLflow run: its ids and the address of its page."""

    run_id: str
    experiment_id: str
    url: str


@contextlib.contextmanager
def track_run(config: PipelineConfig, *, name: str, tags: Mapping[str, str]) -> Iterator[TrackedRun]:
    """Open an MLflow run with a configuration in the experiment of its name; see `open_run`.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with open_run(f"gloveflow/{config.name}", name=name, tags=tags) as run:
        log_settings(run.run_id, config)
        yield run


@contextlib.contextmanager
def track_scoring(
    model: str, *, name: str, tags: Mapping[str, str], params: Mapping[str, object]
) -> Iterator[TrackedRun]:
    """Open an MLflow run for the scoring of texts with a registered model, and end it as `open_run` does.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with open_run(f"gloveflow/scoring/{model}", name=name, tags=tags) as run:
        values = [Param(key, mask_secrets(str(value))) for key, value in params.items()]
        open_client().log_batch(run.run_id, params=values)
        yield run


@contextlib.contextmanager
def track_version(kind: str, model: str, *, name: str, tags: Mapping[str, str], version: int) -> Iterator[TrackedRun]:
    """Open an MLflow run about a version, in the experiment of its kind, and end it as `open_run` does.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with open_run(f"gloveflow/{kind}/{model}", name=name, tags=tags) as run:
        open_client().log_batch(run.run_id, params=[Param("model", model), Param("version", str(version))])
        yield run


@contextlib.contextmanager
def open_run(experiment: str, *, name: str, tags: Mapping[str, str]) -> Iterator[TrackedRun]:
    """Open an MLflow run for the body, and end it in the state that fits.

    FINISHED if the body returns, FAILED if it raises an error, KILLED if it is interrupted (Ctrl-C, termination). If
    the process is killed, or the server is away at the end, the run stays open and its lock file stays behind without a
    lock: `end_dead_runs` finds it, and in the second case the state that it should have got.

    Raises:
        ServiceError: MLflow does not answer.
    """
    client = open_client()
    experiment_id = _experiment(client, experiment)
    lock = uuid.uuid4().hex
    with _hold_lock(_lock_path(lock)):
        values = {
            **mask_values(tags),
            **_source_tags(),
            LOCK_TAG: lock,
            "mlflow.source.name": "gloveflow",
            "mlflow.user": user_name(),
        }
        opened = create_once(
            lambda: client.create_run(experiment_id, tags=values, run_name=name),
            lambda: next(iter(_runs_with_lock(client, lock)), None),
        )
        run_id = opened.info.run_id
        try:
            yield TrackedRun(run_id, experiment_id, run_url(experiment_id, run_id))
        except Exception as error:
            if isinstance(error, ServiceError):
                logger.warning("the run cannot go on: %s", error)  # ending it may take as long again
            _give_up(client, opened, "FAILED")
            raise
        except BaseException:
            _give_up(client, opened, "KILLED")
            raise
        ended = _end(client, opened, "FINISHED")
    if ended:
        _lock_path(lock).unlink(missing_ok=True)


def end_dead_runs() -> list[str]:
    """End the runs whose process is gone, as KILLED, and as FAILED the models that they had not logged completely.

    A run that only could not be ended, because MLflow was away, gets its own state.

    Returns:
        The Prefect flow run ids of these runs.

    Raises:
        ServiceError: MLflow does not answer; the lock files stay for the next call.
    """
    client = open_client()
    flow_run_ids = []
    for path in live_directory().glob("*.lock"):
        with contextlib.suppress(FileNotFoundError), path.open("rb") as file:  # its run may end at this moment
            if not try_lock(file.fileno(), path):
                continue
            status = file.read().decode() or "KILLED"
            for run in _runs_with_lock(client, path.stem):
                end_dead_run(client, run, status)
                flow_run_ids.append(run.data.tags.get(FLOW_RUN_TAG, ""))
            path.unlink(missing_ok=True)
    return [identity for identity in flow_run_ids if identity]


def end_dead_run(client: MlflowClient, run: Run, status: str = "KILLED") -> None:
    """End a run whose process is gone, and the models that it had not logged completely."""
    _end_pending_models(client, run)
    client.set_terminated(run.info.run_id, status)
    logger.warning("MLflow run %s was left running by a process that is gone: now %s", run.info.run_name, status)


def live_directory() -> Path:
    """Return the directory of the lock files that runs hold."""
    return mlflow_directory() / "live"


def was_broken_off(run: Run) -> bool:
    """Return whether a run failed, was killed, or belongs to a process that is gone."""
    status = str(run.info.status)
    return status in ("KILLED", "FAILED") or (status == "RUNNING" and not is_held(_lock_path(run.data.tags[LOCK_TAG])))


def log_tags(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run."""
    open_client().log_batch(run_id, tags=[RunTag(key, mask_secrets(value)) for key, value in tags.items()])


def log_tags_if_possible(run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags of a run that goes on without them: if MLflow is away, a warning is logged."""
    try:
        log_tags(run_id, tags)
    except ServiceError as error:
        logger.warning("the MLflow run lacks %s: %s", ", ".join(tags), error)


def log_text(run_id: str, text: str, name: str) -> None:
    """Log a text as a file of the run; a second call replaces it."""
    open_client().log_text(run_id, text, name)


def log_json(run_id: str, value: dict[str, Any], name: str) -> None:
    """Log a value as a JSON file of the run."""
    open_client().log_dict(run_id, mask_values(value), name)


def log_table(run_id: str, rows: list[dict[str, Any]], name: str) -> None:
    """Log rows as `tables/<name>.csv`, which MLflow's page shows as a table; a second call replaces the file.

    Texts that a spreadsheet would run as a formula get an apostrophe in front.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]) if rows else [], lineterminator="\n")
    writer.writerow({name: escape_cell(name) for name in writer.fieldnames})
    writer.writerows({name: escape_cell(cell) for name, cell in row.items()} for row in rows)
    open_client().log_text(run_id, text.getvalue(), f"tables/{name}.csv")


def log_file(run_id: str, path: Path, folder: str | None = None) -> None:
    """Log a file, into a folder of the run's artifacts."""
    open_client().log_artifact(run_id, str(path), folder)


def log_dataset(run_id: str, *, name: str, digest: str, place: Path | str, context: str, rows: int) -> None:
    """Log that a run used a dataset: its name, digest, file or address, role and size.

    Its source has the type `local` if it is in the artifacts directory and moves with it, otherwise `external`.
    """
    inside = isinstance(place, Path) and place.is_relative_to(artifacts_root())
    dataset = Dataset(
        name=name,
        digest=digest[:36],  # MLflow's limit
        source_type="local" if inside else "external",
        source=json.dumps({"uri": mask_secrets(str(place))}),
        profile=json.dumps({"num_rows": rows}),
    )
    tags = [InputTag("mlflow.data.context", context), InputTag("sha256", digest)]
    open_client().log_inputs(run_id, datasets=[DatasetInput(dataset=dataset, tags=tags)])


def _lock_path(lock: str) -> Path:
    return live_directory() / f"{lock}.lock"


@contextlib.contextmanager
def _hold_lock(path: Path) -> Iterator[None]:
    """Hold a lock file that `end_dead_runs` never finds unlocked."""
    descriptor = lock_before_naming(path)
    try:
        yield
    finally:
        os.close(descriptor)


def _runs_with_lock(client: MlflowClient, lock: str) -> list[Run]:
    experiments = [e.experiment_id for e in client.search_experiments(view_type=ViewType.ALL)]
    query = f"attributes.status = 'RUNNING' AND tags.`{LOCK_TAG}` = '{lock}'"
    return list(client.search_runs(experiments, query)) if experiments else []


def _end_pending_models(client: MlflowClient, run: Run) -> None:
    """End the logged models that a run left PENDING, as FAILED."""
    query = f"source_run_id = '{run.info.run_id}'"
    try:
        for model in client.search_logged_models([run.info.experiment_id], query):
            if model.status == LoggedModelStatus.PENDING:
                client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
                logger.warning("logged model %s was left unfinished: now FAILED", model.model_id)
    except (MlflowException, ServiceError) as error:
        logger.warning("logged models of MLflow run %s could not be ended: %s", run.info.run_name, error)


def _experiment(client: MlflowClient, name: str) -> str:
    location = None if tracking_uri().startswith("http") else (mlflow_directory() / "files").as_uri()
    with file_lock(mlflow_directory() / ".database.lock", waiting_for="another run to create the experiment"):
        found = client.get_experiment_by_name(name)
        if found is None:
            files = location and f"{location}/{uuid.uuid4().hex[:8]}"
            tags = {"mlflow.experimentKind": "custom_model_development"}  # decides which pages the UI shows
            return create_once(
                lambda: str(client.create_experiment(name, artifact_location=files, tags=tags)),
                lambda: _experiment_id(client, name),
            )
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def _experiment_id(client: MlflowClient, name: str) -> str | None:
    found = client.get_experiment_by_name(name)
    return None if found is None else str(found.experiment_id)


def _give_up(client: MlflowClient, run: Run, status: str) -> None:
    """End a run that was not finished, and the models that it left unfinished."""
    if _end(client, run, status):
        _end_pending_models(client, run)


def _end(client: MlflowClient, run: Run, status: str) -> bool:
    """End a run and return whether it worked. If not, its lock file keeps the state for `end_dead_runs`."""
    try:
        client.set_terminated(run.info.run_id, status)
    except (MlflowException, GloveflowError) as error:
        logger.warning("MLflow run %s could not be ended as %s: %s", run.info.run_id, status, error)
        with contextlib.suppress(OSError):
            _lock_path(run.data.tags[LOCK_TAG]).write_text(status)
        return False
    return True


def user_name() -> str:
    """Return the name of the user of this process, or the number if there is no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        return str(os.getuid())


def find_commit() -> str | None:
    """Return the commit of the source tree, or None if this code is not in a git checkout.

    An environment inside of another project's checkout does not count: its commit says nothing about this code.
    """
    if _ask_git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return _ask_git("rev-parse", "HEAD")


def _ask_git(*arguments: str) -> str | None:
    """Return what git says about the directory of this file, or None if it says no."""
    try:
        found = subprocess.run(
            ["git", *arguments],  # noqa: S607
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            check=False,
        )
    except OSError:  # there is no git
        return None
    return found.stdout.strip() if found.returncode == 0 else None


def _source_tags() -> dict[str, str]:
    commit = find_commit()
    return {} if commit is None else {"mlflow.source.git.commit": commit}
