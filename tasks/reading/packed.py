"""Open a text file for reading, unpacked if it is packed: gzip, bzip2, Zstandard, or zip with one data file.

The first bytes decide, not the name. Packed files are not trusted: the bounds are those of `tasks.fetching.archives`.
"""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa

from pipeline_config.errors import InputError
from tasks.fetching.archives import find_member, open_packed, read_directory
from tasks.fetching.zip_entries import check_ratio
from tasks.reading.byte_stream import ByteStream
from tasks.reading.file_names import FORMATS, TEXT_FORMATS

MEMBER_SUFFIXES = (*(suffix for suffix, kind in FORMATS.items() if kind in TEXT_FORMATS), ".txt")
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_BZIP2_MAGICS = (b"1AY&SY", b"\x17\x72\x45\x38\x50\x90")  # of the first block, or of the end of an empty file
_CHUNK_BYTES = 1 << 18


@contextlib.contextmanager
def open_stream(path: Path, encoding: str, block_bytes: int | None = None) -> Iterator[ByteStream]:
    """Open a text file, packed or not, as UTF-8.

    Args:
        path: the file.
        encoding: its encoding, or auto.
        block_bytes: bytes to read at once; None reads `byte_stream.BLOCK_BYTES`.

    Raises:
        InputError: the file is damaged or hostile, or not in its encoding. Also raised while the stream is read.
    """
    with open_bytes(path) as file:
        yield ByteStream(file, path, encoding, block_bytes)


def find_data_name(path: Path) -> str:
    """Return the name that says the format of a file: that of the data file in a zip archive, else its own.

    Raises:
        InputError: the zip archive is damaged or hostile, or does not have exactly one data file.
    """
    if path.suffix.lower() != ".zip":
        return path.name
    with path.open("rb") as file:
        return find_member(read_directory(file, str(path)), str(path), None, MEMBER_SUFFIXES).name


@contextlib.contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open a file, packed or not, as a stream of its unpacked bytes."""
    with path.open("rb") as file:
        magic = file.peek(10)
        codec = (
            "zstd"
            if magic.startswith(_ZSTD_MAGIC)
            else "bz2"
            if magic.startswith(b"BZh") and magic[4:10] in _BZIP2_MAGICS
            else None
        )
        if codec:
            yield cast(BinaryIO, io.BufferedReader(_UnpackedStream(file, codec, path), _CHUNK_BYTES))
            return
    expected = {".bz2": "bzip2", ".zst": "Zstandard", ".zstd": "Zstandard"}.get(path.suffix.lower())
    if expected:
        raise InputError(f"{path}: expected a file packed by {expected}, got one that begins with {magic[:10]!r}")
    with open_packed(path, suffixes=MEMBER_SUFFIXES) as opened:
        yield cast(BinaryIO, opened.stream)


class _UnpackedStream(io.RawIOBase):
    """The bytes of a file that is packed by bzip2 or Zstandard, refused once they are too many for its size."""

    def __init__(self, file: BinaryIO, codec: str, path: Path) -> None:
        self._file, self._path, self._size = file, path, 0
        self._stream = pa.CompressedInputStream(file, codec)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        try:
            data = self._stream.read(len(buffer))
        except OSError as error:
            raise InputError(f"{self._path}: is damaged: {error}") from error
        self._size += len(data)
        check_ratio(str(self._path), self._size, self._file.tell())
        buffer[: len(data)] = data
        return len(data)
