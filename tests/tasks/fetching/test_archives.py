"""One file out of a plain, gzip or zip file; archives that lie are refused."""

import gzip
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

import tasks.fetching.archives
from pipeline_config.errors import InputError
from tasks.fetching.archives import check_whole, open_packed
from tests.campaigns import hostile_archives

TEXT = b"the 1 2\nof 3 4\n"
LONG = b"".join(b"token%d 0.%d 1.%d\n" % (i, i, i * i) for i in range(2000))


def zipped(*members: tuple[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return buffer.getvalue()


def read(path: Path, member: str | None = None) -> bytes:
    with open_packed(path, member) as opened:
        return opened.stream.read()


# what is read


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("mine.txt", TEXT),
        ("mine", TEXT),
        ("mine.txt.gz", gzip.compress(TEXT)),
        ("mine.dat", gzip.compress(TEXT)),
        ("mine.txt.gz", gzip.compress(TEXT[:5]) + gzip.compress(TEXT[5:])),
        ("mine.zip", zipped(("mine.txt", TEXT))),
        ("mine.zip", zipped(("mine.VEC", TEXT), ("LICENSE", b"words"))),
        ("mine.zip", zipped(("folder/", b""), ("folder/mine.bin", TEXT))),
        ("mine.dat", zipped(("mine.txt", TEXT), compression=zipfile.ZIP_STORED)),
        ("mine.zip", b"#!/bin/sh\n" + zipped(("w\u00f6rter.txt", TEXT))),
    ],
)
def test_a_file_is_read_whatever_it_is_packed_in(
    write: Callable[[str, bytes], Path], name: str, content: bytes
) -> None:
    if content.startswith(b"#!"):
        with pytest.raises(InputError, match=r"begins with b'#!/bin/sh"):
            read(write(name, content))
        return
    assert read(write(name, content)) == TEXT


def test_the_name_and_the_size_of_what_is_read_are_told(write: Callable[[str, bytes], Path]) -> None:
    for name, content, told in [
        ("mine.txt", TEXT, ("mine.txt", len(TEXT))),
        ("mine.txt.gz", gzip.compress(TEXT), ("mine.txt.gz", None)),
        ("mine.zip", zipped(("a.txt", TEXT)), ("mine.zip/a.txt", len(TEXT))),
    ]:
        with open_packed(write(name, content)) as opened:
            assert (opened.name, opened.size) == told


@pytest.mark.parametrize("name", ["mine.txt", "mine.txt.gz", "mine.zip"])
def test_the_place_in_the_stream_is_told(write: Callable[[str, bytes], Path], name: str) -> None:
    packed = {"mine.txt": LONG, "mine.txt.gz": gzip.compress(LONG), "mine.zip": zipped(("mine.txt", LONG))}
    with open_packed(write(name, packed[name])) as opened:
        opened.stream.read(1234)
        assert opened.stream.tell() == 1234


def test_a_member_is_chosen_by_its_name(write: Callable[[str, bytes], Path]) -> None:
    path = write("mine.zip", zipped(("a.txt", b"no\n"), ("b.txt", TEXT)))
    assert read(path, "b.txt") == TEXT
    with pytest.raises(InputError, match=r"mine\.zip: expected one named c\.txt, got a\.txt, b\.txt$"):
        read(path, "c.txt")


def test_a_member_that_is_not_read_to_its_end_is_not_checked(write: Callable[[str, bytes], Path]) -> None:
    damaged = bytearray(zipped(("a.txt", LONG), compression=zipfile.ZIP_STORED))
    damaged[damaged.index(b"PK\x01\x02") - 5] ^= 1
    path = write("mine.zip", bytes(damaged))
    with open_packed(path) as opened:
        assert opened.stream.read(100) == LONG[:100]
    with pytest.raises(InputError, match="its CRC-32 is"):
        read(path)


# what is refused


def flip(content: bytes, position: int, bit: int = 1) -> bytes:
    return content[:position] + bytes([content[position] ^ bit]) + content[position + 1 :]


def flagged(content: bytes, *, field: int, bit: int) -> bytes:
    """Set a bit in both headers of the only member; `field` is its offset in the local one."""
    return flip(flip(content, field, bit), content.index(b"PK\x01\x02") + field + 2, bit)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(
            zipped(("a.txt", TEXT), ("b.txt", TEXT)), ": expected exactly one text file, got a.txt, b.txt", id="two"
        ),
        pytest.param(zipped(("a.dat", TEXT)), ": expected exactly one text file, got none", id="no text"),
        pytest.param(b"PK\x03\x04" + zipped(), ": expected exactly one text file, got none", id="no member"),
        pytest.param(zipped(("../a.txt", TEXT)), "/../a.txt: leaves the archive's folder", id="path escape"),
        pytest.param(zipped(("/a.txt", TEXT)), "//a.txt: is an absolute name", id="absolute"),
        pytest.param(zipped(("C:\\a.txt", TEXT)), "/C:\\a.txt: is an absolute name", id="drive"),
        pytest.param(zipped(("a.txt", TEXT), ("b.ZIP", TEXT)), "/b.ZIP: is an archive inside", id="nested"),
        pytest.param(zipped(("a.txt", TEXT), ("A.TXT", TEXT)), "/a.txt: repeats a name", id="duplicate"),
        pytest.param(flagged(zipped(("a.txt", TEXT)), field=6, bit=1), "/a.txt: is encrypted", id="encrypted"),
        pytest.param(
            zipped(("a.txt", b"\n" * 1_000_000)), "/a.txt: unpacks to 1,000,000 bytes from ", id="bomb"
        ),
        pytest.param(
            flip(zipped(("a.txt", TEXT), compression=zipfile.ZIP_STORED), 40, 2),
            "/a.txt: is damaged: its CRC-32 is ", id="checksum",
        ),
        pytest.param(flip(zipped(("a.txt", LONG)), 3000, 255), "/a.txt: is damaged: ", id="deflated data"),
        pytest.param(
            flagged(zipped(("a.txt", TEXT)), field=8, bit=64), "/a.txt: compression method 72 is not", id="method"
        ),
        pytest.param(zipped(("a.txt", LONG))[:-30], ": is damaged: it has no directory at its end", id="truncated"),
        pytest.param(b"<html>", ": begins with b'<html>', which is no .zip file", id="page"),
        pytest.param(b"", ": begins with b'', which is no .zip file", id="empty"),
    ],
)  # fmt: skip
def test_an_archive_that_is_not_to_be_trusted_is_refused(
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
        pytest.param(gzip.compress(b"\n" * 10_000_000), "unpacks to ", id="bomb"),
        pytest.param(b"<html>", "begins with b'<html>', which is no .gz file", id="page"),
    ],
)
def test_a_damaged_gzip_file_is_refused(write: Callable[[str, bytes], Path], content: bytes, message: str) -> None:
    path = write("mine.txt.gz", content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_a_directory_that_is_too_large_is_refused_before_it_is_read(
    write: Callable[[str, bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.fetching.archives, "MAX_DIRECTORY_BYTES", 100)
    path = write("mine.zip", zipped(("a.txt", TEXT), ("b" * 60, TEXT)))
    with pytest.raises(InputError, match=r"has a directory of \d+ bytes, expected at most 100$"):
        read(path)


@pytest.mark.parametrize(
    ("content", "whole"),
    [
        (zipped(("a.txt", LONG)), True),
        (zipped(("a.txt", LONG))[:-1], False),
        (zipped(("a.txt", LONG))[:100], False),
        (gzip.compress(LONG), True),
        (gzip.compress(LONG)[:-1], False),
        (TEXT, True),
        (TEXT[:-3], True),  # of a plain file, nothing can be known
        (b"", True),
    ],
)
def test_a_file_that_was_cut_off_is_told_where_it_can_be(
    write: Callable[[str, bytes], Path], content: bytes, whole: bool
) -> None:
    path = write("mine", content)
    if whole:
        check_whole(path)
        return
    with pytest.raises(InputError, match="is damaged"):
        check_whole(path)


def test_random_hostile_archives_are_read_rightly_or_refused() -> None:
    tally = hostile_archives.run_campaign(archives=3 * 35, seed=100)
    assert tally.total() == 105
    assert {f"{trick.__name__}: refused" for trick in hostile_archives.REFUSED} <= set(tally)
