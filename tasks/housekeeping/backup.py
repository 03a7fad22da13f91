"""Write a backup of an artifacts directory while runs go on.

Databases are copied first, by SQLite's own online copy. Files that their records name exist by then and never change,
and nothing deletes meanwhile (`housekeeping_lock`). A stage output goes into the backup only if its files have the
digests of its manifest. Left out is what can be had again or must not leave the machine: the secret of the servers,
logs, downloads, checkpoints, unfinished scorings.
"""

import contextlib
import hashlib
import io
import json
import logging
import os
import tarfile
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline_config.errors import ConfigError, InputError, StoreError
from tasks.housekeeping.archive import BLOCK, FOLDERS, FORMAT, INDEX, Entry, Index, add_file, dump_index
from tasks.store.artifacts import MANIFEST, describe_damage
from tasks.store.commit import sync
from tasks.store.databases import connected
from tasks.store.disk_errors import store_errors

logger = logging.getLogger(__name__)
IN_MEMORY = 32 << 20


class Backup(NamedTuple):
    """What a backup holds: the number of files and outputs, and the bytes before and after compression."""

    files: int
    outputs: int
    size: int
    packed: int


def write_backup(root: Path, target: Path) -> Backup:
    """Write a backup that only its owner can read. The caller holds the lock of housekeeping.

    Args:
        root: the artifacts directory.
        target: the file, which must not exist. It gets its name when it is complete.

    Raises:
        ConfigError: the target exists, or is in a directory that is backed up.
        StoreError: it cannot be written.
    """
    if target.exists() or target.is_symlink():
        raise ConfigError(f"{target}: exists already; choose another name, or move it away")
    if any(target.resolve().is_relative_to((root / folder).resolve()) for folder in FOLDERS):
        raise ConfigError(f"{target}: is in a directory that is backed up; choose another place")
    if not target.parent.is_dir():
        raise ConfigError(f"{target.parent}: no such directory")
    part = target.with_name(f".{target.name}.part")
    try:
        with store_errors(target):
            part.unlink(missing_ok=True)
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                files = _write(root, file)
            sync(part)
            part.rename(target)
            sync(target.parent)
    finally:
        part.unlink(missing_ok=True)
    outputs = sum(name.startswith("store/") and name.endswith(f"/{MANIFEST}") for name in files)
    return Backup(len(files), outputs, sum(entry.size for entry in files.values()), target.stat().st_size)


def _write(root: Path, file: BinaryIO) -> dict[str, Entry]:
    files: dict[str, Entry] = {}
    with (
        tarfile.open(fileobj=file, mode="w:gz", compresslevel=1, format=tarfile.PAX_FORMAT) as archive,
        tempfile.TemporaryDirectory(dir=root, prefix=".backup-") as folder,
    ):
        for name in ("mlflow/mlflow.db", "prefect/prefect.db"):
            if (root / name).exists():
                _add(archive, files, name, _copy_database(root / name, Path(folder)))
        for name, path in _list_files(root):
            _add(archive, files, name, path)
        for directory in sorted(root.glob("store/*/*")):
            if directory.is_dir() and not directory.name.startswith("."):
                _add_output(archive, files, root, directory)
        created = datetime.now(UTC).isoformat(timespec="seconds")
        index = dump_index(Index(format=FORMAT, gloveflow=metadata.version("gloveflow"), created=created, files=files))
        add_file(archive, INDEX, io.BytesIO(index), len(index))
    return files


def _copy_database(path: Path, folder: Path) -> Path:
    copy = folder / path.name
    with connected(path) as source, connected(copy) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # so that everything is in the one file
    return copy


def _list_files(root: Path) -> Iterator[tuple[str, Path]]:
    for pattern in ("mlflow/files/**/*", "reports/*.html", "downloads/*.sha256"):
        for path in sorted(root.glob(pattern)):
            if path.is_symlink():
                logger.warning("%s is a link and not in the backup", path)
            elif path.is_file():
                yield path.relative_to(root).as_posix(), path


def _add_output(archive: tarfile.TarFile, files: dict[str, Entry], root: Path, directory: Path) -> None:
    """Add a stage output, unless it is damaged: then the next run computes it again."""
    problem = describe_damage(directory)
    if problem:
        logger.warning("%s; the output is not in the backup", problem)
        return
    expected = {
        name: entry["sha256"] for name, entry in json.loads((directory / MANIFEST).read_bytes())["files"].items()
    }
    for name in (*sorted(expected), MANIFEST):
        added = _add(archive, files, (directory / name).relative_to(root).as_posix(), directory / name)
        if added is None or expected.get(name, added.sha256) != added.sha256:
            raise StoreError(f"{directory / name} was changed while it was backed up; start the backup again")


def _add(archive: tarfile.TarFile, files: dict[str, Entry], name: str, path: Path) -> Entry | None:
    """Add a file as it is at one moment; None if it was removed meanwhile."""
    digest, size = hashlib.sha256(), 0
    with contextlib.ExitStack() as opened:
        try:
            source = opened.enter_context(path.open("rb"))
        except FileNotFoundError:
            return None
        # its size has to be known first, and it may still be written
        copy = opened.enter_context(tempfile.SpooledTemporaryFile(IN_MEMORY))
        while block := source.read(BLOCK):
            digest.update(block)
            size += len(block)
            copy.write(block)
        copy.seek(0)
        add_file(archive, name, copy, size)  # type: ignore[arg-type]
    files[name] = Entry(size=size, sha256=digest.hexdigest())
    return files[name]


def require_file(path: Path) -> None:
    """Raise an `InputError` unless there is a file."""
    if not path.is_file():
        raise InputError(f"{path}: no such file")
