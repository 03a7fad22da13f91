"""Set up and migrate SQLite databases, so that a kill or an error leaves the old database or the new one.

A new database is built beside its place, in `.<name>.new`, and renamed. A migration works on a copy; its result is
written back in one transaction of SQLite. Imports only the standard library. The caller holds a lock.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from pipeline_config.errors import ServiceError, StoreError
from tasks.store.disk_errors import store_errors
from tasks.store.private_files import make_directory, open_to_append

BUSY_SECONDS = 60.0
CHECKED_BYTES = 256 << 20  # a larger database is not searched for damage: that would take seconds


def prepare_database(
    path: Path, *, migrate: Callable[[Path], None], revision: str, tables: Collection[str] = ()
) -> None:
    """Bring a database to a revision. One that is at this revision is left alone.

    A database that cannot be migrated and holds no records, because its first set-up was killed, is replaced by a new
    one. Before a migration the database is copied to `<name>.backup`.

    Args:
        path: the SQLite file; it may be missing.
        migrate: sets up the database in an empty file, or migrates the one in it.
        revision: Alembic's revision that is wanted.
        tables: tables without which the database is not complete.

    Raises:
        StoreError: the migration failed, and the database is as it was; or the directory cannot be written.
        ServiceError: the file is not a database, is damaged or locked.
    """

    def make(database: Path) -> None:
        migrate(database)
        if not _is_complete(database, revision, tables):
            raise StoreError(f"{database}: is not at revision {revision} after it was set up")

    new = path.with_name(f".{path.name}.new")
    with store_errors(path):
        make_directory(path.parent)
        _remove(new)  # of a process that was killed
    if not path.exists():
        with _removing(new):
            _build(new, make)
            _rename(new, path)
    elif not _is_usable(path, revision, tables):
        with _removing(new), connected(path) as place:
            _migrate_copy(path, place, new, make)


def _migrate_copy(path: Path, place: sqlite3.Connection, new: Path, migrate: Callable[[Path], None]) -> None:
    """Migrate a copy of the database, and write it back into the place of the database."""
    before = _data_version(place)
    _copy(place, new)
    backup = path.with_name(f"{path.name}.backup")
    _rename(new, backup)
    try:
        with connected(backup) as source:
            _copy(source, new)
        migrate(new)
    except Exception as error:
        _remove(new)
        _build(new, migrate)
        if not _holds_nothing(place, new):
            backup.unlink()  # the database is what this was made from
            raise StoreError(
                f"{path}: cannot be migrated to the installed version: {error}. The database is as it was; "
                "install the version that last used it, or move it away to begin a new one"
            ) from error
        backup.unlink()
    if _data_version(place) != before:
        raise StoreError(
            f"{path}: another process, of an earlier version, wrote to the database while it was migrated. The "
            "database is as that process left it; end the process and run again"
        )
    with connected(new) as source:
        source.backup(place)  # in one transaction


def read_revision(path: Path) -> str:
    """Return Alembic's revision of a database, which has to be intact; empty if its set-up was never finished."""
    with connected(path) as database:
        if "alembic_version" not in _tables(database):
            return ""
        return ", ".join(sorted(str(found) for (found,) in database.execute("SELECT version_num FROM alembic_version")))


@contextlib.contextmanager
def connected(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database for the body; transactions are begun and ended by the body's own statements."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        yield connection
    finally:
        connection.close()


@contextlib.contextmanager
def _removing(path: Path) -> Iterator[None]:
    """Remove a temporary database after the body."""
    try:
        with store_errors(path):
            yield
    finally:
        _remove(path)


def _is_usable(path: Path, revision: str, tables: Collection[str]) -> bool:
    """Return whether a database is complete; raise `ServiceError` if SQLite cannot use it."""
    try:
        problem = _find_damage(path) if path.stat().st_size <= CHECKED_BYTES else None
        if problem is None:
            return _is_complete(path, revision, tables)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise ServiceError(
                f"{path}: another process has locked the database for {BUSY_SECONDS:.0f} s; end it and run again"
            ) from error
        problem = str(error)
    raise ServiceError(
        f"{path}: the database is damaged: {problem}. Restore it from a backup, or move it away, with the files beside "
        "it whose names begin with its name, to begin a new one; stage outputs are kept"
    )


def _find_damage(path: Path) -> str | None:
    with connected(path) as database:
        found = str(database.execute("PRAGMA quick_check(1)").fetchone()[0])
    return None if found == "ok" else " ".join(found.split())


def _is_complete(path: Path, revision: str, tables: Collection[str]) -> bool:
    with connected(path) as database:
        found = _tables(database)
        if "alembic_version" not in found or not found.issuperset(tables):
            return False
        return database.execute("SELECT version_num FROM alembic_version").fetchall() == [(revision,)]


def _holds_nothing(place: sqlite3.Connection, fresh: Path) -> bool:
    """Return whether no table has more rows than in a new database."""
    with connected(fresh) as database:
        known = _tables(database)
        return all(
            _count(place, table) <= (_count(database, table) if table in known else 0) for table in _tables(place)
        )


def _tables(database: sqlite3.Connection) -> set[str]:
    rows = database.execute(
        "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite!_%' ESCAPE '!'"
    )
    return {str(name) for (name,) in rows}


def _count(database: sqlite3.Connection, table: str) -> int:
    return int(database.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0])  # noqa: S608 (SQLite named the table)


def _data_version(place: sqlite3.Connection) -> int:
    """Return a number that changes when another connection has written to the database."""
    return int(place.execute("PRAGMA data_version").fetchone()[0])


def _build(new: Path, migrate: Callable[[Path], None]) -> None:
    open_to_append(new).close()  # SQLite gives its journal the mode of the database
    migrate(new)


def _copy(source: sqlite3.Connection, path: Path) -> None:
    open_to_append(path).close()
    with connected(path) as target:
        source.backup(target)


def _rename(path: Path, final: Path) -> None:
    """Rename a database that nobody has open, with a sync before and after."""
    with connected(path) as database:
        database.execute("PRAGMA journal_mode = DELETE")  # so that everything is in the one file
    for suffix in ("-journal", "-wal", "-shm"):  # of a database that is gone: SQLite would apply them to this one
        final.with_name(final.name + suffix).unlink(missing_ok=True)
    _sync(path)
    path.rename(final)
    _sync(final.parent)


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
