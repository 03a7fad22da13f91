"""Runs and versions that may go, and what those that stay need.

Reads MLflow's records. What goes is deleted under the lock of the registry, after another look at aliases and versions.
"""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tasks.housekeeping.removal import remove_whole
from tasks.housekeeping.selection import Item, Limits, measure, not_newest
from tasks.tracking import purge, strays
from tasks.tracking.models import registry_lock
from tasks.tracking.runs import FLOW_RUN_TAG

VERSIONS, RUNS, ORPHANS = "registered versions", "MLflow runs, with models", "files without a record"


class Records(NamedTuple):
    """What MLflow's records say.

    Attributes:
        items: versions, runs and directories, those that stay and those that may go.
        outputs: stage and key of the outputs that what stays needs.
        versions: name and number of the versions that stay.
        flow_runs: Prefect's ids of the flow runs of the runs that stay.
    """

    items: list[Item]
    outputs: set[tuple[str, str]]
    versions: set[tuple[str, int]]
    flow_runs: set[str]


def search_records(
    limits: Limits, *, delete: bool, experiments: set[str] | None = None, models: set[str] | None = None
) -> Records:
    """Look for runs and versions that may go.

    Args:
        limits: what is kept in any case.
        delete: whether they may be deleted at all; if not, no items are returned.
        experiments: names of the experiments whose runs may go; None is all of them.
        models: names of the registered models whose versions may go; None is all of them.
    """
    versions, runs = purge.list_versions(), purge.list_runs()
    old_versions = _choose_versions(versions, limits)
    kept_versions = [version for version in versions if version not in old_versions]
    old_runs = _choose_runs(runs, limits, {version.run_id for version in kept_versions})
    kept_runs = [run for run in runs if run not in old_runs]
    outputs = {output for run in kept_runs for output in purge.list_outputs(run)}
    outputs |= {("evaluate_classifier", version.evaluation) for version in kept_versions if version.evaluation}
    named_versions = [one for one in versions if models is None or one.name in models]
    named_runs = [run for run in runs if experiments is None or run.group[0] in experiments]
    items = [*_list_versions(named_versions, old_versions), *_list_runs(named_runs, old_runs), *_list_orphans()]
    return Records(
        items if delete else [],
        outputs,
        {(version.name, version.number) for version in kept_versions},
        {run.tags[FLOW_RUN_TAG] for run in kept_runs if FLOW_RUN_TAG in run.tags},
    )


def _choose_versions(versions: list[purge.VersionEntry], limits: Limits) -> list[purge.VersionEntry]:
    rest = not_newest(versions, limits.keep, group=lambda one: one.name, when=lambda one: one.number)
    return [version for version in rest if not version.needed and limits.is_old(version.moment)]


def _choose_runs(runs: list[purge.RunEntry], limits: Limits, needed: set[str]) -> list[purge.RunEntry]:
    """Return the runs that may go; one whose deletion has begun goes in any case."""
    rest = not_newest(
        [run for run in runs if not run.begun], limits.keep, group=lambda one: one.group, when=lambda one: one.moment
    )
    old = [run for run in rest if limits.is_old(run.moment) and purge.KEEP_TAG not in run.tags]
    begun = [run for run in runs if run.begun]
    return [run for run in [*old, *begun] if not run.live and run.run_id not in needed]


def _list_versions(versions: list[purge.VersionEntry], old: list[purge.VersionEntry]) -> Iterator[Item]:
    for version in versions:
        remove = partial(_purge_version, version.name, version.number) if version in old else None
        yield Item(VERSIONS, f"{version.name} version {version.number}", 0, remove)


def _list_runs(runs: list[purge.RunEntry], old: list[purge.RunEntry]) -> Iterator[Item]:
    folders = purge.list_folders(runs)
    for run in runs:
        size = sum(measure(folder) for folder in folders[run.run_id])
        yield Item(RUNS, f"{run.name} ({run.run_id})", size, partial(_purge_run, run.run_id) if run in old else None)


def _list_orphans() -> Iterator[Item]:
    for folder in strays.find_orphans():
        yield Item(ORPHANS, str(folder), measure(folder), partial(remove_orphan, folder))


def _purge_version(name: str, number: int) -> bool:
    with registry_lock():
        return purge.purge_version(name, number)


def _purge_run(run_id: str) -> bool:
    with registry_lock():
        return purge.purge_run(run_id)


def remove_orphan(folder: Path) -> bool:
    """Remove a directory of MLflow's files, if still no record names it; return whether it was removed."""
    if folder not in strays.find_orphans():
        return False
    remove_whole(folder)
    return True
