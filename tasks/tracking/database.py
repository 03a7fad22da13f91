"""MLflow's SQLite database: its set-up and migration, and the places of files in its records.

MLflow records absolute locations of files. When the artifacts directory was moved or copied, they are changed here to
the place where the directory is now, before a client is opened. The caller holds a lock.
"""

import contextlib
import json
import logging
import re
import sqlite3
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from mlflow.store.db import utils
from mlflow.store.db.base_sql_model import Base

from tasks.store.databases import connected, prepare_database

logger = logging.getLogger(__name__)
LOCATIONS = {  # the columns that hold locations of files
    "experiments": ("artifact_location",),
    "runs": ("artifact_uri",),
    "logged_models": ("artifact_location",),
    "model_versions": ("source", "storage_location"),
    "trace_tags": ("value",),
}
_OF_EXPERIMENT = re.compile(r"(file://.*/mlflow/files/)[0-9a-f]{8}")  # as `tasks.tracking.runs` creates them
_prepared: set[tuple[str, int, int]] = set()  # path, device, inode; for this process


def prepare_mlflow_database(path: Path, *, files: Path | None) -> None:
    """Make a database ready for a client, once per process.

    Args:
        path: the SQLite file; it may be missing.
        files: where the files of its records are. None for a database that the user has named: it is set up if it is
            missing, and otherwise left alone.

    Raises:
        StoreError: the database cannot be migrated or written.
        ServiceError: the file is not a database, is damaged or locked.
    """
    if path.exists() and (files is None or _identity(path) in _prepared):
        return
    prepare_database(path, migrate=_migrate, revision=wanted_revision(), tables=Base.metadata.tables.keys())
    if files is not None:
        _relocate(path, f"{files.as_uri()}/")
    _prepared.add(_identity(path))


def wanted_revision() -> str:
    """Return Alembic's revision of a database that the installed MLflow works with."""
    return str(utils._get_latest_schema_revision())  # type: ignore[no-untyped-call]


def _identity(path: Path) -> tuple[str, int, int]:
    status = path.stat()
    return str(path), status.st_dev, status.st_ino


def _migrate(path: Path) -> None:
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{path}")  # type: ignore[no-untyped-call]
    try:
        empty = utils._is_empty_database(engine)  # type: ignore[no-untyped-call]
        (utils._initialize_tables if empty else utils._upgrade_db)(engine)  # type: ignore[no-untyped-call]
    finally:
        engine.dispose()


def _relocate(path: Path, files: str) -> None:
    """Change the locations of a directory that was moved or copied to where it is now, in one transaction.

    Args:
        path: the SQLite file.
        files: address of the directory of all files, with a slash at its end.
    """
    with connected(path) as database:
        moved = [old for old in _recorded_directories(database) if old != files and not _is_same(old, files)]
        if not moved:
            return
        database.execute("BEGIN IMMEDIATE")
        for old in moved:
            for table, columns in LOCATIONS.items():
                for column in columns:
                    _replace_start(database, table, column, old, files)
            _replace_start(database, "datasets", "dataset_source", _start_of_source(old), _start_of_source(files))
        database.execute("COMMIT")
    logger.info("the artifacts directory was moved or copied: MLflow's records now name %s", files)


def list_foreign_places(path: Path, root: Path) -> list[str]:
    """Return the absolute places in the records of a database that are not in a directory, sorted.

    The default experiment counts only if a run is in it.

    Args:
        path: the SQLite file.
        root: the directory.
    """
    columns = [(table, column) for table, columns in LOCATIONS.items() for column in columns]
    found: set[str] = set()
    with connected(path) as database:
        for table, column in columns:
            unused = "experiment_id = 0 AND NOT EXISTS (SELECT 1 FROM runs WHERE experiment_id = 0)"
            condition = f"WHERE NOT ({unused})" if table == "experiments" else ""
            rows = database.execute(f"SELECT DISTINCT {column} FROM {table} {condition}")  # noqa: S608 (as above)
            found.update(str(place) for (place,) in rows if str(place).startswith(("file:", "/")))
        for (source,) in database.execute("SELECT dataset_source FROM datasets WHERE dataset_source_type = 'local'"):
            with contextlib.suppress(ValueError, TypeError, KeyError):
                found.add(str(json.loads(source)["uri"]))
    home = root.resolve()
    return sorted(place for place in found if not _local_path(place).resolve().is_relative_to(home))


def _replace_start(database: sqlite3.Connection, table: str, column: str, old: str, new: str) -> None:
    """Change how the values of a column begin that begin with `old`."""
    database.execute(
        f"UPDATE {table} SET {column} = ? || substr({column}, ?) "  # noqa: S608 (names of this module)
        f"WHERE substr({column}, 1, ?) = ?",
        (new, len(old) + 1, len(old), old),
    )


def _start_of_source(files: str) -> str:
    """Return how the source of a dataset in the store begins, as `tasks.tracking.runs` records it."""
    store = _local_path(files).parents[1] / "store"
    return json.dumps({"uri": f"{store}/"}).removesuffix('"}')


def _recorded_directories(database: sqlite3.Connection) -> list[str]:
    """Return the directories of files for which our experiments were recorded."""
    locations = [str(location) for (location,) in database.execute("SELECT artifact_location FROM experiments")]
    return sorted({match[1] for location in locations if (match := _OF_EXPERIMENT.fullmatch(location))})


def _is_same(old: str, files: str) -> bool:
    """Return whether two addresses lead to the same directory, through a symbolic link, say."""
    try:
        return _local_path(old).samefile(_local_path(files))
    except OSError:
        return False


def _local_path(address: str) -> Path:
    return Path(url2pathname(urlsplit(address).path))
