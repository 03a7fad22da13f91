"""Damage in the records of runs and models that `gloveflow doctor` finds and mends.

Runs of processes that are gone, models that were never logged completely, aliases of versions that cannot be used, and
places outside the artifacts directory. Imports mlflow, so the doctor imports it last.
"""

import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from flows.cli.damage import check_revision, examine_database
from flows.cli.findings import Finding
from flows.cli.prefect_damage import check_flow_runs
from pipeline_config.errors import ServiceError, StoreError, UnusableModelError
from pipeline_config.registration import RegistrationConfig
from tasks.housekeeping.records import remove_orphan
from tasks.housekeeping.selection import measure
from tasks.registry.mending import (
    find_half_made,
    find_lost_scores,
    finish_record,
    is_broken,
    move_alias_off,
    restore_scores,
)
from tasks.tracking import repairs, runs, strays
from tasks.tracking.database import list_foreign_places, wanted_revision
from tasks.tracking.models import registry_lock
from tasks.tracking.version_list import VersionRecord, list_versions


def check_records(root: Path, gate: RegistrationConfig) -> Iterator[Finding]:
    """Check the records of runs and models, if there are any."""
    yield from check_flow_runs(root)
    own, database = not os.environ.get("MLFLOW_TRACKING_URI"), root / "mlflow" / "mlflow.db"
    if own and examine_database(database) != ("ok", False):  # missing, or reported already
        return
    if own and (old := list(check_revision("mlflow db", database, wanted_revision(), _migrate))):
        yield from old  # whatever opens it migrates it
        return
    try:
        if own:  # the records of another server are not ours to judge
            yield from check_runs()
            yield from check_places(root)
            yield from check_models(root, gate)
        yield from check_aliases(root, gate, own=own)
    except (ServiceError, StoreError, OSError, sqlite3.Error) as error:
        yield Finding(False, "registry", f"cannot be read: {error}")


def check_runs() -> Iterator[Finding]:
    """Find the MLflow runs whose process is gone, and the models that were never logged completely."""
    if names := repairs.find_dead_runs():
        yield Finding(
            False,
            "dead runs",
            f"MLflow shows as RUNNING the runs of processes that are gone: {', '.join(names)}",
            "set them to KILLED",
            repairs.end_dead_runs,
        )
    elif number := repairs.count_live_files():
        yield Finding(
            True,
            "live files",
            f"{number} of ended MLflow runs; the next run removes them",
            "remove them",
            _remove_live_of_mlflow,
        )
    if pending := repairs.find_pending_models():
        yield Finding(
            False,
            "logged models",
            f"never logged completely by processes that are gone: {', '.join(pending)}",
            "set them to FAILED",
            repairs.end_pending_models,
        )


def check_models(root: Path, gate: RegistrationConfig) -> Iterator[Finding]:
    """Find registrations that were interrupted, and files of runs and models of which MLflow has no record."""
    for name, number in find_half_made(root, gate):
        yield Finding(
            False,
            "registration",
            f"{name} version {number}: its registration was interrupted before the gate decided",
            "write that into its record; `gloveflow run` with its configuration goes on with the decision",
            partial(finish_record, root, name, number, gate),
        )
    if unregistered := [str(model.model_id) for model in strays.find_unregistered()]:
        yield Finding(
            False,
            "registration",
            f"logged by runs that ended before they registered them: {', '.join(unregistered)}",
            "remove these models; the same runs again log and register them",
            _purge_unregistered,
        )
    for folder in strays.find_orphans():
        text = f"{folder}: no record of MLflow names it, {measure(folder) / 2**20:,.1f} MB"
        yield Finding(False, "leftover", text, "remove it", partial(_remove_orphan, folder))


def check_places(root: Path) -> Iterator[Finding]:
    """Tell which places outside the artifacts directory MLflow's records name."""
    places = list_foreign_places(root / "mlflow" / "mlflow.db", root)
    if places:
        more = f" and {len(places) - 3} more" if len(places) > 3 else ""
        yield Finding(
            True,
            "places",
            f"MLflow's records name places outside {root}, which do not move with it: {', '.join(places[:3])}{more}",
        )


def check_aliases(root: Path, gate: RegistrationConfig, *, own: bool) -> Iterator[Finding]:
    """Check the files and tags of every version that has an alias.

    Args:
        root: the artifacts directory.
        gate: the names of the aliases.
        own: whether the registry is that of the artifacts; an alias of another one is not moved, because its files may
            only be out of reach.
    """
    for record in list_versions(root):
        if not record.aliases:
            continue
        subject, named = "registry", f"{record.name} version {record.version} ({', '.join(record.aliases)})"
        try:
            lost = find_lost_scores(record.name, record.version)
        except UnusableModelError as error:
            sure = own and is_broken(record.name, record.version)
            remedy = _describe_move(record, gate) if sure else ""
            mend = partial(_move_aliases, record, gate) if sure else None
            yield Finding(False, subject, f"{named} cannot be used: {error}", remedy, mend)
            continue
        if lost:
            yield Finding(
                False,
                subject,
                f"{named} has no usable {', '.join(lost)}, which the lists of models show",
                "set its scores again from its MLflow run, or remove the digest of its documents, so that the next run "
                "measures it",
                partial(restore_scores, record.name, record.version),
            )
        else:
            yield Finding(True, subject, f"{named}: files and tags are intact")


def _describe_move(record: VersionRecord, gate: RegistrationConfig) -> str:
    if gate.alias not in record.aliases:
        return f"remove the alias {', '.join(record.aliases)} from it"
    return (
        f"give {gate.alias} to the version with the alias {gate.previous_alias} if that one can be used, or remove it"
    )


def _move_aliases(record: VersionRecord, gate: RegistrationConfig) -> str:
    return "; ".join(move_alias_off(record.name, str(record.version), alias, gate) for alias in record.aliases)


def _migrate(path: Path) -> str:
    from tasks.tracking.server import open_client

    open_client()
    return f"{path} is migrated"


def _purge_unregistered() -> str:
    with registry_lock():
        return f"removed {strays.purge_unregistered()} models"


def _remove_orphan(folder: Path) -> str:
    return f"removed {folder}" if remove_orphan(folder) else f"{folder} has a record now; left alone"


def _remove_live_of_mlflow() -> str:
    runs.end_dead_runs()
    return "removed the live files of ended MLflow runs"
