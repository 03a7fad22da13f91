"""Reading one file out of a plain, gzip or zip file; hostile archives are refused."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tasks.fetching.archives
from pipeline_config.errors import InputError
from tasks.fetching.archives import check_complete, open_packed
from tests.campaigns import hostile_archives
from tests.zip_files import make_zip

TEXT = b"the 1 2\nof 3 4\n"
LONG = b"".join(b"token%d 0.%d 1.%d\n" % (i, i, i * i) for i in range(2000))


def read(path: Path, member: str | None = None) -> bytes:
    with open_packed(path, member) as opened:
        return opened.stream.read()


# files that are read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.txt", TEXT),
        ("mine", TEXT),
        ("mine.txt.gz", gzip.compress(TEXT)),
        ("mine.dat", gzip.compress(TEXT)),
        ("mine.txt.gz", gzip.compress(TEXT[:5]) + gzip.compress(TEXT[5:])),
        ("mine.zip", make_zip(("mine.txt", TEXT))),
        ("mine.zip", make_zip(("mine.VEC", TEXT), ("LICENSE", b"words"))),
        ("mine.zip", make_zip(("folder/", b""), ("folder/mine.bin", TEXT))),
        ("mine.dat", make_zip(("mine.txt", TEXT), compression=zipfile.ZIP_STORED)),
        ("mine.zip", make_zip(("mine.txt", TEXT), ("__MACOSX/", b""), ("__MACOSX/._mine.txt", b"\0\5\x16\7"))),
        (
            "mine.zip",
            make_zip(("._mine.txt", b"\0"), ("a/mine.txt", TEXT), ("a/._mine.txt", b"\0"), ("a/.DS_Store", b"\0")),
        ),
        ("mine.zip", b"#!/bin/sh\n" + make_zip(("w\u00f6rter.txt", TEXT))),
    ],
)
def test_a_file_is_read_from_every_container(write: Callable[[str, bytes], Path], name: str, content: bytes) -> None:
    if content.startswith(b"#!"):
        with pytest.raises(InputError, match=r"got one that begins with b'#!/bin/sh"):
            read(write(name, content))
        return
    assert read(write(name, content)) == TEXT


def test_the_name_and_the_size_of_the_stream_are_stated(write: Callable[[str, bytes], Path]) -> None:
    for name, content, expected in [
        ("mine.txt", TEXT, ("mine.txt", len(TEXT))),
        ("mine.txt.gz", gzip.compress(TEXT), ("mine.txt.gz", None)),
        ("mine.zip", make_zip(("a.txt", TEXT)), ("mine.zip/a.txt", len(TEXT))),
    ]:
        with open_packed(write(name, content)) as opened:
            assert (opened.name, opened.size) == expected


@pytest.mark.parametrize("name", ["mine.txt", "mine.txt.gz", "mine.zip"])
def test_the_position_in_the_stream_counts_decompressed_bytes(write: Callable[[str, bytes], Path], name: str) -> None:
    packed = {"mine.txt": LONG, "mine.txt.gz": gzip.compress(LONG), "mine.zip": make_zip(("mine.txt", LONG))}
    with open_packed(write(name, packed[name])) as opened:
        opened.stream.read(1234)
        assert opened.stream.tell() == 1234


def test_a_member_is_chosen_by_its_name(write: Callable[[str, bytes], Path]) -> None:
    path = write("mine.zip", make_zip(("a.txt", b"no\n"), ("b.txt", TEXT)))
    assert read(path, "b.txt") == TEXT
    with pytest.raises(InputError, match=r"mine\.zip: expected a member c\.txt, got a\.txt, b\.txt$"):
        read(path, "c.txt")


def test_a_member_that_is_not_read_to_its_end_is_not_checked(write: Callable[[str, bytes], Path]) -> None:
    damaged = bytearray(make_zip(("a.txt", LONG), compression=zipfile.ZIP_STORED))
    damaged[damaged.index(b"PK\x01\x02") - 5] ^= 1
    path = write("mine.zip", bytes(damaged))
    with open_packed(path) as opened:
        assert opened.stream.read(100) == LONG[:100]
    with pytest.raises(InputError, match="expected the CRC-32"):
        read(path)


# files that are refused


def flip(content: bytes, position: int, bit: int = 1) -> bytes:
    return content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]


def flagged(content: bytes, *, field: int, bit: int) -> bytes:
    """Set a bit in both headers of the only member; `field` is its offset in the local one."""
    return flip(flip(content, field, bit), content.index(b"PK\x01\x02") + field + 2, bit)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            make_zip(("a.txt", TEXT), ("b.txt", TEXT)), ": expected exactly one .txt or .vec or .bin file, got a.txt, b.txt", id="two"
        ),
        pytest.param(make_zip(("a.dat", TEXT)), ": expected exactly one .txt or .vec or .bin file, got none", id="no text"),
        pytest.param(b"PK\x03\x04" + make_zip(), ": expected exactly one .txt or .vec or .bin file, got none", id="no member"),
        pytest.param(make_zip(("../a.txt", TEXT)), "/../a.txt: its name leads out of the archive's folder", id="path escape"),
        pytest.param(make_zip(("/a.txt", TEXT)), "//a.txt: its name is an absolute path", id="absolute"),
        pytest.param(make_zip(("C:\\a.txt", TEXT)), "/C:\\a.txt: its name is an absolute path", id="drive"),
        pytest.param(make_zip(("a.txt", TEXT), ("b.ZIP", TEXT)), "/b.ZIP: is an archive inside", id="nested"),
        pytest.param(make_zip(("a.txt", TEXT), ("A.TXT", TEXT)), "/a.txt: its name occurs more than once", id="duplicate"),
        pytest.param(flagged(make_zip(("a.txt", TEXT)), field=6, bit=1), "/a.txt: is encrypted", id="encrypted"),
        pytest.param(
            make_zip(("a.txt", b"\n" * 1_000_000)), "/a.txt: decompresses to 1,000,000 bytes from ", id="bomb"
        ),
        pytest.param(
            flip(make_zip(("a.txt", TEXT), compression=zipfile.ZIP_STORED), 40, 2),
            "/a.txt: is damaged: expected the CRC-32 ", id="checksum",
        ),
        pytest.param(flip(make_zip(("a.txt", LONG)), 3000, 255), "/a.txt: is damaged: ", id="deflated data"),
        pytest.param(
            flagged(make_zip(("a.txt", TEXT)), field=8, bit=64), "/a.txt: compression method 72 is not", id="method"
        ),
        pytest.param(make_zip(("a.txt", LONG))[:-30], ": is damaged: it has no directory at its end", id="truncated"),
        pytest.param(b"<html>", ": expected a .zip file, got one that begins with b'<html>'", id="page"),
        pytest.param(b"", ": expected a .zip file, got one that begins with b''", id="empty"),
    ],
)  # fmt: skip
def test_a_hostile_or_damaged_archive_is_refused(
    write: Callable[[str, bytes], Path], content: bytes, message: str
) -> None:
    path = write("mine.zip", content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(gzip.compress(LONG)[:-5000], "is damaged: Compressed file ended", id="truncated"),
        pytest.param(flip(gzip.compress(LONG), 3000, 255), "is damaged: ", id="deflated data"),
        pytest.param(flip(gzip.compress(LONG), -8), "is damaged: CRC check failed", id="checksum"),
        pytest.param(gzip.compress(b"\n" * 10_000_000), "decompresses to ", id="bomb"),
        pytest.param(b"<html>", "expected a .gz file, got one that begins with b'<html>'", id="page"),
    ],
)
def test_a_damaged_gzip_file_is_refused(write: Callable[[str, bytes], Path], content: bytes, message: str) -> None:
    path = write("mine.txt.gz", content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_bytes_between_the_end_of_the_compressed_data_and_the_stated_end_are_refused(
    write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make_zip(("a.txt", LONG))
    end = data.index(hostile_archives.CENTRAL)
    packed_size = end - len("a.txt") - 30
    data = data[:end] + b"x" * 10 + data[end:]
    data = hostile_archives.patch_both(data, local=(18, "<I"), central=(20, "<I"), value=packed_size + 10)
    data = hostile_archives.patch(data, hostile_archives.END, 16, "<I", end + 10)
    monkeypatch.setattr(tasks.fetching.archives, "_CHUNK_BYTES", packed_size)  # so that none of the ten is decompressed
    with pytest.raises(InputError, match=r"its compressed data ends elsewhere than stated$"):
        read(write("mine.zip", data))


def test_a_directory_that_is_too_large_is_refused_before_it_is_read(
    write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.fetching.archives, "MAX_DIRECTORY_BYTES", 100)
    path = write("mine.zip", make_zip(("a.txt", TEXT), ("b" * 60, TEXT)))
    with pytest.raises(InputError, match=r"expected a directory of at most 100 bytes, got \d+$"):
        read(path)


@pytest.mark.parametrize(
    ("content", "complete"),
    [
        (make_zip(("a.txt", LONG)), True),
        (make_zip(("a.txt", LONG))[:-1], False),
        (make_zip(("a.txt", LONG))[:100], False),
        (gzip.compress(LONG), True),
        (gzip.compress(LONG)[:-1], False),
        (TEXT, True),
        (TEXT[:-3], True),  # cannot be detected in a plain file
        (b"", True),
    ],
)
def test_a_truncated_zip_or_gzip_file_is_detected(
    write: Callable[[str, bytes], Path], content: bytes, complete: bool
) -> None:
    path = write("mine", content)
    if complete:
        check_complete(path)
        return
    with pytest.raises(InputError, match="is damaged"):
        check_complete(path)


def test_random_hostile_archives_are_read_correctly_or_refused() -> None:
    tally = hostile_archives.run_campaign(archives=3 * 35, seed=100)
    assert tally.total() == 105
    assert {f"{trick.__name__}: refused" for trick in hostile_archives.REFUSED} <= set(tally)
