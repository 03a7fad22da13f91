import errno
import hashlib
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_config.errors import StoreError
from pipeline_config.settings import TokenizationConfig
from tasks.store.artifacts import ArtifactRef, find_output, output_directory
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tests.tasks.store.pair import FIRST, KEY, PAIR_DIGEST, SECOND, STAGE, WORDS, digest_of, write_pair

COMMIT_AND_DIE = """
import os, signal, sys
from pathlib import Path
from tasks.store import commit

stage, key, moment = sys.argv[1:]

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def write(output):
    output.write_json("first.json", {"a": 1})
    if moment == "while writing":
        with output.path("second.json").open("w") as file:
            file.write('{"b"')
            file.flush()
            die()
    output.write_json("second.json", {"b": 2})

if moment == "before the manifest":
    commit._write_manifest = die
if moment == "before the rename":
    commit._publish = die
if moment == "after a rename":
    rename = Path.rename
    Path.rename = lambda path, target: (rename(path, target), die())
commit.commit_output(stage, key, write)
"""

COMMIT_TOGETHER = """
import logging, sys, time
from pathlib import Path
from tasks.store.commit import (commit_output)

stage, key, folder = sys.argv[1], sys.argv[2], Path(sys.argv[3])

class Waiting(logging.Handler):
    def emit(self, record):
        (folder / "waiting").write_text(record.getMessage())

logging.getLogger("tasks.store.locks").addHandler(Waiting())
logging.getLogger("tasks.store.locks").setLevel(logging.INFO)

def write(output):
    with (folder / "computed").open("a") as file:
        file.write("once ")
    while not (folder / "waiting").exists():
        time.sleep(0.01)
    output.write_json("first.json", {"a": 1})

reference, computed = commit_output(stage, key, write)
print(reference.digest, computed)
"""


def leftovers(stage: str = STAGE) -> list[str]:
    """What lies beside the output of a stage, its lock aside."""
    return sorted(path.name for path in output_directory(stage, KEY).parent.iterdir() if path.name != f".{KEY}.lock")


def run_python(script: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", script, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def commit_and_die(moment: str) -> None:
    """Commit the pair in a process that kills itself at a moment."""
    with run_python(COMMIT_AND_DIE, STAGE, KEY, moment) as process:
        process.wait()
    assert process.returncode == -signal.SIGKILL


# --- commit and reuse ---


def test_committed_output_is_computed_once_and_found_again(artifacts):
    first, computed = commit_output(STAGE, KEY, write_pair)
    second, computed_again = commit_output(STAGE, KEY, lambda _: pytest.fail("computed again"))
    assert (computed, computed_again) == (True, False)
    assert second == first == find_output(STAGE, KEY)
    assert first.directory == artifacts / "store" / STAGE / KEY
    assert first.path("first.json").read_bytes() == FIRST
    assert first.read_json("second.json") == {"b": 2}


def test_absent_output_is_not_found_and_nothing_is_created(artifacts):
    assert find_output(STAGE, KEY) is None
    assert not artifacts.exists()


def test_readers_do_not_find_an_output_until_it_is_complete(artifacts):
    seen = []

    def write(output):
        write_pair(output)
        seen.append(find_output(STAGE, KEY))

    commit_output(STAGE, KEY, write)
    assert seen == [None]


def test_digest_covers_names_and_contents(stored):
    assert stored.digest == PAIR_DIGEST


def test_digest_does_not_depend_on_path_time_order_of_writing_or_facts(stored, tmp_path, monkeypatch):
    def write_backwards(output):
        output.write_json("second.json", {"b": 2})
        output.write_json("first.json", {"a": 1})
        os.utime(output.path("first.json"), (0, 0))
        output.facts = {"words": 3}

    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(tmp_path / "elsewhere"))
    elsewhere, _ = commit_output("another_stage", "another_key", write_backwards)
    assert elsewhere.directory != stored.directory
    assert elsewhere.digest == stored.digest


@pytest.mark.parametrize(
    ("name", "content"), [("renamed.json", {"b": 2}), ("second.json", {"b": 3})], ids=["name", "content"]
)
def test_digest_changes_with_a_file(stored, name, content):
    def write(output):
        output.write_json("first.json", {"a": 1})
        output.write_json(name, content)

    assert commit_output(STAGE, "another_key", write)[0].digest != stored.digest


def test_facts_come_back_with_the_seconds_it_took(artifacts, monkeypatch):
    ticks = iter([100.0, 102.5])
    monkeypatch.setattr("tasks.store.commit.time.perf_counter", lambda: next(ticks))

    def write(output):
        output.facts = {"words": 3, "coverage": 0.5}

    assert commit_output(STAGE, KEY, write)[0].facts == {"words": 3, "coverage": 0.5, "seconds": 2.5}
    assert find_output(STAGE, KEY).facts == {"words": 3, "coverage": 0.5, "seconds": 2.5}


def test_manifest_describes_files_inputs_and_tools(stored):
    def write(output):
        output.write_table("words.parquet", pa.table({"word": ["a", "b"], "count": [1, None]}), WORDS)
        output.write_json("first.json", {"a": 1})

    inputs = {"documents": stored, "config": TokenizationConfig(tokenizer="whitespace"), "seed": 7}
    output, _ = commit_output("tokenize", KEY, write, inputs=inputs)
    manifest = output.read_json("manifest.json")
    table = output.path("words.parquet").read_bytes()
    assert manifest["files"] == {
        "first.json": {"size": 12, "sha256": hashlib.sha256(FIRST).hexdigest()},
        "words.parquet": {"size": len(table), "sha256": hashlib.sha256(table).hexdigest(), "rows": 2},
    }
    assert (manifest["stage"], manifest["key"], manifest["digest"]) == ("tokenize", KEY, output.digest)
    assert manifest["inputs"] == {
        "documents": {"digest": PAIR_DIGEST},
        "config": {"tokenizer": "whitespace", "shard_documents": 10_000},
        "seed": 7,
    }
    assert manifest["tools"]["pyarrow"] == pa.__version__


def test_reference_survives_a_trip_through_json(stored):
    assert ArtifactRef.model_validate_json(stored.model_dump_json()) == stored


def test_reference_holds_no_path_so_the_artifacts_can_be_moved(stored, artifacts, tmp_path, monkeypatch):
    artifacts.rename(tmp_path / "moved")
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(tmp_path / "moved"))
    assert find_output(STAGE, KEY) == stored
    assert ArtifactRef(**stored.model_dump()).path("first.json").read_bytes() == FIRST


# --- what is on the disk when the output gets its name ---


@pytest.fixture
def disk_calls(monkeypatch):
    """The calls of `os.fsync` and `os.rename` in order: `("sync", name, size)` and `("rename", old, new)`."""
    calls, fsync, rename = [], os.fsync, os.rename

    def record_sync(descriptor):
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        calls.append(("sync", path.name, 0 if path.is_dir() else path.stat().st_size))
        fsync(descriptor)

    def record_rename(old, new):
        calls.append(("rename", Path(old).name, Path(new).name))
        rename(old, new)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "rename", record_rename)
    return calls


def test_files_manifest_and_directories_are_synced_in_this_order(artifacts, disk_calls):
    reference, _ = commit_output(STAGE, KEY, write_pair)
    temporary = disk_calls[3][1]
    assert temporary.startswith(f".tmp-{KEY}-")
    assert disk_calls == [
        ("sync", "first.json", len(FIRST)),
        ("sync", "second.json", len(SECOND)),
        ("sync", "manifest.json", reference.path("manifest.json").stat().st_size),
        ("sync", temporary, 0),
        ("rename", temporary, KEY),
        ("sync", STAGE, 0),
    ]


def test_output_that_replaces_a_damaged_one_is_synced_before_the_damaged_one_is_moved(stored, disk_calls):
    stored.path("first.json").write_bytes(b"{")
    commit_output(STAGE, KEY, write_pair)
    temporary = disk_calls[3][1]
    assert [call[:2] for call in disk_calls[:4]] == [
        ("sync", "first.json"),
        ("sync", "second.json"),
        ("sync", "manifest.json"),
        ("sync", temporary),
    ]
    assert disk_calls[4:] == [("rename", KEY, f"{temporary}-damaged"), ("rename", temporary, KEY), ("sync", STAGE, 0)]


def test_error_of_a_sync_leaves_no_output(artifacts, monkeypatch):
    def fail(_descriptor):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="Input/output error"):
        commit_output(STAGE, KEY, write_pair)
    assert leftovers() == []


# --- failures and kills while writing ---


@pytest.mark.parametrize("error", [RuntimeError("no words"), KeyboardInterrupt()], ids=["error", "ctrl-c"])
def test_failed_write_leaves_nothing_and_the_next_one_works(artifacts, error):
    def fail(output):
        output.write_json("first.json", {"a": 1})
        raise error

    with pytest.raises(type(error)):
        commit_output(STAGE, KEY, fail)
    assert leftovers() == []
    reference, computed = commit_output(STAGE, KEY, write_pair)
    assert (reference.digest, computed) == (PAIR_DIGEST, True)


@pytest.mark.parametrize("moment", ["while writing", "before the manifest", "before the rename"])
def test_kill_before_the_output_is_in_place_leaves_none_and_the_next_commit_is_whole(artifacts, moment):
    commit_and_die(moment)
    assert [name.startswith(f".tmp-{KEY}-") for name in leftovers()] == [True]
    assert find_output(STAGE, KEY) is None
    reference, computed = commit_output(STAGE, KEY, write_pair)
    assert (reference.digest, computed) == (PAIR_DIGEST, True)
    assert leftovers() == [KEY]


def test_kill_right_after_the_output_is_in_place_leaves_all_of_it(artifacts):
    commit_and_die("after a rename")
    reference, computed = commit_output(STAGE, KEY, write_pair)
    assert (reference.digest, computed) == (PAIR_DIGEST, False)
    assert leftovers() == [KEY]


def test_kill_between_moving_a_damaged_output_away_and_replacing_it_is_repaired(stored):
    stored.path("first.json").write_bytes(b"{")
    commit_and_die("after a rename")
    assert find_output(STAGE, KEY) is None
    reference, computed = commit_output(STAGE, KEY, write_pair)
    assert (reference.digest, computed) == (PAIR_DIGEST, True)
    assert leftovers() == [KEY]


def write_with_scratch(output: StageOutput) -> None:
    """Write the pair at the second try; at the first, leave half of the work in the scratch directory and fail."""
    half_done = output.scratch / "half-done"
    if not half_done.exists():
        output.scratch.mkdir(parents=True)
        half_done.write_text("a")
        raise RuntimeError("at half-time")
    write_pair(output)


def test_scratch_survives_a_failure_and_is_removed_when_the_output_is_committed(artifacts):
    with pytest.raises(RuntimeError, match="at half-time"):
        commit_output(STAGE, KEY, write_with_scratch)
    assert [path.name for path in (artifacts / "checkpoints" / STAGE / KEY).iterdir()] == ["half-done"]
    reference, _ = commit_output(STAGE, KEY, write_with_scratch)
    assert reference.digest == PAIR_DIGEST
    assert not (artifacts / "checkpoints" / STAGE / KEY).exists()


def test_scratch_left_by_a_kill_after_the_commit_is_removed_when_the_output_is_found(stored, artifacts):
    scratch = artifacts / "checkpoints" / STAGE / KEY
    scratch.mkdir(parents=True)
    assert commit_output(STAGE, KEY, write_pair)[1] is False
    assert not scratch.exists()


def test_temporaries_of_a_dead_run_are_removed_but_those_of_other_keys_stay(artifacts):
    folder = output_directory(STAGE, KEY).parent
    for name in (f".tmp-{KEY}-dead", f".tmp-{KEY}-dead-damaged", ".tmp-otherkey-alive"):
        (folder / name).mkdir(parents=True)
        (folder / name / "first.json").write_bytes(FIRST)
    during = []
    commit_output(STAGE, KEY, lambda _: during.extend(leftovers()))
    assert [name for name in during if "dead" in name] == []  # their space is free for the new files
    assert leftovers() == [".tmp-otherkey-alive", KEY]


def test_damaged_output_is_removed_when_it_is_replaced(stored):
    stored.path("first.json").write_bytes(b"{")
    commit_output(STAGE, KEY, write_pair)
    assert leftovers() == [KEY]


def test_output_that_is_damaged_as_soon_as_it_is_written_is_refused(artifacts, monkeypatch):
    monkeypatch.setattr("tasks.store.commit._publish", lambda *_: None)
    with pytest.raises(StoreError, match=f"{KEY}: the output was damaged while it was being written$"):
        commit_output(STAGE, KEY, write_pair)


# --- several processes ---


def test_two_processes_that_commit_the_same_key_compute_it_once(artifacts, tmp_path):
    processes = [run_python(COMMIT_TOGETHER, STAGE, KEY, tmp_path) for _ in range(2)]
    printed = [process.communicate()[0].split() for process in processes]
    expected = digest_of({"first.json": FIRST})
    assert sorted(printed) == [[expected, "False"], [expected, "True"]]
    assert (tmp_path / "computed").read_text() == "once "
    assert (tmp_path / "waiting").read_text() == f"waiting for another run to finish {STAGE}"


# --- a store that cannot be written ---


@pytest.mark.parametrize("place", ["", "store", f"store/{STAGE}"])
def test_store_below_a_file_is_an_error_that_says_where(artifacts, place):
    path = artifacts / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    expected = (
        f"^{re.escape(str(artifacts / 'store' / STAGE / KEY))}: cannot be written: (Not a directory|File exists); "
        "set GLOVEFLOW_ARTIFACTS to a writable directory, nothing was lost$"
    )
    with pytest.raises(StoreError, match=expected):
        commit_output(STAGE, KEY, lambda _: pytest.fail("computed although the store cannot be written"))


def _fill_disk(output):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill_disk_by_json(output):
    output.path("first.json").symlink_to("/dev/full")
    output.write_json("first.json", {"a": 1})


def _fill_disk_by_table(output):
    output.path("words.parquet").symlink_to("/dev/full")
    output.write_table("words.parquet", pa.table({"word": ["a"], "count": [1]}), WORDS)


@pytest.mark.parametrize("write", [_fill_disk, _fill_disk_by_json, _fill_disk_by_table])
def test_full_disk_is_an_error_and_leaves_nothing(artifacts, write):
    expected = (
        rf"^{re.escape(str(artifacts))}/store/{STAGE}/\.tmp-{KEY}-\w+: cannot be written: .*"
        r"No space left on device \([\d,.]+ MiB are free\); free some space and run again, nothing was lost$"
    )
    with pytest.raises(StoreError, match=expected):
        commit_output(STAGE, KEY, write)
    assert leftovers() == []


def test_disk_that_is_full_when_the_manifest_is_written_is_an_error(artifacts, monkeypatch):
    monkeypatch.setattr("tasks.store.commit.sync", _fill_disk)
    with pytest.raises(StoreError, match=r"No space left on device \([\d,.]+ MiB are free\); free some space"):
        commit_output(STAGE, KEY, write_pair)
    assert leftovers() == []


def test_missing_input_of_a_stage_is_not_an_error_of_the_store(artifacts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.csv"):
        commit_output(STAGE, KEY, lambda _: (tmp_path / "corpus.csv").read_text())
