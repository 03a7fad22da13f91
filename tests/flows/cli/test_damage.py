"""Each kind of damage in an artifacts directory: the doctor names it, says what it would do, and mends only that."""

import contextlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from flows.cli import damage, doctor
from flows.cli.findings import Finding
from tasks.scoring.work import Record, open_work
from tasks.store.artifacts import find_output
from tasks.store.commit import commit_output
from tasks.store.locks import lock_before_naming, try_lock
from tasks.store.output import StageOutput

GOOD, BAD = "a" * 32, "b" * 32


@pytest.fixture
def root(artifacts: Path) -> Path:
    """An artifacts directory with two outputs."""
    for key in (GOOD, BAD):
        commit_output("stage", key, write)
    return artifacts


def write(output: StageOutput) -> None:
    output.write_json("numbers.json", [1, 2, 3])


def find(root: Path) -> list[Finding]:
    checks = (
        damage.check_outputs, damage.check_leftovers, damage.check_scorings, damage.check_databases, damage.check_servers,
    )  # fmt: skip
    return [finding for check in checks for finding in check(root) if finding.mend or not finding.ok]


def snapshot(root: Path) -> dict[str, bytes]:
    """Return all files but locks."""
    files = (path for path in root.rglob("*") if path.is_file() and not path.name.endswith(".lock"))
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def make_old(path: Path) -> None:
    os.utime(path, (1, 1))


def change_content(root: Path) -> None:
    (root / "store" / "stage" / BAD / "numbers.json").write_text("[1,\n 2,\n 4\n]\n")


def shorten(root: Path) -> None:
    (root / "store" / "stage" / BAD / "numbers.json").write_text("[")


def lose_file(root: Path) -> None:
    (root / "store" / "stage" / BAD / "numbers.json").unlink()


def lose_manifest(root: Path) -> None:
    (root / "store" / "stage" / BAD / "manifest.json").unlink()


def swap_manifest(root: Path) -> None:
    shutil.copy(root / "store" / "stage" / GOOD / "manifest.json", root / "store" / "stage" / BAD / "manifest.json")


@pytest.mark.parametrize("harm", [change_content, shorten, lose_file, lose_manifest, swap_manifest])
def test_a_damaged_output_is_moved_aside_and_computed_again(root: Path, harm: Callable[[Path], None]) -> None:
    harm(root)
    damaged = snapshot(root / "store" / "stage" / BAD)
    (finding,) = find(root)
    assert not finding.ok
    assert BAD in finding.text
    assert finding.remedy.startswith(f"move the output to {root / 'moved-aside'}")
    (line,) = doctor.repair([finding])
    assert line.startswith(f"mend store: moved {root / 'store' / 'stage' / BAD} to {root / 'moved-aside'}")
    assert find(root) == []
    (aside,) = (root / "moved-aside").glob(f"*/stage/{BAD}")
    assert snapshot(aside) == damaged
    assert find_output("stage", GOOD)
    assert commit_output("stage", BAD, write)[1]


def test_an_output_that_is_good_again_or_in_use_is_left_alone(root: Path) -> None:
    before = snapshot(root)
    change_content(root)
    (finding,) = find(root)
    held = lock_before_naming(root / "store" / "stage" / f".{BAD}.lock")
    assert "in use by a run" in doctor.repair([finding])[0]
    assert find(root) == []
    os.close(held)
    (root / "store" / "stage" / BAD / "numbers.json").write_bytes(before[f"store/stage/{BAD}/numbers.json"])
    assert "is intact now" in doctor.repair([finding])[0]
    assert snapshot(root) == before


@pytest.mark.parametrize(
    "name",
    [
        f"store/stage/.tmp-{BAD}-0123abcd/half.json",
        f"store/stage/.tmp-{BAD}-0123abcd-damaged/half.json",
        f"store/stage/.{BAD}.lock.0123abcd.new",
        "checkpoints/stage/.tmp-key-0123abcd/half",
        "scoring/.tmp-key-0123abcd/half",
        "reports/.tmp-0123abcd",
        ".backup-0123/mlflow.db",
        ".restoring/store/stage/half",
        "mlflow/live/1.new",
        "prefect/live/1.new",
        "prefect/.auth-string-0a",
        "mlflow/.mlflow.db.new",
        "mlflow/.mlflow.db.new-journal",
        "prefect/.prefect.db.new-wal",
    ],
)
def test_what_a_killed_process_left_is_removed_and_nothing_else(root: Path, name: str) -> None:
    before, path = snapshot(root), root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("half")
    make_old(path)
    (finding,) = find(root)
    assert (finding.subject, finding.remedy) == ("leftover", "remove it")
    doctor.repair([finding])
    assert snapshot(root) == before
    assert find(root) == []


@pytest.mark.parametrize(
    ("name", "lock"),
    [
        (f"store/stage/.tmp-{BAD}-0123abcd", f"store/stage/.{BAD}.lock"),
        ("mlflow/.mlflow.db.new", "mlflow/.database.lock"),
        ("mlflow/live/1.new", "mlflow/live/1.new"),
    ],
)
def test_what_a_process_still_uses_is_left_alone(root: Path, name: str, lock: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name.startswith(".tmp"):
        path.mkdir()
    else:
        path.touch()
        make_old(path)
    (finding,) = find(root)
    with (root / lock).open("a") as file:
        assert try_lock(file.fileno(), root / lock)
        assert find(root) == []
        if lock != name:
            assert "left alone" in doctor.repair([finding])[0]
            assert path.exists()


def begin_scoring(output: str, *, rows: int) -> None:
    """Leave the work of a scoring that ended before its end."""
    table = pa.table({"text": ["a secret text"] * rows})
    with contextlib.suppress(KeyboardInterrupt), open_work(output, {}) as work:
        if rows:
            work.commit(0, table, table, table, Record(rows, 0, {}, {}, {}))
        raise KeyboardInterrupt


def test_an_abandoned_scoring_is_listed_with_what_can_be_done_and_stays(root: Path) -> None:
    begin_scoring("out/scored.csv", rows=1200)
    before, now = snapshot(root), time.strftime("%Y-%m-%d")
    (finding,) = damage.check_scorings(root)
    assert (finding.ok, finding.mend) == (True, None)
    assert finding.text.startswith(f"out/scored.csv was not finished, {now}")
    assert "1,200 rows are kept, 0." in finding.text
    (folder,) = (path for path in (root / "scoring").iterdir() if path.is_dir())
    assert f"the same `gloveflow score` goes on from them, and `rm -r {folder}` gives them up" in finding.text
    assert doctor.repair([finding]) == ["nothing to mend"]
    assert snapshot(root) == before


def test_a_scoring_that_runs_or_that_finished_nothing(root: Path) -> None:
    with open_work("scored.csv", {}):
        (finding,) = damage.check_scorings(root)
        assert (finding.ok, finding.text) == (True, "scored.csv is being written")
    assert list(damage.check_scorings(root)) == []
    begin_scoring("table t of postgresql://user:secret@host/db", rows=0)
    assert not any("secret" in path.read_text() for path in root.rglob("output.txt"))
    (finding,) = damage.check_scorings(root)
    assert (finding.subject, finding.remedy) == ("leftover", "remove it")
    doctor.repair([finding])
    assert list(damage.check_scorings(root)) == []


def test_a_server_whose_process_is_gone_is_forgotten_alone(root: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    entries = [
        {"name": "mlflow", "url": "http://127.0.0.1:1", "process": gone.pid},
        {"name": "prefect", "url": "http://127.0.0.1:2", "process": os.getppid()},
    ]
    (root / "servers.json").write_text(json.dumps(entries))
    (finding,) = find(root)
    assert finding.text == "names http://127.0.0.1:1, whose process is gone"
    doctor.repair([finding])
    assert json.loads((root / "servers.json").read_text()) == entries[1:]
    (root / "servers.json").write_text(json.dumps(entries[:1]))
    doctor.repair(find(root))
    assert not (root / "servers.json").exists()


def test_a_database_whose_set_up_was_interrupted_is_set_up(root: Path) -> None:
    path = root / "mlflow" / "mlflow.db"
    path.parent.mkdir()
    with sqlite3.connect(path) as database:
        database.execute("CREATE TABLE spans (id INTEGER)")
    database.close()
    (finding,) = find(root)
    assert "its first set-up was interrupted" in finding.text
    assert doctor.repair([finding]) == [f"mend mlflow db: {path} is set up"]
    assert find(root) == []
    assert damage.examine_database(path) == ("ok", False)


def test_a_damaged_database_is_named_and_never_touched(root: Path) -> None:
    path = root / "mlflow" / "mlflow.db"
    path.parent.mkdir()
    path.write_bytes(b"SQLite format 3\x00" + b"junk" * 500)
    path.with_name("mlflow.db.backup").touch()
    before = snapshot(root)
    (finding,) = find(root)
    assert (finding.ok, finding.mend) == (False, None)
    assert f"put {path}.backup, from before the last migration, in its place" in finding.text
    assert doctor.repair([finding]) == ["nothing to mend"]
    assert snapshot(root) == before


def test_an_error_while_mending_does_not_keep_the_rest_from_being_mended(root: Path) -> None:
    def fail() -> str:
        raise OSError(28, "No space left on device")

    findings = [Finding(False, "x", "bad", "mend it", fail), Finding(False, "y", "bad", "mend it", lambda: "done")]
    assert doctor.repair(findings) == [
        "mend x: could not be mended: [Errno 28] No space left on device",
        "mend y: done",
    ]


def test_a_restore_whose_files_are_complete_is_told_and_left_to_its_command(root: Path) -> None:
    (root / ".restoring").mkdir()
    (root / ".restoring" / "complete").write_text("checksum")
    (finding,) = find(root)
    assert "the same `gloveflow restore` ends it" in finding.text
    assert finding.mend is None


def test_a_database_of_another_revision_is_told_with_what_a_migration_would_do(tmp_path: Path) -> None:
    path, migrated = tmp_path / "some.db", []
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE alembic_version (version_num)")
        database.execute("INSERT INTO alembic_version VALUES ('old')")
    assert list(damage.check_revision("some db", path, "old", lambda _: "")) == []
    (finding,) = damage.check_revision("some db", path, "new", lambda place: str(migrated.append(place)))
    assert "needs a migration from revision old to new" in finding.text
    assert "stays as some.db.backup" in finding.remedy
    doctor.repair([finding])
    assert migrated == [path]


def test_the_doctor_tells_what_the_parts_take(root: Path) -> None:
    (root / "mlflow").mkdir()
    (root / "mlflow" / "some").write_bytes(bytes(3 << 20))
    (finding,) = damage.check_space(root)
    assert finding.ok
    assert finding.text == "mlflow 3.0 MB; `gloveflow gc --dry-run` shows what may go"
