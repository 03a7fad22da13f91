"""Old runs, logged models and registered versions: list ours, and delete them for good.

In our own database a run or a logged model is first marked as deleted, then loses its files, then its record, as
`mlflow gc` does it: whatever a kill leaves is marked, and the next purge goes on. On another server they are only
marked; `mlflow gc` there deletes marked ones. Only what has a tag of ours is listed.
"""

import contextlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException
from mlflow.tracking._tracking_service.utils import _get_store

from pipeline_config.errors import ServiceError, StoreError
from tasks.store.artifacts import artifacts_root
from tasks.store.locks import is_held
from tasks.tracking.models import DIGEST_TAG
from tasks.tracking.runs import FLOW_RUN_TAG, LOCK_TAG, live_directory
from tasks.tracking.server import mlflow_directory, open_client, tracking_uri
from tasks.tracking.version_list import EVALUATION_TAG, RUN_TAG, read_approval
from tasks.tracking.versions import delete_version

logger = logging.getLogger(__name__)
KEEP_TAG = "gloveflow.keep"  # of a run or version, set by a person: it is never deleted
_PURGED_TAG = "gloveflow.purged"  # of a run whose deletion has begun
_OUTPUTS_FILE = "reports/outputs.json"


class RunEntry(NamedTuple):
    """A run of ours.

    Attributes:
        run_id: MLflow's id.
        name: of the run.
        group: experiment and kind, within which the newest are kept.
        moment: when it ended or began, in seconds since 1970.
        live: whether its process may still be going on.
        begun: whether a purge of it was begun and not finished.
        tags: all tags.
        folder: the directory of its files, if these are ours.
    """

    run_id: str
    name: str
    group: tuple[str, str]
    moment: float
    live: bool
    begun: bool
    tags: dict[str, str]
    folder: Path | None


class VersionEntry(NamedTuple):
    """A registered version of ours.

    Attributes:
        name: the registered model.
        number: the version.
        run_id: the run that made it.
        moment: when it was registered, in seconds since 1970.
        needed: the alias or the question because of which it has to stay; empty without one.
        evaluation: key of the stage output with its predictions; empty if it is not known.
    """

    name: str
    number: int
    run_id: str
    moment: float
    needed: str
    evaluation: str


def is_own() -> bool:
    """Return whether runs are tracked in the database of these artifacts."""
    return not os.environ.get("MLFLOW_TRACKING_URI")


def list_runs(experiments: set[str] | None = None) -> list[RunEntry]:
    """Return the runs that this project logged.

    Args:
        experiments: names of the experiments to look into; None is all of them.
    """
    client = open_client()
    names = {
        str(found.experiment_id): str(found.name)
        for found in pages(client.search_experiments, view_type=ViewType.ALL)
        if experiments is None or found.name in experiments
    }
    if not names:
        return []
    view = ViewType.ALL if is_own() else ViewType.ACTIVE_ONLY  # there `mlflow gc` deletes marked ones
    runs = pages(client.search_runs, list(names), run_view_type=view, max_results=1000)
    return [_describe_run(run, names) for run in runs if LOCK_TAG in run.data.tags]


def list_versions(models: set[str] | None = None) -> list[VersionEntry]:
    """Return the registered versions that this project made.

    Args:
        models: names of registered models; None is all of them.
    """
    client = open_client()
    return [
        entry
        for model in pages(client.search_registered_models)
        if models is None or model.name in models
        for entry in _list_versions_of(client, model)
    ]


def list_outputs(run: RunEntry) -> set[tuple[str, str]]:
    """Return stage and key of the outputs that a run recorded; nothing for one that had not come that far."""
    try:
        if run.folder is not None:
            text = (run.folder / "artifacts" / _OUTPUTS_FILE).read_text("utf-8")
        else:
            with tempfile.TemporaryDirectory() as folder:
                place = open_client().download_artifacts(run.run_id, _OUTPUTS_FILE, folder)
                text = Path(place).read_text("utf-8")
        return {(str(stage), str(output["key"])) for stage, output in json.loads(text).items()}
    except FileNotFoundError:
        return set()
    except MlflowException:
        return set()
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(
            f"the outputs of MLflow run {run.name} ({run.run_id}) cannot be read from {_OUTPUTS_FILE}: {error}; delete "
            "the run if it is not wanted, since what it needs is not known"
        ) from error


def list_folders(runs: list[RunEntry]) -> dict[str, list[Path]]:
    """Return the directories of the files of runs and their logged models, by run, as far as they are ours."""
    folders = {run.run_id: [run.folder] if run.folder else [] for run in runs}
    if is_own():
        client = open_client()
        experiments = [str(one.experiment_id) for one in pages(client.search_experiments, view_type=ViewType.ALL)]
        for model in [*pages(client.search_logged_models, experiments), *_marked_models()]:
            folder = _own_folder(str(model.artifact_location))
            if folder is not None and model.source_run_id in folders:
                folders[model.source_run_id].append(folder)
    return folders


def purge_version(name: str, number: int) -> bool:
    """Delete a version that no alias names and that does not wait for an approval; return whether it was deleted.

    The caller holds the lock of the registry.
    """
    with _plain_errors():
        found = [entry for entry in list_versions({name}) if entry.number == number]
        if not found or found[0].needed:
            return False
        delete_version(name, str(number), why="old, without an alias")
    return True


def purge_run(run_id: str) -> bool:
    """Delete a run with its logged models, unless a version needs it; return whether it was deleted.

    The caller holds the lock of the registry. On another server run and models are only marked as deleted.
    """
    client = open_client()
    with _plain_errors():
        run = client.get_run(run_id)
        if client.search_model_versions(f"run_id = '{run_id}'") or _may_be_live(run):
            return False
        if run.info.lifecycle_stage == "active":
            client.set_tag(run_id, _PURGED_TAG, "true")
        query = f"source_run_id = '{run_id}'"
        for model in pages(client.search_logged_models, [run.info.experiment_id], filter_string=query):
            client.delete_logged_model(model.model_id)
        if run.info.lifecycle_stage == "active":
            client.delete_run(run_id)
        if is_own():
            for model in _marked_models():
                if model.source_run_id == run_id:
                    purge_marked(model)
            _remove_folder(_own_folder(str(run.info.artifact_uri)))
            _own_store()._hard_delete_run(run_id)
    return True


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise MLflow's own errors, such as that a run was deleted meanwhile, as `ServiceError`."""
    try:
        yield
    except MlflowException as error:
        raise ServiceError(f"MLflow refused: {error.message}") from error


def _list_versions_of(client: MlflowClient, model: Any) -> Iterator[VersionEntry]:
    aliases: dict[str, list[str]] = {}
    for alias, number in model.aliases.items():
        aliases.setdefault(str(number), []).append(str(alias))
    for version in pages(client.search_model_versions, f"name = '{model.name}'"):
        tags, number = dict(version.tags), str(version.version)
        if DIGEST_TAG in tags:
            needed = ", ".join(sorted(aliases.get(number, [])))
            needed = needed or ("waits for an approval" if read_approval(tags) == "waiting" else "")
            needed = needed or (KEEP_TAG if KEEP_TAG in tags else "")
            yield VersionEntry(
                str(model.name),
                int(number),
                tags.get(RUN_TAG) or str(version.run_id),
                version.creation_timestamp / 1000,
                needed,
                tags.get(EVALUATION_TAG, "").partition(" ")[0],
            )


def _describe_run(run: Run, names: dict[str, str]) -> RunEntry:
    tags = dict(run.data.tags)
    return RunEntry(
        run.info.run_id,
        str(run.info.run_name),
        (names[str(run.info.experiment_id)], tags.get("gloveflow.kind", "")),
        (run.info.end_time or run.info.start_time or 0) / 1000,
        _may_be_live(run),
        run.info.lifecycle_stage != "active" and _PURGED_TAG in tags,
        tags,
        _own_folder(str(run.info.artifact_uri)),
    )


def _may_be_live(run: Run) -> bool:
    """Return whether the process of a run may be going on; on another server it may be on another machine."""
    lock, flow_run = run.data.tags.get(LOCK_TAG, ""), run.data.tags.get(FLOW_RUN_TAG, "")
    locks = (live_directory() / f"{lock}.lock", artifacts_root() / "prefect" / "live" / f"{flow_run}.lock")
    return str(run.info.status) in ("RUNNING", "SCHEDULED") or any(map(is_held, locks))


def _marked_models() -> list[LoggedModel]:
    """Return the logged models of our own database that are marked as deleted."""
    store = _own_store()
    return [store.get_logged_model(key, allow_deleted=True) for key in store._get_deleted_logged_models()]


def purge_marked(model: LoggedModel) -> None:
    """Delete the files and the record of a logged model that is marked as deleted in our own database."""
    _remove_folder(_own_folder(str(model.artifact_location)))
    _own_store()._hard_delete_logged_model(model.model_id)


def _own_store() -> Any:
    """Return MLflow's store of our own database, which can delete for good."""
    open_client()
    return _get_store(tracking_uri())  # type: ignore[no-untyped-call]


def _own_folder(address: str) -> Path | None:
    """Return the directory above that of some artifacts, if it is in the files of these artifacts."""
    if not address.startswith("file:") or not is_own():
        return None
    path = Path(url2pathname(urlsplit(address).path))
    files = (mlflow_directory() / "files").resolve()
    inside = path.name == "artifacts" and path.resolve().parent.parent.is_relative_to(files)
    return path.parent if inside else None


def _remove_folder(folder: Path | None) -> None:
    if folder is not None and folder.exists():
        shutil.rmtree(folder)


def pages(search: Callable[..., Any], *arguments: Any, **options: Any) -> Iterator[Any]:
    """Yield what a search of MLflow's client finds, page by page."""
    token = None
    while True:
        page = search(*arguments, page_token=token, **options)
        yield from page
        token = page.token
        if not token:
            return
