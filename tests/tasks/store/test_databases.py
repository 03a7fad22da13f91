"""Databases are whole after a kill or an error at any moment of their set-up or migration."""

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline_config.errors import ServiceError, StoreError
from tasks.store import databases
from tasks.store.databases import connected, prepare_database

STEPS = 12
KILL = """
import os, signal, sys
from pathlib import Path
from tasks.store import databases
from tests.tasks.store.test_databases import migrate_to, prepare

path, call = Path(sys.argv[1]), int(sys.argv[2])
calls = 0

def count(frame, event, argument):
    global calls
    if event == "c_call" and getattr(argument, "__self__", None).__class__.__module__ == "sqlite3":
        calls += 1
        if calls == call:
            os.kill(os.getpid(), signal.SIGKILL)

import sqlite3
sys.setprofile(count)
prepare(path)
sys.setprofile(None)
print(calls)
"""


def migrate_to(last: int, *, path: Path, fail_at: int | None = None) -> None:
    """Migrate as Alembic does on SQLite: every step is committed by itself, and the revision comes last."""
    with connected(path) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if "alembic_version" in tables:
            done = int(database.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        else:
            done = 0
        for step in range(done + 1, last + 1):
            if step == fail_at:
                raise RuntimeError("no such column: x")
            database.execute(f"CREATE TABLE step_{step} (value TEXT)")
            database.execute(f"INSERT INTO step_{step} VALUES ('seed')")
        if "alembic_version" not in tables:
            database.execute("CREATE TABLE alembic_version (version_num TEXT)")
            database.execute("INSERT INTO alembic_version VALUES (?)", (str(last),))
        database.execute("UPDATE alembic_version SET version_num = ?", (str(last),))


def prepare(path: Path, *, fail_at: int | None = None) -> None:
    prepare_database(
        path,
        migrate=lambda new: migrate_to(STEPS, path=new, fail_at=fail_at),
        revision=str(STEPS),
        tables=[f"step_{step}" for step in range(1, STEPS + 1)],
    )


def rows(path: Path, table: str) -> list[str]:
    with connected(path) as database:
        return [value for (value,) in database.execute(f"SELECT * FROM {table}")]


def is_whole(path: Path) -> bool:
    with connected(path) as database:
        sound = database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    return sound and rows(path, "alembic_version") == [str(STEPS)] and rows(path, f"step_{STEPS}") == ["seed"]


@pytest.fixture
def older(tmp_path: Path) -> Path:
    """A database of an earlier version, with a record."""
    path = tmp_path / "older.db"
    migrate_to(4, path=path)
    with connected(path) as database:
        database.execute("INSERT INTO step_2 VALUES ('kept')")
    return path


@pytest.fixture
def half_made(tmp_path: Path) -> Path:
    """A database whose first set-up, in place, was killed before it had a revision."""
    path = tmp_path / "half.db"
    with connected(path) as database:
        database.execute("CREATE TABLE step_1 (value TEXT)")
        database.execute("INSERT INTO step_1 VALUES ('seed')")
    return path


def kill_at(call: int, path: Path) -> bool:
    """Prepare a database in a process that is killed at a call of SQLite; return whether it got so far."""
    process = subprocess.run(
        [sys.executable, "-c", KILL, str(path), str(call)], capture_output=True, text=True, check=False
    )
    assert process.returncode in (0, -signal.SIGKILL), process.stderr
    return process.returncode != 0


@pytest.mark.parametrize("call", [3, 10, 18, 27, 34])
class TestKills:
    def test_a_killed_set_up_leaves_no_database_or_a_whole_one(self, tmp_path: Path, call: int) -> None:
        path = tmp_path / "new.db"
        assert kill_at(call, path)
        assert not path.exists() or is_whole(path)
        prepare(path)
        assert is_whole(path)
        assert [file.name for file in tmp_path.iterdir()] == ["new.db"]

    def test_a_killed_migration_leaves_the_old_database_or_the_new_one(self, older: Path, call: int) -> None:
        assert kill_at(call, older)
        assert rows(older, "step_2") == ["seed", "kept"]
        assert rows(older, "alembic_version") in (["4"], [str(STEPS)])
        prepare(older)
        assert is_whole(older)
        assert rows(older, "step_2") == ["seed", "kept"]


def test_what_a_kill_at_the_very_end_of_a_migration_left_is_removed(older: Path) -> None:
    prepare(older)
    for suffix in ("", "-wal", "-shm"):
        older.with_name(f".{older.name}.new{suffix}").write_bytes(b"left")
    prepare(older)
    assert [path.name for path in older.parent.iterdir() if path.name.startswith(f".{older.name}.new")] == []


def test_a_database_that_was_half_made_in_place_is_replaced(half_made: Path) -> None:
    with pytest.raises(sqlite3.OperationalError, match="table step_1 already exists"):
        migrate_to(STEPS, path=half_made)
    prepare(half_made)
    assert is_whole(half_made)
    assert [file.name for file in half_made.parent.iterdir()] == ["half.db"]


def test_a_database_that_holds_records_is_never_replaced(half_made: Path) -> None:
    with connected(half_made) as database:
        database.execute("INSERT INTO step_1 VALUES ('of a user')")
    with pytest.raises(StoreError, match=r"half\.db: cannot be migrated .*table step_1 already exists.* is as it was"):
        prepare(half_made)
    assert rows(half_made, "step_1") == ["seed", "of a user"]


@pytest.mark.parametrize(
    ("at", "garbage", "problem"),
    [
        (0, b"S0Lite", "file is not a database"),
        (8192, bytes(4096), "database disk image is malformed|Page 3"),  # that of a table
        (100, b"\x0f", "database disk image is malformed"),
    ],
    ids=["header", "a table", "schema"],
)
def test_a_damaged_database_is_refused_by_name_and_left_as_it_is(
    tmp_path: Path, at: int, garbage: bytes, problem: str
) -> None:
    path = tmp_path / "broken.db"
    prepare(path)
    content = path.read_bytes()
    damaged = content[:at] + garbage + content[at + len(garbage) :]
    path.write_bytes(damaged)
    with pytest.raises(ServiceError, match=rf"broken\.db: the database is damaged: .*({problem}).*Restore it"):
        prepare(path)
    assert path.read_bytes() == damaged
    assert [file.name for file in tmp_path.iterdir()] == ["broken.db"]


def test_a_database_that_ends_early_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.db"
    prepare(path)
    os.truncate(path, path.stat().st_size - 5000)
    with pytest.raises(ServiceError, match=r"short\.db: the database is damaged"):
        prepare(path)


def test_a_locked_database_is_not_called_damaged(older: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.01)
    with connected(older) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(ServiceError, match=r"another process has locked the database"):
            prepare(older)


def test_an_empty_file_is_set_up(tmp_path: Path) -> None:
    (tmp_path / "empty.db").touch()
    prepare(tmp_path / "empty.db")
    assert is_whole(tmp_path / "empty.db")


def test_a_migration_keeps_a_copy_of_the_database_before(older: Path) -> None:
    before = older.read_bytes()
    prepare(older)
    backup = older.with_name("older.db.backup")
    assert rows(backup, "alembic_version") == ["4"]
    assert rows(backup, "step_2") == ["seed", "kept"]
    prepare(older)
    older.write_bytes(before)
    prepare(older)  # the copy of the last migration is the one that stays
    assert rows(backup, "alembic_version") == ["4"]


def test_a_migration_that_breaks_changes_nothing_and_says_so(older: Path) -> None:
    before = older.read_bytes()
    with pytest.raises(
        StoreError, match=r"older\.db: cannot be migrated .*no such column: x.* The database is as it was"
    ):
        prepare_database(
            older,
            migrate=lambda new: migrate_to(STEPS, path=new, fail_at=8 if "kept" in rows_if_any(new) else None),
            revision=str(STEPS),
        )
    assert older.read_bytes() == before
    assert [file.name for file in older.parent.iterdir()] == ["older.db"]


def rows_if_any(path: Path) -> list[str]:
    try:
        return rows(path, "step_2")
    except sqlite3.OperationalError:
        return []


def test_a_connection_that_is_open_sees_the_migrated_database(older: Path) -> None:
    with connected(older) as database:
        database.execute("PRAGMA journal_mode = WAL")
        assert database.execute("SELECT count(*) FROM step_2").fetchone() == (2,)
        prepare(older)
        assert database.execute("SELECT value FROM step_12").fetchall() == [("seed",)]


def test_what_another_process_writes_meanwhile_is_not_lost(older: Path) -> None:
    def migrate(new: Path) -> None:
        migrate_to(STEPS, path=new)
        with connected(older) as other:
            other.execute("INSERT INTO step_2 VALUES ('late')")

    with pytest.raises(StoreError, match=r"another process, of an earlier version, wrote to the database"):
        prepare_database(older, migrate=migrate, revision=str(STEPS))
    assert rows(older, "step_2") == ["seed", "kept", "late"]


def test_only_the_owner_can_read_a_new_database_and_its_directory(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        prepare(tmp_path / "made" / "new.db")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "made").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "made" / "new.db").stat().st_mode) == 0o600
