"""Damage in the records of runs and models that `gloveflow doctor` finds and mends.

Runs of processes that are gone, models that were never logged completely, aliases of versions that cannot be used, and
places outside the artifacts directory. Imports mlflow, so the doctor imports it last.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from flows.cli.damage import examine_database
from flows.cli.findings import Finding
from pipeline_config.errors import ServiceError, StoreError, UnusableModelError
from pipeline_config.registration import RegistrationConfig
from tasks.registry.mending import find_lost_scores, is_broken, move_alias_off, restore_scores
from tasks.store.locks import is_held
from tasks.tracking import repairs, runs
from tasks.tracking.database import list_foreign_places
from tasks.tracking.version_list import VersionRecord, list_versions

_OPEN = ("PENDING", "RUNNING", "CANCELLING")


def check_records(root: Path, gate: RegistrationConfig) -> Iterator[Finding]:
    """Check the records of runs and models, if there are any."""
    yield from check_flow_runs(root)
    own = not os.environ.get("MLFLOW_TRACKING_URI")
    if own and examine_database(root / "mlflow" / "mlflow.db") != ("ok", False):  # missing, or reported already
        return
    try:
        if own:  # the records of another server are not ours to judge
            yield from check_runs()
            yield from check_places(root)
        yield from check_aliases(root, gate, own=own)
    except (ServiceError, StoreError, OSError, sqlite3.Error) as error:
        yield Finding(False, "registry", f"cannot be read: {error}")


def check_flow_runs(root: Path) -> Iterator[Finding]:
    """Find the flow runs whose process is gone and that Prefect still shows as open."""
    files = (path for path in sorted(root.glob("prefect/live/*.lock")) if not path.name.startswith("process-"))
    live = [path for path in files if not is_held(path)]
    open_ones = _open_flow_runs(root / "prefect" / "prefect.db", [path.stem for path in live])
    if open_ones:
        yield Finding(
            False,
            "dead runs",
            f"Prefect shows as open the flow runs of processes that are gone: {', '.join(open_ones)}",
            "set them and their task runs to Crashed, which gives the slot of their deployment back",
            partial(_sweep, root),
        )
    elif live and "PREFECT_API_URL" in os.environ:
        yield Finding(
            True,
            "live files",
            f"{len(live)} flow runs whose process is gone; their Prefect server knows whether they are open",
            "set those that are open to Crashed, as the next run would do",
            partial(_sweep, root),
        )


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


def _open_flow_runs(database: Path, identities: list[str]) -> list[str]:
    """Return those of some flow runs that are open in Prefect's database; a user's own server is asked by the sweep."""
    if not identities or not database.exists():
        return []
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection,
    ):
        rows = connection.execute("SELECT id FROM flow_run WHERE state_type IN (?, ?, ?)", _OPEN).fetchall()
        found = {str(identity).replace("-", "") for (identity,) in rows}
        return [identity for identity in identities if identity.replace("-", "") in found]
    return []


def _sweep(root: Path) -> str:
    from flows.cli.servers import embedded_prefect

    with embedded_prefect(root) as wait_for_server:
        from flows.recovery import sweep

        wait_for_server()
        sweep()
    return "the flow runs of processes that are gone are Crashed"


def _remove_live_of_mlflow() -> str:
    runs.end_dead_runs()
    return "removed the live files of ended MLflow runs"
