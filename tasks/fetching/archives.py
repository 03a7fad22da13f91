"""Read a plain file, a gzip file or one member of a zip file as a stream; nothing is ever unpacked to disk.

Archives are not trusted. Refused are names that lead out of the archive's folder, links, encryption, nested archives,
entries that repeat or overlap, wrong sizes, and compression ratios that are too high. All bytes that are read are
checked against the stated length and CRC.
"""

import contextlib
import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline_config.errors import InputError
from tasks.fetching.zip_entries import LOCAL_HEADER, check_ratio, find_problem, is_of_macos

TEXT_SUFFIXES = (".txt", ".vec", ".bin")
MAX_ENTRIES = 1000
MAX_DIRECTORY_BYTES = 4 << 20
ZIP_MAGIC = b"PK\x03\x04"
GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 18
_END_RECORD = struct.Struct("<4s4H2IH")  # 4.3.16
_SUPPORTED_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class Member(NamedTuple):
    """One file of a zip archive, as the archive's directory describes it."""

    name: str
    start: int  # offset of its local header
    end: int  # offset of the next entry or of the directory
    packed_size: int  # bytes, compressed
    size: int  # bytes, decompressed
    crc: int
    method: int


class OpenedFile(NamedTuple):
    """A stream of decompressed bytes, their number (None if unknown), and the name of the file for messages."""

    stream: io.BufferedReader
    size: int | None
    name: str


@contextlib.contextmanager
def open_packed(
    path: Path, member: str | None = None, suffixes: tuple[str, ...] = TEXT_SUFFIXES
) -> Iterator[OpenedFile]:
    """Open a file for reading, decompressed; its first bytes decide whether it is a zip, gzip or plain file.

    Args:
        path: a plain, gzip or zip file.
        member: the wanted member of a zip file; None selects its only file whose suffix is in `suffixes`.
        suffixes: suffixes of the member, in lower case.

    Raises:
        InputError: the file is damaged, hostile, or not what its suffix says. Also raised while the stream is read.
    """
    with path.open("rb") as file:
        magic = file.read(len(ZIP_MAGIC))
        file.seek(0)
        expected = {".zip": ZIP_MAGIC, ".gz": GZIP_MAGIC}.get(path.suffix.lower(), b"")
        if not magic.startswith(expected):
            raise InputError(f"{path}: expected a {path.suffix} file, got one that begins with {file.read(80)!r}")
        if magic == ZIP_MAGIC:
            found = find_member(read_directory(file, str(path)), str(path), member, suffixes)
            stream = open_member(file, found, f"{path}/{found.name}")
            yield OpenedFile(stream, found.size, f"{path.name}/{found.name}")
        elif magic.startswith(GZIP_MAGIC):
            yield OpenedFile(_buffered(_GzipStream(file, str(path))), None, path.name)
        else:
            yield OpenedFile(file, path.stat().st_size, path.name)


def check_complete(path: Path) -> None:
    """Raise an `InputError` if a zip file lacks the directory at its end, or a gzip file its checksum.

    A plain file passes: whether it was truncated cannot be seen.
    """
    with path.open("rb") as file:
        magic = file.read(len(ZIP_MAGIC))
        if magic == ZIP_MAGIC:
            read_directory(file, str(path))
        elif magic.startswith(GZIP_MAGIC):
            file.seek(0)
            stream = _buffered(_GzipStream(file, str(path)))
            while stream.read(_CHUNK_BYTES):
                pass


def read_directory(file: BinaryIO, name: str) -> list[Member]:
    """Return the files of a zip archive, without those that macOS adds; all of its entries are checked.

    Raises:
        InputError: it is not a zip archive, or one of its entries is not trusted.
    """
    with _report_damage(name):
        file.seek(0, io.SEEK_END)
        _check_directory_size(file, file.tell(), name)
        with zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            ends = [*(entry.header_offset for entry in entries), archive.start_dir][1:]
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{name}: expected at most {MAX_ENTRIES} entries, got {len(entries)}")
    names = [entry.filename.rstrip("/").casefold() for entry in entries]
    for entry, end in zip(entries, ends, strict=True):
        repeated = names.count(entry.filename.rstrip("/").casefold()) > 1
        problem = "its name occurs more than once" if repeated else find_problem(entry, end)
        if problem:
            raise InputError(f"{name}/{entry.orig_filename}: {problem}")
    return [
        Member(e.filename, e.header_offset, end, e.compress_size, e.file_size, e.CRC, e.compress_type)
        for e, end in zip(entries, ends, strict=True)
        if not e.is_dir() and not is_of_macos(e.filename)
    ]


def find_member(
    members: list[Member], name: str, wanted: str | None, suffixes: tuple[str, ...] = TEXT_SUFFIXES
) -> Member:
    """Return the member named `wanted`, or with None the only one whose suffix is in `suffixes`.

    Raises:
        InputError: there is not exactly one such member, or its compression method is not supported.
    """
    found = [m for m in members if m.name == wanted or (wanted is None and m.name.lower().endswith(suffixes))]
    if len(found) != 1:
        names = ", ".join(m.name for m in members if m.name.lower().endswith(suffixes)) or "none"
        expected = f"a member {wanted}" if wanted else f"exactly one {' or '.join(suffixes)} file"
        raise InputError(f"{name}: expected {expected}, got {names}")
    if found[0].method not in _SUPPORTED_METHODS:
        raise InputError(f"{name}/{found[0].name}: compression method {found[0].method} is not supported")
    return found[0]


def find_data_start(header: bytes, member: Member, name: str) -> int:
    """Return the offset of a member's data from the start of its local header.

    Raises:
        InputError: the local header and the directory disagree.
    """
    if len(header) < LOCAL_HEADER.size:
        raise InputError(f"{name}: is damaged: its local header is truncated")
    magic, _, flags, method, *_, packed, size, name_length, extra_length = LOCAL_HEADER.unpack_from(header)
    start = int(LOCAL_HEADER.size + name_length + extra_length)
    in_header = header[LOCAL_HEADER.size : LOCAL_HEADER.size + name_length]
    same_name = in_header.decode("utf-8" if flags & 0x800 else "cp437", "replace") == member.name
    no_sizes = flags & 8 or 0xFFFFFFFF in (packed, size)  # they follow the data, or are in the zip64 extra field
    same_sizes = no_sizes or (packed, size) == (member.packed_size, member.size)
    if magic != ZIP_MAGIC or method != member.method or flags & 1 or not same_name or not same_sizes:
        raise InputError(f"{name}: is damaged: its local header and the directory of the archive disagree")
    if member.start + start + member.packed_size > member.end:
        raise InputError(f"{name}: overlaps with the next entry")
    return start


def open_member(file: BinaryIO, member: Member, name: str) -> io.BufferedReader:
    """Return a stream of a member's bytes; it raises an `InputError` if their size or CRC is not the stated one."""
    file.seek(member.start)
    header = file.read(min(LOCAL_HEADER.size + 2 * 0xFFFF, member.end - member.start))
    file.seek(member.start + find_data_start(header, member, name))
    return _buffered(_MemberStream(file, member, name))


class _DecompressedStream(io.RawIOBase):
    """Base of the streams: counts the decompressed bytes."""

    _size = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size


class _MemberStream(_DecompressedStream):
    """The bytes of one zip member; both its compressed and its decompressed size must be what the directory states."""

    def __init__(self, file: BinaryIO, member: Member, name: str) -> None:
        self._file, self._member, self._name = file, member, name
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == zipfile.ZIP_DEFLATED else None
        self._packed_left, self._crc = member.packed_size, 0
        self._input = b""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _report_damage(self._name):
            data = self._decompress(len(buffer))
        self._size += len(data)
        self._crc = zlib.crc32(data, self._crc)
        if self._size > self._member.size:
            raise InputError(f"{self._name}: expected the stated {self._member.size:,} bytes decompressed, got more")
        if not data:
            self._check_end()
        buffer[: len(data)] = data
        return len(data)

    def _decompress(self, max_bytes: int) -> bytes:
        if self._inflater is None:
            return self._read_packed(max_bytes)
        while not self._inflater.eof:
            self._input = self._input or self._read_packed(_CHUNK_BYTES)
            data = self._inflater.decompress(self._input, max_bytes)
            exhausted = not self._input
            self._input = self._inflater.unconsumed_tail
            if data or exhausted:
                return data
        return b""

    def _read_packed(self, max_bytes: int) -> bytes:
        data = self._file.read(min(max_bytes, self._packed_left))
        self._packed_left -= len(data)
        return data

    def _check_end(self) -> None:
        complete = self._inflater is None or (self._inflater.eof and not self._inflater.unused_data)
        if self._size != self._member.size or self._packed_left or not complete:
            raise InputError(
                f"{self._name}: is damaged: expected {self._member.size:,} bytes, got {self._size:,}"
                + ("" if self._size != self._member.size else ", and its compressed data ends elsewhere than stated")
            )
        if self._crc != self._member.crc:
            raise InputError(
                f"{self._name}: is damaged: expected the CRC-32 {self._member.crc:08x}, got {self._crc:08x}"
            )


class _GzipStream(_DecompressedStream):
    """The bytes of a gzip file, refused once the compression ratio of what was read exceeds `MAX_RATIO`."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._gzip, self._name = file, gzip.GzipFile(fileobj=file), name

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _report_damage(self._name):
            data = self._gzip.read1(len(buffer))
        self._size += len(data)
        check_ratio(self._name, self._size, self._file.tell())
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def _report_damage(name: str) -> Iterator[None]:
    """Report the exceptions that `zipfile`, `gzip` and `zlib` raise for damaged files as `InputError`."""
    try:
        yield
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise InputError(f"{name}: is damaged: {error}") from error


def _check_directory_size(file: BinaryIO, size: int, name: str) -> None:
    """Refuse a directory that is too large, before `zipfile` reads it into memory."""
    file.seek(max(size - _END_RECORD.size - 0xFFFF, 0))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END_RECORD.size:
        raise zipfile.BadZipFile("it has no directory at its end")
    directory_bytes = _END_RECORD.unpack_from(tail, at)[5]
    if directory_bytes > MAX_DIRECTORY_BYTES:
        raise InputError(
            f"{name}: expected a directory of at most {MAX_DIRECTORY_BYTES:,} bytes, got {directory_bytes:,}"
        )


def _buffered(stream: io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(stream, _CHUNK_BYTES)
