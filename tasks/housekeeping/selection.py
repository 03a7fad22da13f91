"""What may be deleted: limits, things that were found, and what protects them.

A thing goes if it is not one of the newest, older than the limit, and nothing that is kept needs it.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import NamedTuple, TypeVar

from tasks.store.locks import file_lock, is_held

T = TypeVar("T")
CLOCK_SECONDS = 60.0


class Limits(NamedTuple):
    """What is kept in any case.

    Attributes:
        keep: number of the newest runs of each experiment, versions of each model, and flow runs of each deployment.
        seconds: age up to which everything is kept.
        now: the time at which the search began, in seconds since 1970.
    """

    keep: int
    seconds: float
    now: float

    def is_old(self, moment: float) -> bool:
        """Return whether something that was used last at a moment is older than the limit."""
        return moment <= self.now - self.seconds


class Item(NamedTuple):
    """A thing that was found.

    Attributes:
        kind: for the table.
        name: for messages.
        size: bytes.
        remove: deletes it after another look, and returns whether it did; None for what is kept.
    """

    kind: str
    name: str
    size: int
    remove: Callable[[], bool] | None = None


def housekeeping_lock(root: Path) -> AbstractContextManager[None]:
    """Let one command at a time delete, back up or restore."""
    return file_lock(root / ".housekeeping.lock", waiting_for="another gc, backup or restore")


def begin(keep: int, seconds: float) -> Limits:
    """Return limits that count from now."""
    return Limits(keep, seconds, time.time())


def not_newest(items: Iterable[T], keep: int, *, group: Callable[[T], object], when: Callable[[T], float]) -> list[T]:
    """Return the items that are not among the newest of their group."""
    seen: dict[object, int] = {}
    rest = []
    for item in sorted(items, key=when, reverse=True):
        seen[group(item)] = seen.get(group(item), 0) + 1
        if seen[group(item)] > keep:
            rest.append(item)
    return rest


def oldest_live_start(root: Path) -> float | None:
    """Return when the oldest of the runs and commands began that run now on these artifacts, or None without any."""
    starts = [
        path.stat().st_mtime for path in (*root.glob("prefect/live/*.lock"), *root.glob("mlflow/live/*.lock"))
        if is_held(path)
    ]  # fmt: skip
    return min(starts, default=None)


def used_since(root: Path, limits: Limits) -> float:
    """Return the moment since which whatever is used belongs to a run that may still be going on.

    A minute earlier, because the clocks of processes, file systems and machines differ.
    """
    started = oldest_live_start(root)
    return (limits.now if started is None else min(started, limits.now)) - CLOCK_SECONDS


def measure(path: Path) -> int:
    """Return the bytes of a file, or of all files of a directory; what vanishes meanwhile counts nothing."""
    return sum(_sizes(path))


def _sizes(path: Path) -> Iterator[int]:
    for found in (path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())):
        try:
            status = found.lstat()
        except FileNotFoundError:
            continue
        if not found.is_dir():
            yield status.st_size
