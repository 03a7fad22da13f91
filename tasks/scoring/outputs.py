"""Where a scoring writes: a file, a directory of parts, on this machine or a file system of fsspec, or a table.

Everything is written under another name first. The side files come before the output, so an output that is there has
all that belongs to it.
"""

import contextlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pipeline_config.errors import ConfigError, GloveflowError, InputError, ServiceError, StoreError
from pipeline_config.references import fill_references
from tasks.reading.database import is_database
from tasks.reading.sources import CODE_PROTOCOLS
from tasks.store.artifacts import file_digest, tree_digest
from tasks.store.commit import sync

Kind = Literal["parquet", "csv", "jsonl", "directory", "table"]
_SUFFIXES: dict[str, Kind] = {".parquet": "parquet", ".csv": "csv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
_PART = re.compile(r"part-\d{5,}\.parquet")


class Output(NamedTuple):
    """Where a scoring writes.

    Attributes:
        kind: the form.
        place: a local path, a URL, or the URL of a database; `${NAME}` in it stands for an environment variable.
        table: the name of the table.
    """

    kind: Kind
    place: str
    table: str | None = None

    @property
    def is_local(self) -> bool:
        """Whether it is on a file system of this machine."""
        return "://" not in self.place

    @property
    def shown(self) -> str:
        """What messages call it."""
        return f"table {self.table} of {self.place}" if self.kind == "table" else self.place

    def beside(self, what: str, suffix: str) -> str:
        """Return the place of a file beside it, such as `scored-rejected.csv`."""
        folder, slash, name = self.place.rstrip("/").rpartition("/")
        stem = name if self.kind == "directory" else Path(name).stem
        return f"{folder}{slash}{stem}-{what}{suffix}"


def parse_output(name: str, table: str | None = None) -> Output:
    """Return where to write.

    Raises:
        ConfigError: a table is named for something else than a database, or the other way round.
        InputError: the name says no form.
    """
    if is_database(name):
        if not table:
            raise ConfigError("--table: expected the name of the table to write, since --output is a database")
        return Output("table", name, table)
    if table:
        raise ConfigError(f"--table: expected a database as --output, got {name}")
    if named := CODE_PROTOCOLS.intersection(re.split(r"://|::", name)):
        raise InputError(f"{name}: the protocol {min(named)} is refused, because its addresses can name code")
    suffix = Path(name.rstrip("/")).suffix.lower()
    if name.endswith("/") or not suffix or ("://" not in name and suffix not in _SUFFIXES and Path(name).is_dir()):
        return Output("directory", name.rstrip("/"))
    if suffix not in _SUFFIXES:
        raise InputError(
            f"{name}: expected a name that ends in .parquet, .csv or .jsonl, a directory (a name that ends in /), or "
            "the URL of a database"
        )
    return Output(_SUFFIXES[suffix], name)


def check_output(output: Output) -> None:
    """Find out whether files can be written there; nothing is left of it.

    Raises:
        StoreError: they cannot.
        ServiceError: a remote file system cannot be written.
    """
    if output.kind == "table":
        return
    if not output.is_local:
        with _remote(output.place) as (system, remote):
            probe = f"{remote.rpartition('/')[0]}/.gloveflow-{uuid.uuid4().hex[:8]}"
            system.pipe_file(probe, b"")
            system.rm_file(probe)
            if output.kind == "directory" and system.isdir(remote):
                _check_names(output.place, [name.rpartition("/")[2] for name in system.ls(remote, detail=False)])
        return
    path = Path(output.place)
    if output.kind == "directory":
        _check_directory(path)
    elif path.is_dir():
        raise StoreError(f"{path}: cannot be written: it is a directory")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with write_errors(path):
        temporary.touch()
        temporary.unlink()


def publish_files(output: Output, folder: Path, files: dict[str, Callable[[Path], None] | None]) -> dict[str, str]:
    """Write files, give them their names, in order, and return the SHA-256 of each by its place.

    Args:
        output: where they belong.
        folder: of the artifacts, for files that are to be copied to a remote file system.
        files: the function that writes each file or directory, by its place; with None there, a file of an earlier
            scoring is removed.

    Raises:
        StoreError: they cannot be written.
        ServiceError: a remote file system cannot be written.
    """
    staged: dict[str, Path | None] = {}
    digests: dict[str, str] = {}
    for number, (place, write) in enumerate(files.items()):
        path = Path(place)
        new = path.with_name(f".{path.name}.tmp") if output.is_local else folder / f"new-{number}"
        staged[place] = new if write else None
        if write:
            with write_errors(new if output.is_local else folder):
                _remove(new)
                write(new)
                digests[place] = _digest(new)
    for place, staged_path in staged.items():
        if output.is_local:
            with write_errors(Path(place)):
                _rename(staged_path, Path(place))
        else:
            _upload(staged_path, place)
    return digests


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise StoreError in place of an error of the system."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def _check_directory(path: Path) -> None:
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path}: cannot be written as a directory: it is a file")
    if path.is_dir():
        _check_names(path, [file.name for file in path.iterdir()])


def _check_names(place: str | Path, names: list[str]) -> None:
    if others := sorted(name for name in names if not _PART.fullmatch(name)):
        raise StoreError(
            f"{place}: expected a new directory, or one with parts of an earlier scoring, got one that holds "
            f"{others[0]}; name another one"
        )


def _rename(new: Path | None, path: Path) -> None:
    if new is None:
        path.unlink(missing_ok=True)
        return
    for file in new.iterdir() if new.is_dir() else [new]:
        sync(file)
    old = path.with_name(f".{path.name}.old")
    _remove(old)
    if path.is_dir():
        path.rename(old)
    new.replace(path)
    _remove(old)
    sync(path.parent)


def _digest(path: Path) -> str:
    return tree_digest({file.name: file for file in path.iterdir()}) if path.is_dir() else file_digest(path)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _upload(new: Path | None, place: str) -> None:
    with _remote(place) as (system, path):
        if new is None:
            if system.exists(path):
                system.rm_file(path)
            return
        temporary = f"{path}.new"
        if new.is_dir():
            if system.exists(path):
                system.rm(path, recursive=True)
            for file in sorted(new.iterdir()):
                system.put_file(str(file), f"{path}/{file.name}")
            return
        system.put_file(str(new), temporary)
        if system.exists(path):
            system.rm_file(path)
        system.mv(temporary, path)


@contextlib.contextmanager
def _remote(place: str) -> Iterator[tuple[Any, str]]:
    """Open the file system of a URL, and raise our errors in place of those of its library."""
    import fsspec  # here because it is rarely needed

    try:
        yield fsspec.core.url_to_fs(fill_references(place, "--output"))
    except GloveflowError:
        raise
    except (ImportError, ValueError, NotImplementedError) as error:
        raise InputError(f"--output: {place}: cannot be written: {error or type(error).__name__}") from error
    except Exception as error:  # each file system has its own errors, for example for missing credentials
        raise ServiceError(f"--output: {place}: cannot be written: {error or type(error).__name__}") from error
