"""Packed files: read as if they were not, refused when damaged or hostile."""

import bz2
import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig
from tasks.reading.formats import read_blocks
from tasks.reading.sources import locate_corpus

Writer = Callable[[str, bytes], Path]
CSV = b"text,label\none,a\ntwo,b\n"
JSON_LINES = b'{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n'


def make_zip(files: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return sink.getvalue()


def pack_zstd(content: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(content)
    return sink.getvalue().to_pybytes()


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "zst": pack_zstd,
    "zip": lambda content: make_zip({"inside.csv" if content.startswith(b"text") else "inside.jsonl": content}),
}


def read(path: Path, **options: object) -> list[tuple[str, str]]:
    config = CorpusConfig(source=str(path), **options)
    rows = []
    for file in locate_corpus(config).files:
        for block in read_blocks(Path(file.path), file.kind, config.reading, file.constants):
            rows += list(zip(block["text"].to_pylist(), block["label"].to_pylist(), strict=True))
    return rows


def refused(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return str(caught.value).replace(str(path), "FILE")


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize(("name", "content"), [("c.csv", CSV), ("c.JSONL", JSON_LINES)])
def test_packed_files_are_read(write: Writer, suffix: str, name: str, content: bytes) -> None:
    assert read(write(f"{name}.{suffix}", PACKERS[suffix](content))) == [("one", "a"), ("two", "b")]


@pytest.mark.parametrize("suffix", PACKERS)
def test_the_first_bytes_say_that_a_file_is_packed(write: Writer, suffix: str) -> None:
    assert read(write("c.csv", PACKERS[suffix](CSV))) == [("one", "a"), ("two", "b")]
    assert read(write("c.download", PACKERS[suffix](CSV)), format="csv") == [("one", "a"), ("two", "b")]


@pytest.mark.parametrize("suffix", ["gz", "bz2", "zst"])
def test_a_packed_file_may_have_several_parts(write: Writer, suffix: str) -> None:
    parts = [PACKERS[suffix](part) for part in (CSV, b"three,a\n")]
    assert len(read(write(f"c.csv.{suffix}", b"".join(parts)))) == 3


def test_a_directory_of_packed_files_is_read(write: Writer, tmp_path: Path) -> None:
    write("d/1.csv.gz", gzip.compress(CSV))
    write("d/2.zip", make_zip({"folder/2.csv": CSV, "README.md": b""}))
    assert len(read(tmp_path / "d")) == 4


def test_a_packed_file_in_utf_16_is_read(write: Writer) -> None:
    assert read(write("c.csv.gz", gzip.compress(CSV.decode().encode("utf-16")))) == [("one", "a"), ("two", "b")]


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_ends_too_early_is_refused(write: Writer, suffix: str) -> None:
    content = b"text,label\n" + b"".join(b"text number %d,a\n" % i for i in range(1000))
    packed = PACKERS[suffix](content)
    assert "is damaged: " in refused(write(f"c.csv.{suffix}", packed[: len(packed) // 2]), format="csv")


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_is_not_packed_as_its_name_says_is_refused(write: Writer, suffix: str) -> None:
    message = refused(write(f"c.csv.{suffix}", CSV))
    assert "expected a" in message or "is damaged" in message


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_file_that_unpacks_to_too_much_is_refused(write: Writer, suffix: str) -> None:
    packed = PACKERS[suffix](b"text,label\n" + b"a" * (20 << 20))
    assert len(packed) < 100_000
    assert "expected at most 200 times as many" in refused(write(f"c.csv.{suffix}", packed))


def test_an_archive_has_one_data_file_and_no_archives(write: Writer) -> None:
    expected = "FILE: expected exactly one .csv or .tsv or .jsonl or .ndjson or .json or .txt file, got "
    assert refused(write("c.zip", make_zip({"a.csv": CSV, "b.csv": CSV}))) == expected + "a.csv, b.csv"
    assert refused(write("c.zip", make_zip({"a.pdf": CSV}))) == expected + "none"
    assert "is an archive inside the archive" in refused(write("c.zip", make_zip({"a.csv": CSV, "b.csv.gz": CSV})))


@pytest.mark.parametrize("kind", ["parquet", "xlsx"])
def test_formats_that_pack_themselves_are_not_packed_again(write: Writer, kind: str) -> None:
    path = write(f"c.{kind}.gz", gzip.compress(b""))
    message = f"corpus.source: FILE: expected a file of the format {kind} as it is, got a packed one; unpack it"
    assert refused(path) == message


def test_text_that_begins_like_a_packed_file_is_text(write: Writer) -> None:
    assert read(write("c.csv", b"BZh9text,label\none,a\n"), text_column="BZh9text") == [("one", "a")]
