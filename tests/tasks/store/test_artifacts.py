import errno
import hashlib
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline_config.errors import StoreError
from pipeline_config.settings import EmbeddingsConfig, TokenizationConfig
from tasks.store.artifacts import (
    ArtifactRef,
    SourceRef,
    artifacts_root,
    file_digest,
    find_output,
    output_directory,
    stage_key,
    tree_digest,
)
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput

STAGE, KEY = "count_words", "0123456789abcdef"
FIRST, SECOND = b'{\n "a": 1\n}\n', b'{\n "b": 2\n}\n'  # what `write_pair` leaves
WORDS = pa.schema([pa.field("word", pa.string(), nullable=False), pa.field("count", pa.int64())])

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


def write_pair(output: StageOutput) -> None:
    output.write_json("first.json", {"a": 1})
    output.write_json("second.json", {"b": 2})


def digest_of(files: dict[str, bytes]) -> str:
    """The digest of an output by its definition: over names and SHA-256s, as canonical JSON."""
    pairs = ",".join(f'"{name}":"{hashlib.sha256(content).hexdigest()}"' for name, content in sorted(files.items()))
    return hashlib.sha256(b"{" + pairs.encode() + b"}").hexdigest()


PAIR_DIGEST = digest_of({"first.json": FIRST, "second.json": SECOND})


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


@pytest.fixture
def stored(artifacts) -> ArtifactRef:
    """The pair, committed."""
    return commit_output(STAGE, KEY, write_pair)[0]


@pytest.fixture
def warnings_told(caplog, monkeypatch):
    """Return a function that gives the warnings logged so far."""
    monkeypatch.setattr(logging.getLogger("tasks"), "propagate", True)
    caplog.set_level(logging.WARNING, logger="tasks.store.artifacts")
    return lambda: caplog.messages


# --- where the store is ---


@pytest.mark.parametrize("value", [None, ""], ids=["unset", "empty"])
def test_artifacts_are_in_the_working_directory_by_default(tmp_path, monkeypatch, value):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GLOVEFLOW_ARTIFACTS", raising=False)
    if value is not None:
        monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", value)
    assert artifacts_root() == tmp_path / "artifacts"


def test_relative_artifacts_directory_is_made_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", "elsewhere")
    assert output_directory("stage", "key") == tmp_path / "elsewhere" / "store" / "stage" / "key"


# --- commit and reuse ---


def test_committed_output_is_computed_once_and_found_again(artifacts):
    first, computed = commit_output(STAGE, KEY, write_pair)
    second, computed_again = commit_output(STAGE, KEY, lambda _: pytest.fail("computed again"))
    assert (computed, computed_again) == (True, False)
    assert second == first == find_output(STAGE, KEY)
    assert first.directory == artifacts / "store" / STAGE / KEY
    assert first.path("first.json").read_bytes() == FIRST
    assert first.read_json("second.json") == {"b": 2}


def test_absent_output_is_not_found_and_nothing_is_made(artifacts):
    assert find_output(STAGE, KEY) is None
    assert not artifacts.exists()


def test_output_is_not_there_for_readers_until_it_is_complete(artifacts):
    seen = []

    def write(output):
        write_pair(output)
        seen.append(find_output(STAGE, KEY))

    commit_output(STAGE, KEY, write)
    assert seen == [None]


def test_digest_covers_names_and_contents(stored):
    assert stored.digest == PAIR_DIGEST


def test_digest_depends_on_neither_path_time_order_of_writing_nor_facts(stored, tmp_path, monkeypatch):
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


def test_kill_between_moving_a_damaged_output_away_and_replacing_it_is_mended(stored):
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


def test_temporaries_of_a_dead_run_are_swept_but_those_of_other_keys_are_left_alone(artifacts):
    folder = output_directory(STAGE, KEY).parent
    for name in (f".tmp-{KEY}-dead", f".tmp-{KEY}-dead-damaged", ".tmp-otherkey-alive"):
        (folder / name).mkdir(parents=True)
        (folder / name / "first.json").write_bytes(FIRST)
    during = []
    commit_output(STAGE, KEY, lambda _: during.extend(leftovers()))
    assert [name for name in during if "dead" in name] == []  # their space is there for the new files
    assert leftovers() == [".tmp-otherkey-alive", KEY]


def test_damaged_output_is_removed_when_it_is_replaced(stored):
    stored.path("first.json").write_bytes(b"{")
    commit_output(STAGE, KEY, write_pair)
    assert leftovers() == [KEY]


def test_output_that_is_damaged_as_soon_as_it_is_written_is_refused(artifacts, monkeypatch):
    monkeypatch.setattr("tasks.store.commit._publish", lambda *_: None)
    with pytest.raises(StoreError, match=f"{KEY}: the output was damaged while it was being written$"):
        commit_output(STAGE, KEY, write_pair)


# --- damage found later ---


def _edit_manifest(**changes):
    def damage(directory):
        path = directory / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def _change_byte(directory):
    path = directory / "first.json"
    path.write_bytes(FIRST.replace(b"1", b"2"))
    os.utime(path, (1, 1))  # a file system's clock can be too coarse to tell the two apart


def _replace_directory(directory):
    shutil.rmtree(directory)
    directory.write_text("a file")


def _forget_sizes(directory):
    path = directory / "manifest.json"
    path.write_text(re.sub(r'"size": 12,', "", path.read_text()))


NO_MANIFEST = "{directory} has no readable manifest and will be rebuilt"
NOT_HERE = f"no output with digest {PAIR_DIGEST[:12]} is here"
DAMAGES = {
    "changed byte": (_change_byte, "{directory}/first.json is damaged: its SHA-256 is not the one in manifest.json"),
    "truncated": (
        lambda directory: (directory / "first.json").write_bytes(b'{\n "'),
        "{directory}/first.json is damaged: 4 bytes, expected 12",
    ),
    "longer": (
        lambda directory: (directory / "first.json").write_bytes(FIRST * 2),
        "{directory}/first.json is damaged: 24 bytes, expected 12",
    ),
    "missing file": (
        lambda directory: (directory / "second.json").unlink(),
        "{directory}/second.json cannot be read: No such file or directory",
    ),
    "missing manifest": (lambda directory: (directory / "manifest.json").unlink(), NO_MANIFEST),
    "garbage manifest": (lambda directory: (directory / "manifest.json").write_bytes(b"\x00\xff{"), NO_MANIFEST),
    "empty manifest": (lambda directory: (directory / "manifest.json").write_text("{}"), NO_MANIFEST),
    "list for a manifest": (lambda directory: (directory / "manifest.json").write_text("[1]"), NO_MANIFEST),
    "edited digest": (_edit_manifest(digest="0" * 64), NO_MANIFEST),
    "edited files": (_edit_manifest(files={}), NO_MANIFEST),
    "sizes gone": (_forget_sizes, NO_MANIFEST),
    "facts gone": (_edit_manifest(facts=None), NO_MANIFEST),
    "directory replaced": (_replace_directory, NO_MANIFEST),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_output_is_told_and_rebuilt(stored, warnings_told, kind):
    damage, message = DAMAGES[kind]
    damage(stored.directory)
    reference, computed = commit_output(STAGE, KEY, write_pair)
    assert (reference.digest, computed) == (PAIR_DIGEST, True)
    suffix = "" if message == NO_MANIFEST else ": it will be rebuilt"
    assert warnings_told() == [message.format(directory=stored.directory) + suffix]
    assert find_output(STAGE, KEY) == reference


@pytest.mark.parametrize("kind", DAMAGES)
def test_reference_to_a_damaged_output_is_refused(stored, kind):
    damage, message = DAMAGES[kind]
    damage(stored.directory)
    expected = NOT_HERE if message == NO_MANIFEST else message.format(directory=stored.directory)
    with pytest.raises(ValidationError, match=re.escape(expected)):
        ArtifactRef(**stored.model_dump())


def test_reference_to_another_content_is_refused(stored):
    with pytest.raises(ValidationError, match="no output with digest 000000000000 is here"):
        ArtifactRef(stage=STAGE, key=KEY, digest="0" * 64)


def test_manifest_rewritten_for_other_content_is_found_out_by_the_files(stored):
    files = {"first.json": {"size": 12, "sha256": hashlib.sha256(SECOND).hexdigest()}}
    _edit_manifest(files=files, digest=digest_of({"first.json": SECOND}))(stored.directory)
    assert find_output(STAGE, KEY) is None


# --- keys ---


def test_key_is_the_head_of_a_sha256_over_canonical_json(artifacts):
    material = b'{"inputs":{"seed":7,"text":"\xc3\xa9"},"stage":"count_words","version":1}'
    assert stage_key(STAGE, 1, {"text": "é", "seed": 7}) == hashlib.sha256(material).hexdigest()[:32]


@pytest.mark.parametrize(
    ("stage", "version", "inputs"),
    [
        ("other_stage", 1, {"config": EmbeddingsConfig(), "seed": 0}),
        (STAGE, 2, {"config": EmbeddingsConfig(), "seed": 0}),
        (STAGE, 1, {"config": EmbeddingsConfig(dim=100), "seed": 0}),
        (STAGE, 1, {"config": EmbeddingsConfig(), "seed": 1}),
        (STAGE, 1, {"config": EmbeddingsConfig(), "seed": None}),
        (STAGE, 1, {"config": EmbeddingsConfig()}),
    ],
    ids=["stage", "version", "config", "input", "disabled input", "no input"],
)
def test_key_changes_with(stage, version, inputs):
    assert stage_key(stage, version, inputs) != stage_key(STAGE, 1, {"config": EmbeddingsConfig(), "seed": 0})


@pytest.mark.parametrize(
    "inputs",
    [
        {"seed": 0, "config": EmbeddingsConfig()},
        {"config": EmbeddingsConfig(offline=True, timeout_seconds=1, source="b.txt"), "seed": 0},
    ],
    ids=["the order of the inputs", "unkeyed fields"],
)
def test_key_does_not_change_with(inputs):
    assert stage_key(STAGE, 1, inputs) == stage_key(STAGE, 1, {"config": EmbeddingsConfig(), "seed": 0})


def test_key_takes_the_digest_of_an_output_and_nothing_else_of_it(stored):
    same_content, _ = commit_output("another_stage", "another_key", write_pair)
    other_content, _ = commit_output(STAGE, "third_key", lambda output: output.write_json("first.json", 1))
    key = stage_key("tokenize", 1, {"documents": stored})
    assert stage_key("tokenize", 1, {"documents": same_content}) == key
    assert stage_key("tokenize", 1, {"documents": other_content}) != key


def test_key_takes_the_digest_of_a_source_but_not_its_location():
    def key(location, digest):
        return stage_key("ingest", 1, {"source": SourceRef(location=location, kind="file", digest=digest)})

    assert key("/data/a.csv", "d1") == key("/mnt/b.csv", "d1") != key("/data/a.csv", "d2")


@pytest.mark.parametrize("value", [float("nan"), Path("a.csv")], ids=["nan", "path"])
def test_input_without_a_canonical_form_is_refused(value):
    with pytest.raises((ValueError, TypeError), match="not JSON"):
        stage_key(STAGE, 1, {"value": value})


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
def test_store_below_a_file_is_told(artifacts, place):
    path = artifacts / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("a file")
    expected = (
        f"^{re.escape(str(artifacts / 'store' / STAGE / KEY))}: cannot be written: (Not a directory|File exists); "
        "set GLOVEFLOW_ARTIFACTS to a writable directory, nothing was lost$"
    )
    with pytest.raises(StoreError, match=expected):
        commit_output(STAGE, KEY, lambda _: pytest.fail("computed in vain"))


def _fill_disk(output):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _fill_disk_by_json(output):
    output.path("first.json").symlink_to("/dev/full")
    output.write_json("first.json", {"a": 1})


def _fill_disk_by_table(output):
    output.path("words.parquet").symlink_to("/dev/full")
    output.write_table("words.parquet", pa.table({"word": ["a"], "count": [1]}), WORDS)


@pytest.mark.parametrize("write", [_fill_disk, _fill_disk_by_json, _fill_disk_by_table])
def test_full_disk_is_told_and_leaves_nothing(artifacts, write):
    expected = (
        rf"^{re.escape(str(artifacts))}/store/{STAGE}/\.tmp-{KEY}-\w+: cannot be written: .*"
        "No space left on device; free some space and run again, nothing was lost$"
    )
    with pytest.raises(StoreError, match=expected):
        commit_output(STAGE, KEY, write)
    assert leftovers() == []


def test_disk_that_is_full_when_the_manifest_is_written_is_told(artifacts, monkeypatch):
    monkeypatch.setattr("tasks.store.commit.sync", _fill_disk)
    with pytest.raises(StoreError, match="No space left on device; free some space"):
        commit_output(STAGE, KEY, write_pair)
    assert leftovers() == []


def test_missing_input_of_a_stage_is_not_told_as_an_error_of_the_store(artifacts, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.csv"):
        commit_output(STAGE, KEY, lambda _: (tmp_path / "corpus.csv").read_text())


# --- reading what a stage wrote ---


def test_table_is_written_with_the_promised_schema(stored):
    def write(output):
        output.write_table("words.parquet", pa.table({"word": ["a", "b"], "count": pa.array([1, None], "int8")}), WORDS)

    table = commit_output(STAGE, "table_key", write)[0].read_table("words.parquet")
    assert table.schema == WORDS
    assert table.to_pydict() == {"word": ["a", "b"], "count": [1, None]}


def test_single_columns_of_a_table_can_be_read(artifacts):
    def write(output):
        output.write_table("words.parquet", pa.table({"word": ["a", "b"], "count": [1, 2]}), WORDS)

    output, _ = commit_output(STAGE, KEY, write)
    assert output.read_table("words.parquet", ["count"], memory_map=True).to_pydict() == {"count": [1, 2]}


# --- digests of files ---


def test_file_digest_is_the_sha256_of_the_content(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    assert file_digest(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2


def test_file_digest_reads_a_file_once_until_it_changes(tmp_path, monkeypatch):
    reads, digest = [], hashlib.file_digest
    monkeypatch.setattr("hashlib.file_digest", lambda file, kind: reads.append(file.name) or digest(file, kind))
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    before = [file_digest(path), file_digest(path)]
    path.write_bytes(b"abd")
    os.utime(path, (1, 1))
    after = file_digest(path)
    assert before == [hashlib.sha256(b"abc").hexdigest()] * 2
    assert after == hashlib.sha256(b"abd").hexdigest()
    assert len(reads) == 2


def test_file_digest_reads_a_file_once_though_its_directory_is_renamed(tmp_path, monkeypatch):
    (tmp_path / "before").mkdir()
    (tmp_path / "before/abc").write_bytes(b"abc")
    before = file_digest(tmp_path / "before/abc")
    (tmp_path / "before").rename(tmp_path / "after")
    monkeypatch.setattr("hashlib.file_digest", None)
    assert file_digest(tmp_path / "after/abc") == before


def test_file_digest_reads_a_file_again_that_was_changed_under_an_old_date(tmp_path):
    path = tmp_path / "abc"
    path.write_bytes(b"abc")
    file_digest(path)
    status = path.stat()
    while path.stat().st_ctime_ns == status.st_ctime_ns:  # the clock of the file system ticks every few milliseconds
        path.write_bytes(b"abd")
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file_digest(path) == hashlib.sha256(b"abd").hexdigest()


def test_tree_digest_covers_names_and_contents_but_not_where_the_files_are(tmp_path):
    for name, content in {"x": b"1", "y": b"2", "z": b"2"}.items():
        (tmp_path / name).write_bytes(content)
    x, y, z = (tmp_path / name for name in "xyz")
    assert tree_digest({"a": x, "b": y}) == digest_of({"a": b"1", "b": b"2"})
    assert tree_digest({"b": z, "a": x}) == tree_digest({"a": x, "b": y})
    assert tree_digest({"a": y, "b": x}) != tree_digest({"a": x, "b": y})
