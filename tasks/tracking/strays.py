"""What killed runs left in our own database and files: models that were never registered, files without a record."""

import contextlib
import re
import sqlite3
from pathlib import Path

from mlflow.entities import LoggedModel, ViewType

from tasks.store.databases import connected
from tasks.tracking.models import DIGEST_TAG
from tasks.tracking.purge import is_own, pages, purge_marked
from tasks.tracking.runs import LOCK_TAG, was_broken_off
from tasks.tracking.server import mlflow_directory, open_client

_STRAY_INPUTS = (
    "(destination_type = 'RUN' AND destination_id NOT IN (SELECT run_uuid FROM runs)) OR "
    "(source_type = 'RUN_OUTPUT' AND source_id NOT IN (SELECT run_uuid FROM runs))"
)
_STRAY_ROWS = (
    f"DELETE FROM input_tags WHERE input_uuid IN (SELECT input_uuid FROM inputs WHERE {_STRAY_INPUTS})",  # noqa: S608
    f"DELETE FROM inputs WHERE {_STRAY_INPUTS}",  # noqa: S608
    "DELETE FROM model_version_tags WHERE (name, version) IN "
    "(SELECT name, version FROM model_versions WHERE current_stage = 'Deleted_Internal')",
    "DELETE FROM datasets WHERE dataset_uuid NOT IN (SELECT source_id FROM inputs WHERE source_type = 'DATASET') "
    "AND experiment_id IN (SELECT experiment_id FROM experiments WHERE name LIKE 'gloveflow/%')",
)
_RUN_FOLDER = re.compile(r"[0-9a-f]{8}/[0-9a-f]{32}")
_MODEL_FOLDER = re.compile(r"[0-9a-f]{8}/models/m-[0-9a-f]{32}")


def find_unregistered() -> list[LoggedModel]:
    """Return the whole models in our own database that killed or failed runs logged and never registered."""
    client = open_client()
    experiments = [str(one.experiment_id) for one in pages(client.search_experiments, view_type=ViewType.ALL)]
    runs = pages(client.search_runs, experiments, run_view_type=ViewType.ALL, max_results=1000)
    broken = {run.info.run_id for run in runs if LOCK_TAG in run.data.tags and was_broken_off(run)}
    versions = [
        str(version.source)
        for model in pages(client.search_registered_models)
        for version in pages(client.search_model_versions, f"name = '{model.name}'")
    ]
    return [
        model
        for model in pages(client.search_logged_models, experiments)
        if DIGEST_TAG in model.tags
        and str(model.status) == "READY"
        and model.source_run_id in broken
        and not any(str(model.model_id) in source for source in versions)
    ]


def purge_unregistered() -> int:
    """Delete these models with their files, and return their number. The caller holds the lock of the registry."""
    found = find_unregistered()
    for model in found:
        open_client().delete_logged_model(model.model_id)
        purge_marked(model)
    return len(found)


def find_orphans() -> list[Path]:
    """Return directories of runs and logged models in our files that no record names."""
    files = mlflow_directory() / "files"
    folders = [
        path for pattern in ("*/*", "*/models/*") for path in files.glob(pattern)
        if (_RUN_FOLDER if pattern == "*/*" else _MODEL_FOLDER).fullmatch(path.relative_to(files).as_posix())
    ]  # fmt: skip
    database = mlflow_directory() / "mlflow.db"
    if not is_own() or not folders or not database.exists():
        return []
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)) as records:
        ids = records.execute("SELECT run_uuid FROM runs UNION SELECT model_id FROM logged_models")
        known = {str(key) for (key,) in ids}
        places = [str(place) for (place,) in records.execute("SELECT storage_location FROM model_versions") if place]
    return sorted(
        path for path in folders if path.name not in known and not any(path.name in place for place in places)
    )


def remove_stray_rows() -> None:
    """Delete what our own database still says of runs and versions that were deleted for good: datasets, tags.

    MLflow leaves these rows. Only while no run goes on, which may have recorded a dataset and not yet that it used it.
    """
    database = mlflow_directory() / "mlflow.db"
    if is_own() and database.exists():
        with connected(database) as records:
            records.execute("BEGIN IMMEDIATE")
            for statement in _STRAY_ROWS:
                records.execute(statement)
            records.execute("COMMIT")
