"""Restore a backup into an empty artifacts directory.

Everything is checked before anything is written. The files are written to `<artifacts>/.restoring`, synced, marked as
complete, and then moved to their places: a kill before the mark begins anew, one after it goes on with the moves.
"""

import os
import shutil
import uuid
from pathlib import Path
from typing import NamedTuple

from pipeline_config.errors import InputError, StoreError
from tasks.housekeeping.archive import FOLDERS, INDEX, Index, Member, check_archive, copy_content, read_members
from tasks.housekeeping.backup import require_file
from tasks.store.commit import sync
from tasks.store.databases import connected
from tasks.store.disk_errors import store_errors
from tasks.store.private_files import make_directory

PLACE, MARK = ".restoring", "complete"
_OWN = {PLACE, ".housekeeping.lock"}
_OPEN_RUNS = {  # what the lock files of open runs are named by
    "mlflow": "SELECT value FROM tags JOIN runs USING (run_uuid) WHERE key = 'gloveflow.lock' AND status = 'RUNNING'",
    "prefect": "SELECT id FROM flow_run WHERE state_type IN ('PENDING', 'RUNNING', 'CANCELLING', 'PAUSED')",
}


class Restored(NamedTuple):
    """What was restored: the release that made the backup, when, the number of files and their bytes."""

    gloveflow: str
    created: str
    files: int
    size: int


def restore_backup(source: Path, root: Path) -> Restored:
    """Restore a backup. The caller holds the lock of housekeeping.

    Args:
        source: the backup.
        root: the artifacts directory, which has to be empty.

    Raises:
        InputError: the file is no backup or damaged, or the directory is not empty.
        StoreError: the files cannot be written, or the disk is too small.
    """
    require_file(source)
    begun = _read_mark(root)
    _require_empty(root, begun)
    index = check_archive(source)
    if begun not in ("", index.checksum):
        raise InputError(
            f"{root}: the restore of another backup was interrupted there; restore that one again, or empty the "
            "directory"
        )
    size = sum(entry.size for entry in index.files.values())
    place = root / PLACE
    with store_errors(root):
        if not begun:
            make_directory(root)
            shutil.rmtree(place, ignore_errors=True)
            _require_space(root, size)
            _extract(source, place, index)
            _mark_open_runs(place)
            _sync_tree(place)
            (place / MARK).write_text(index.checksum, "utf-8")
            sync(place / MARK)
            sync(place)
        _move(place, root)
    return Restored(index.gloveflow, index.created, len(index.files), size)


def _read_mark(root: Path) -> str:
    """Return the checksum of the backup whose files are complete and not all in their places; empty without one."""
    try:
        return (root / PLACE / MARK).read_text("utf-8")
    except FileNotFoundError:
        return ""


def _require_empty(root: Path, begun: str) -> None:
    found = sorted(path.name for path in root.iterdir() if path.name not in _OWN) if root.is_dir() else []
    if found and not (begun and set(found) <= set(FOLDERS)):
        shown = ", ".join(found[:5]) + (" and more" if len(found) > 5 else "")
        raise InputError(
            f"{root}: is not empty, it has {shown}; name an empty or new directory with --artifacts, or move this one "
            "away"
        )


def _require_space(root: Path, size: int) -> None:
    free = shutil.disk_usage(root).free
    if free < size * 1.05:
        raise StoreError(
            f"{root}: {free / 2**20:,.0f} MiB are free, and the backup needs {size * 1.05 / 2**20:,.0f} MiB"
        )


def _extract(source: Path, place: Path, index: Index) -> None:
    """Write the files, each of which is compared with the list again: the backup may have changed meanwhile."""
    make_directory(place)
    for member in read_members(source):
        if member.name != INDEX:
            _write(place, member, index)


def _write(place: Path, member: Member, index: Index) -> None:
    target = place / member.name
    make_directory(target.parent)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with os.fdopen(os.open(target, flags, 0o600), "wb") as file:
        digest = copy_content(member, file)
    entry = index.files.get(member.name)
    if entry is None or entry.sha256 != digest:
        raise InputError(f"{member.name} was changed while the backup was restored; restore it again")


def _mark_open_runs(place: Path) -> None:
    """Make lock files that nobody holds for runs that went on during the backup, so that the next run ends them."""
    for name, query in _OPEN_RUNS.items():
        database = place / name / f"{name}.db"
        if database.exists():
            with connected(database) as records:
                found = [uuid.UUID(str(value)) for (value,) in records.execute(query)]
            for identity in found:
                make_directory(place / name / "live")
                name_of_lock = identity.hex if name == "mlflow" else str(identity)
                (place / name / "live" / f"{name_of_lock}.lock").touch(0o600)


def _sync_tree(place: Path) -> None:
    for path in sorted(place.rglob("*"), reverse=True):
        sync(path)


def _move(place: Path, root: Path) -> None:
    for name in FOLDERS:
        if (place / name).exists():
            try:
                (place / name).rename(root / name)
            except OSError as error:
                raise StoreError(
                    f"{root / name}: another command has written there while the backup was restored: "
                    f"{error.strerror}; move it away and restore again"
                ) from error
    sync(root)
    shutil.rmtree(place)
