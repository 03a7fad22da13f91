"""Databases give free pages back, and stay as they are if little is free or somebody writes."""

import sqlite3
from pathlib import Path

import pytest

from tasks.housekeeping import databases
from tasks.housekeeping.databases import shrink, shrink_databases
from tasks.store.databases import connected
from tasks.tracking import purge, runs
from tasks.tracking.server import open_client
from tests.tasks.housekeeping.nights import MODEL, collect, play_night


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(databases, "BUSY_SECONDS", 0.05)
    path = tmp_path / "some.db"
    with connected(path) as connection:
        connection.execute("CREATE TABLE texts (text)")
        connection.executemany("INSERT INTO texts VALUES (?)", [("x" * 4000,)] * 100)
    return path


def test_a_database_with_much_free_space_shrinks_and_keeps_its_rows(database: Path) -> None:
    before = database.stat().st_size
    assert shrink(database) == 0
    with connected(database) as connection:
        connection.execute("DELETE FROM texts WHERE rowid > 10")
    freed = shrink(database)
    assert freed == before - database.stat().st_size > before / 2
    with connected(database) as connection:
        assert connection.execute("SELECT count(*) FROM texts").fetchone() == (10,)


def test_a_database_that_is_written_stays_as_it_is(database: Path) -> None:
    with connected(database) as connection:
        connection.execute("DELETE FROM texts WHERE rowid > 10")
        connection.execute("BEGIN IMMEDIATE")
        assert shrink(database) == 0
        connection.execute("ROLLBACK")
    assert shrink(database) > 0


def test_what_is_no_database_or_missing_stays(tmp_path: Path) -> None:
    path = tmp_path / "other.db"
    assert shrink(path) == 0
    path.write_bytes(b"no database" * 1000)
    assert shrink(path) == 0
    with pytest.raises(sqlite3.DatabaseError), connected(path) as connection:
        connection.execute("SELECT 1 FROM sqlite_master")


def test_rows_about_runs_that_are_gone_go_and_others_stay(tracked: Path) -> None:
    play_night(1)
    night = play_night(2)
    for one in (1, 2):
        run = night.run_id if one == 2 else purge.list_runs()[-1].run_id
        runs.log_dataset(run, name=f"documents-{one}", digest=str(one), place="x", context="train", rows=1)
    collect(tracked)
    before = open_client().get_model_version(MODEL, night.version).tags
    assert count(tracked) == {"datasets": 2, "inputs": 2, "input_tags": 4, "model_version_tags": 2 * len(before)}
    shrink_databases(tracked)
    assert count(tracked) == {"datasets": 1, "inputs": 1, "input_tags": 2, "model_version_tags": len(before)}
    assert open_client().get_model_version(MODEL, night.version).tags == before
    (used,) = open_client().get_run(night.run_id).inputs.dataset_inputs
    assert used.dataset.name == "documents-2"


def count(root: Path) -> dict[str, int]:
    with connected(root / "mlflow" / "mlflow.db") as database:
        return {
            table: database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("datasets", "inputs", "input_tags", "model_version_tags")
        }
