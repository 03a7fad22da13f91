"""Files of an artifacts directory that may go: outputs, checkpoints, downloads, scorings, leftovers, reports, logs.

Everything is deleted under the lock that its users hold, after a look at when that lock was last taken: what a run that
is going on has used stays.
"""

import contextlib
import json
import re
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from tasks.housekeeping.removal import remove_whole
from tasks.housekeeping.selection import Item, Limits, measure, used_since
from tasks.scoring.work import list_unfinished
from tasks.store.locks import last_use, locked_at_once

OUTPUTS, CHECKPOINTS, DOWNLOADS = "stage outputs", "checkpoints", "downloads"
SCORINGS, LEFTOVERS, ASIDE = "unfinished scorings", "leftovers", "moved aside"
REPORTS, LOGS, LEASES = "reports", "rotated logs", "leases of ended runs"
LEASE_SECONDS = 86400.0  # a lease lasts for minutes
_OF_ADDRESS = re.compile(r"[0-9a-f]{8}-")  # how the name of a download begins


class Thing(NamedTuple):
    """A file or directory with what its users lock.

    Attributes:
        place: where it is.
        locks: the lock files that its users hold.
        clocks: those of them whose time says when it was used last.
    """

    place: Path
    locks: tuple[Path, ...]
    clocks: tuple[Path, ...]

    def last_use(self) -> float:
        """Return when it was last written, or a lock of it taken."""
        inside = self.place.glob("*") if self.place.is_dir() else ()
        written = [float(path.stat().st_mtime) for path in (self.place, *inside)]
        return max([*written, *map(last_use, self.clocks)])


def find_outputs(root: Path, limits: Limits, needed: Collection[tuple[str, str]]) -> Iterator[Item]:
    """Find stage outputs.

    Args:
        root: the artifacts directory.
        limits: what is kept in any case.
        needed: stage and key of the outputs that kept runs and versions need.
    """
    for directory in sorted(root.glob("store/*/*")):
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        thing = _locked_by(directory, directory.with_name(f".{directory.name}.lock"))
        kept = (directory.parent.name, directory.name) in needed or not limits.is_old(thing.last_use())
        remove = None if kept else partial(_remove_unused, root, limits, thing, with_lock=True)
        yield Item(OUTPUTS, str(directory), measure(directory), remove)


def find_files(root: Path, limits: Limits) -> Iterator[Item]:
    """Find everything else that lies in files of its own."""
    things = [
        *((CHECKPOINTS, _locked_by(place, _key_lock(root, place))) for place in _named(root, "checkpoints/*/*")),
        *((DOWNLOADS, _find_download(place)) for place in _named(root, "downloads/*") if place.suffix != ".sha256"),
        *((SCORINGS, _locked_by(found.folder, found.lock)) for found in list_unfinished(root)),
    ]
    for kind, thing in things:
        remove = partial(_remove_unused, root, limits, thing) if limits.is_old(thing.last_use()) else None
        yield Item(kind, str(thing.place), measure(thing.place), remove)
    for place in sorted(root.glob("store/*/.tmp-*")):
        lock = place.with_name(f".{place.name.split('-')[1]}.lock")
        yield Item(LEFTOVERS, str(place), measure(place), partial(_remove_locked, place, (lock,)))
    for place in sorted((*root.glob("checkpoints/*/.tmp-*"), *root.glob("scoring/.tmp-*"))):
        yield Item(LEFTOVERS, str(place), measure(place), partial(_remove_locked, place, ()))
    for kind, pattern in ((ASIDE, "moved-aside/*"), (LOGS, "logs/*.log.[0-9]")):
        for place in sorted(root.glob(pattern)):
            yield _by_age(kind, limits, place)
    for place in _named(root, "prefect/concurrency_leases/*-*.json"):
        if _holds_nothing(place):
            yield _by_age(LEASES, limits._replace(seconds=max(limits.seconds, LEASE_SECONDS)), place)


def find_reports(root: Path, limits: Limits, versions: Collection[tuple[str, int]]) -> Iterator[Item]:
    """Find the reports in `<artifacts>/reports`; those of versions that are kept stay.

    Args:
        root: the artifacts directory.
        limits: what is kept in any case.
        versions: name and number of the versions that stay registered.
    """
    kept = tuple(f"{name}-{number}{end}" for name, number in versions for end in ".-")
    for place in sorted(root.glob("reports/*.html")):
        if place.name.startswith(kept):
            yield Item(REPORTS, str(place), measure(place))
        else:
            yield _by_age(REPORTS, limits, place)


def _holds_nothing(lease: Path) -> bool:
    """Return whether a lease is of no slot: Prefect makes them and forgets them, unless a whole server is up."""
    try:
        return bool(json.loads(lease.read_bytes())["resource_ids"] == [])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _named(root: Path, pattern: str) -> list[Path]:
    return sorted(path for path in root.glob(pattern) if not path.name.startswith("."))


def _key_lock(root: Path, checkpoint: Path) -> Path:
    return root / "store" / checkpoint.parent.name / f".{checkpoint.name}.lock"


def _locked_by(place: Path, lock: Path) -> Thing:
    return Thing(place, (lock,), (lock,))


def _find_download(place: Path) -> Thing:
    """Return a download with its lock, or with those of all that came from the same address."""
    if place.name.startswith("query-"):  # its time is that of the last query with this answer
        return Thing(place, (place.with_name(".query.lock"),), ())
    own = place.with_name(f".{place.name.removesuffix('.json').removesuffix('.part')}.lock")
    start = _OF_ADDRESS.match(place.name)
    locks = (own,) if own.exists() or not start else tuple(sorted(place.parent.glob(f".{start[0]}*.lock")))
    return Thing(place, locks, locks)


def _by_age(kind: str, limits: Limits, place: Path) -> Item:
    old = limits.is_old(place.stat().st_mtime)
    return Item(kind, str(place), measure(place), partial(_remove_locked, place, ()) if old else None)


def _remove_unused(root: Path, limits: Limits, thing: Thing, *, with_lock: bool = False) -> bool:
    """Remove a thing unless a process holds it, or a run that is going on may have used it.

    Args:
        root: the artifacts directory.
        limits: since when it counts as used again.
        thing: what to remove.
        with_lock: whether its lock file goes, too.
    """
    with contextlib.ExitStack() as held:
        if not thing.place.exists() or not all(held.enter_context(locked_at_once(lock)) for lock in thing.locks):
            return False
        if thing.last_use() >= used_since(root, limits):
            return False
        remove_whole(thing.place)
        if with_lock:
            for lock in thing.locks:
                lock.unlink(missing_ok=True)
    return True


def _remove_locked(place: Path, locks: tuple[Path, ...]) -> bool:
    with contextlib.ExitStack() as held:
        if not place.exists() or not all(held.enter_context(locked_at_once(lock)) for lock in locks):
            return False
        remove_whole(place)
    return True
