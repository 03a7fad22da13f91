"""Read the one file that matters out of a plain, gzip or zip file, as a stream; nothing is ever unpacked to disk.

An archive is not trusted: names that leave its folder, links, encryption, archives inside it, entries that repeat or
overlap, sizes that lie and sizes out of proportion are refused. What is read is checked against length and CRC.
"""

import contextlib
import gzip
import io
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from pipeline_config.errors import InputError

TEXT_SUFFIXES = (".txt", ".vec", ".bin")
MAX_RATIO = 200  # what unpacks to more than this many times its packed size is refused
MAX_ENTRIES = 1000
MAX_DIRECTORY_BYTES = 4 << 20
ZIP_MAGIC = b"PK\x03\x04"
GZIP_MAGIC = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 18
_LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7
_END_RECORD = struct.Struct("<4s4H2IH")  # 4.3.16
_NESTED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst")
_METHODS = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


class Member(NamedTuple):
    """One file of an archive: where its header begins, where the next thing begins, and what the directory says."""

    name: str
    start: int
    end: int
    packed: int
    size: int
    crc: int
    method: int


class Opened(NamedTuple):
    """A stream of unpacked bytes, their number when it is known, and the name of the file for messages."""

    stream: io.BufferedReader
    size: int | None
    name: str


@contextlib.contextmanager
def open_packed(path: Path, member: str | None = None) -> Iterator[Opened]:
    """Open a file for reading; what it is, its first bytes tell.

    Args:
        path: a plain, gzip or zip file.
        member: the file that is wanted of a zip file; None is for its only `.txt`, `.vec` or `.bin` file.

    Raises:
        InputError: it is damaged, hostile, or not what its name says. Also raised while the stream is read.
    """
    with path.open("rb") as file:
        magic = file.read(len(ZIP_MAGIC))
        file.seek(0)
        expected = {".zip": ZIP_MAGIC, ".gz": GZIP_MAGIC}.get(path.suffix.lower(), b"")
        if not magic.startswith(expected):
            raise InputError(f"{path}: begins with {file.read(80)!r}, which is no {path.suffix} file")
        if magic == ZIP_MAGIC:
            found = find_member(read_directory(file, str(path)), str(path), member)
            stream = open_member(file, found, f"{path}/{found.name}")
            yield Opened(stream, found.size, f"{path.name}/{found.name}")
        elif magic.startswith(GZIP_MAGIC):
            yield Opened(_buffered(_GzipStream(file, str(path))), None, path.name)
        else:
            yield Opened(file, path.stat().st_size, path.name)


def check_whole(path: Path) -> None:
    """Raise an `InputError` if a zip file has no directory at its end, or a gzip file not its checksum.

    Of a plain file, its end tells nothing.
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
    """Return the files of a zip archive.

    Raises:
        InputError: it is no zip archive, or has an entry that is not to be trusted.
    """
    with _damage_told(name):
        file.seek(0, io.SEEK_END)
        _check_end(file, file.tell(), name)
        with zipfile.ZipFile(file) as archive:
            entries = sorted(archive.infolist(), key=lambda entry: entry.header_offset)
            ends = [*(entry.header_offset for entry in entries), archive.start_dir][1:]
    if len(entries) > MAX_ENTRIES:
        raise InputError(f"{name}: expected at most {MAX_ENTRIES} entries, got {len(entries)}")
    names = [entry.filename.rstrip("/").casefold() for entry in entries]
    for entry, end in zip(entries, ends, strict=True):
        problem = "repeats a name" if names.count(entry.filename.rstrip("/").casefold()) > 1 else _problem(entry, end)
        if problem:
            raise InputError(f"{name}/{entry.orig_filename}: {problem}")
    return [
        Member(e.filename, e.header_offset, end, e.compress_size, e.file_size, e.CRC, e.compress_type)
        for e, end in zip(entries, ends, strict=True)
        if not e.is_dir()
    ]


def find_member(members: list[Member], name: str, wanted: str | None) -> Member:
    """Return the member of that name, or the only one that may hold vectors.

    Raises:
        InputError: there is none, or more than one, or its compression is none that is known.
    """
    found = [m for m in members if m.name == wanted or (wanted is None and m.name.lower().endswith(TEXT_SUFFIXES))]
    if len(found) != 1:
        names = ", ".join(m.name for m in members if m.name.lower().endswith(TEXT_SUFFIXES)) or "none"
        raise InputError(
            f"{name}: expected {f'one named {wanted}' if wanted else 'exactly one text file'}, got {names}"
        )
    if found[0].method not in _METHODS:
        raise InputError(f"{name}/{found[0].name}: compression method {found[0].method} is not supported")
    return found[0]


def find_data(header: bytes, member: Member, name: str) -> int:
    """Return where a member's packed bytes begin, counted from its local header.

    Raises:
        InputError: the local header says something else than the directory.
    """
    if len(header) < _LOCAL_HEADER.size:
        raise InputError(f"{name}: is damaged: its local header is cut off")
    magic, _, flags, method, *_, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack_from(header)
    start = int(_LOCAL_HEADER.size + name_length + extra_length)
    in_header = header[_LOCAL_HEADER.size : _LOCAL_HEADER.size + name_length]
    same_name = in_header.decode("utf-8" if flags & 0x800 else "cp437", "replace") == member.name
    later_or_64 = flags & 8 or 0xFFFFFFFF in (packed, size)  # sizes follow the data, or stand in the extra field
    same_sizes = later_or_64 or (packed, size) == (member.packed, member.size)
    if magic != ZIP_MAGIC or method != member.method or flags & 1 or not same_name or not same_sizes:
        raise InputError(f"{name}: is damaged: its local header and the directory of the archive disagree")
    if member.start + start + member.packed > member.end:
        raise InputError(f"{name}: overlaps with what follows it")
    return start


def open_member(file: BinaryIO, member: Member, name: str) -> io.BufferedReader:
    """Return a stream of a member's bytes that raises `InputError` when they are not what the archive says."""
    file.seek(member.start)
    header = file.read(min(_LOCAL_HEADER.size + 2 * 0xFFFF, member.end - member.start))
    file.seek(member.start + find_data(header, member, name))
    return _buffered(_MemberStream(file, member, name))


class _UnpackedStream(io.RawIOBase):
    """Unpacked bytes, counted."""

    _size = 0

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size


class _MemberStream(_UnpackedStream):
    """The bytes of one member. Counts what goes in and what comes out; the directory has to be right about both."""

    def __init__(self, file: BinaryIO, member: Member, name: str) -> None:
        self._file, self._member, self._name = file, member, name
        self._inflater = zlib.decompressobj(-zlib.MAX_WBITS) if member.method == zipfile.ZIP_DEFLATED else None
        self._left, self._crc = member.packed, 0
        self._input = b""

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _damage_told(self._name):
            data = self._next(len(buffer))
        self._size += len(data)
        self._crc = zlib.crc32(data, self._crc)
        if self._size > self._member.size:
            raise InputError(f"{self._name}: unpacks to more than the {self._member.size:,} bytes that it declares")
        if not data:
            self._check_end()
        buffer[: len(data)] = data
        return len(data)

    def _next(self, most: int) -> bytes:
        if self._inflater is None:
            return self._take(most)
        while not self._inflater.eof:
            self._input = self._input or self._take(_CHUNK_BYTES)
            data = self._inflater.decompress(self._input, most)
            exhausted = not self._input
            self._input = self._inflater.unconsumed_tail
            if data or exhausted:
                return data
        return b""

    def _take(self, most: int) -> bytes:
        data = self._file.read(min(most, self._left))
        self._left -= len(data)
        return data

    def _check_end(self) -> None:
        whole = self._inflater is None or (self._inflater.eof and not self._inflater.unused_data)
        if self._size != self._member.size or self._left or not whole:
            raise InputError(
                f"{self._name}: is damaged: got {self._size:,} bytes, expected {self._member.size:,}"
                + ("" if self._size != self._member.size else " and the end of its data")
            )
        if self._crc != self._member.crc:
            raise InputError(
                f"{self._name}: is damaged: its CRC-32 is {self._crc:08x}, expected {self._member.crc:08x}"
            )


class _GzipStream(_UnpackedStream):
    """The bytes of a gzip file, as long as they are in proportion to what was read of it."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._unpacked, self._name = file, gzip.GzipFile(fileobj=file), name

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        with _damage_told(self._name):
            data = self._unpacked.read1(len(buffer))
        self._size += len(data)
        if self._size > _CHUNK_BYTES and self._size > MAX_RATIO * self._file.tell():
            raise InputError(f"{self._name}: unpacks to {self._size:,} bytes from {self._file.tell():,}")
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def _damage_told(name: str) -> Iterator[None]:
    """Tell the errors of the libraries that unpack as what they are: the file's."""
    try:
        yield
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError, ValueError) as error:
        raise InputError(f"{name}: is damaged: {error}") from error


def _check_end(file: BinaryIO, size: int, name: str) -> None:
    """Refuse a directory that is too large to be read, before it is."""
    file.seek(max(size - _END_RECORD.size - 0xFFFF, 0))
    tail = file.read()
    at = tail.rfind(b"PK\x05\x06")
    if at < 0 or len(tail) - at < _END_RECORD.size:
        raise zipfile.BadZipFile("it has no directory at its end")
    directory_bytes = _END_RECORD.unpack_from(tail, at)[5]
    if directory_bytes > MAX_DIRECTORY_BYTES:
        raise InputError(
            f"{name}: has a directory of {directory_bytes:,} bytes, expected at most {MAX_DIRECTORY_BYTES:,}"
        )


def _problem(entry: zipfile.ZipInfo, end: int) -> str | None:
    """Say why an entry is not to be trusted, if it is not."""
    name, mode = entry.orig_filename, entry.external_attr >> 16
    if entry.header_offset < 0:
        return "begins before the archive"
    if not name or name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        return "is an absolute name"
    if ".." in re.split(r"[/\\]", name) or not name.isprintable():
        return "leaves the archive's folder"
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 0x2041:
        return "is encrypted"
    if name.lower().endswith(_NESTED):
        return "is an archive inside the archive"
    if entry.header_offset + _LOCAL_HEADER.size + len(name.encode()) + entry.compress_size > end:
        return "overlaps with what follows it"
    if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        return f"unpacks to {entry.file_size:,} bytes from {entry.compress_size:,}"
    return None


def _buffered(stream: io.RawIOBase) -> io.BufferedReader:
    return io.BufferedReader(stream, _CHUNK_BYTES)
