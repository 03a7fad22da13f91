import errno
import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pytest
from pydantic import ValidationError

from pipeline_config.errors import StoreError
from pipeline_config.settings import EmbeddingsConfig
from tasks.store.artifacts import (
    ArtifactRef,
    SourceRef,
    artifacts_root,
    content_digest,
    file_digest,
    find_output,
    manifest_checksum,
    output_directory,
    stage_key,
    tree_digest,
)
from tasks.store.commit import commit_output
from tests.tasks.store.pair import FIRST, KEY, PAIR_DIGEST, SECOND, STAGE, WORDS, digest_of, write_pair


@pytest.fixture
def warnings_logged(caplog, monkeypatch):
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


# --- damage found later ---


def _edit_manifest(**changes):
    def damage(directory):
        path = directory / "manifest.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return damage


def _edit_and_seal(**changes):
    """Edit a manifest and give it a checksum that fits."""

    def damage(directory):
        manifest = {**json.loads((directory / "manifest.json").read_text()), **changes}
        _edit_manifest(**changes, checksum=manifest_checksum(manifest))(directory)

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
    "damaged facts": (_edit_manifest(facts={"l?nes": 3}), NO_MANIFEST),
    "facts gone": (_edit_manifest(facts=None), NO_MANIFEST),
    "directory replaced": (_replace_directory, NO_MANIFEST),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_output_is_logged_and_rebuilt(stored, warnings_logged, kind):
    damage, message = DAMAGES[kind]
    damage(stored.directory)
    reference, computed = commit_output(STAGE, KEY, write_pair)
    assert (reference.digest, computed) == (PAIR_DIGEST, True)
    suffix = "" if message == NO_MANIFEST else ": it will be rebuilt"
    assert warnings_logged() == [message.format(directory=stored.directory) + suffix]
    assert find_output(STAGE, KEY) == reference


@pytest.mark.parametrize("kind", DAMAGES)
def test_reference_to_a_damaged_output_is_refused(stored, kind):
    damage, message = DAMAGES[kind]
    damage(stored.directory)
    expected = NOT_HERE if message == NO_MANIFEST else message.format(directory=stored.directory)
    with pytest.raises(ValidationError, match=re.escape(expected)):
        ArtifactRef(**stored.model_dump())


def test_a_manifest_of_an_earlier_release_has_no_checksum_and_is_valid(stored):
    manifest = stored.read_json("manifest.json")
    del manifest["checksum"]
    stored.path("manifest.json").write_text(json.dumps(manifest))
    assert find_output(STAGE, KEY) == stored


def test_reference_to_another_content_is_refused(stored):
    with pytest.raises(ValidationError, match="no output with digest 000000000000 is here"):
        ArtifactRef(stage=STAGE, key=KEY, digest="0" * 64)


def test_manifest_rewritten_for_other_content_is_detected_by_the_files(stored):
    files = {"first.json": {"size": 12, "sha256": hashlib.sha256(SECOND).hexdigest()}}
    _edit_manifest(files=files, digest=digest_of({"first.json": SECOND}))(stored.directory)
    assert find_output(STAGE, KEY) is None


# --- what nothing but display reads ---


@pytest.mark.parametrize(
    "changes",
    [{"facts": {"lstm_macro_f1": 1.0}}, {"inputs": {"seed": 8}}, {"seconds": 9.0}, {"tools": {}}],
    ids=lambda changes: next(iter(changes)),
)
def test_edited_facts_inputs_seconds_and_tools_change_no_digest_and_no_key(stored, changes):
    key = stage_key("tokenize", 1, {"documents": stored})
    _edit_and_seal(**changes)(stored.directory)
    found = find_output(STAGE, KEY)
    assert (found.key, found.digest) == (KEY, PAIR_DIGEST)
    assert found.read_json("first.json") == {"a": 1}
    assert stage_key("tokenize", 1, {"documents": found}) == key
    assert commit_output(STAGE, KEY, lambda _: pytest.fail("computed again"))[1] is False


def test_edited_inputs_are_not_even_read(stored):
    _edit_and_seal(inputs="nonsense")(stored.directory)
    assert find_output(STAGE, KEY) == stored


def test_edited_digest_is_refused_even_if_the_reference_is_edited_alike(stored):
    _edit_manifest(digest="0" * 64)(stored.directory)
    with pytest.raises(ValidationError, match="no output with digest 000000000000 is here"):
        ArtifactRef(stage=STAGE, key=KEY, digest="0" * 64)
    assert find_output(STAGE, KEY) is None


@pytest.mark.parametrize("with_digest", [False, True], ids=["digest kept", "digest made to fit"])
def test_edited_sha256_of_a_file_is_refused(stored, with_digest):
    sha256 = {"first.json": hashlib.sha256(b"edited").hexdigest(), "second.json": hashlib.sha256(SECOND).hexdigest()}
    digest = content_digest(sha256) if with_digest else PAIR_DIGEST
    files = {name: {"size": 12, "sha256": value} for name, value in sha256.items()}
    _edit_manifest(files=files, digest=digest)(stored.directory)
    with pytest.raises(ValidationError, match=r"SHA-256 is not the one in|no output with digest"):
        ArtifactRef(stage=STAGE, key=KEY, digest=digest)
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


def test_rows_of_a_table_are_counted_without_reading_them(artifacts):
    def write(output):
        output.write_table("words.parquet", pa.table({"word": ["a", "b"], "count": [1, 2]}), WORDS)

    assert commit_output(STAGE, KEY, write)[0].count_rows("words.parquet") == 2


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


@pytest.mark.parametrize("name", ["manifest.json", "first.json"])
def test_an_output_is_not_made_again_because_too_many_files_are_open(artifacts, monkeypatch, name):
    reference, _ = commit_output(STAGE, KEY, write_pair)
    real = Path.open

    def limited(self, *args, **kwargs):
        if self.name == name:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(self))
        return real(self, *args, **kwargs)

    monkeypatch.setattr("tasks.store.artifacts._verified", {})
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", limited)
        with pytest.raises(StoreError, match=f"{name}: cannot be opened: Too many open files; allow more open files"):
            commit_output(STAGE, KEY, write_pair)
    assert commit_output(STAGE, KEY, write_pair) == (reference, False)
