"""The bytes of a text file, converted to UTF-8, buffered as far ahead as a reader asks for."""

import codecs
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pipeline_config.errors import InputError

BLOCK_BYTES = 8 << 20
MAX_ROW_BYTES = 256 << 20  # a longer row is refused: most likely a quote is not closed
_LINE = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_MARKS = {  # in this order, since one begins with another
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class ByteStream:
    """The bytes of a text file, converted from its encoding to UTF-8, without a byte order mark.

    Bytes that the encoding does not have stay as they are or become the bytes of a lone surrogate. Neither is valid
    UTF-8, so that the reader can find the rows with such bytes.

    Attributes:
        buffer: bytes read from the file; those before `start` are taken.
        start: position in `buffer` of the next byte.
        line: number of the line, from 1, that the next byte is in.
        encoding: the encoding of the file; instead of auto the one that was found.

    Raises:
        InputError: there is no such encoding, or the file is not in it.
    """

    def __init__(self, file: BinaryIO, path: Path, encoding: str, block_bytes: int | None = None) -> None:
        if not isinstance(file, io.BufferedReader):
            file = io.BufferedReader(cast(io.RawIOBase, file))
        if encoding == "auto":
            first = file.peek(4)
            encoding = next((name for mark, name in _MARKS.items() if first.startswith(mark)), "utf-8")
        self.path, self.encoding = path, encoding
        self._block_bytes = block_bytes or BLOCK_BYTES
        self._read: Callable[[int], bytes] = file.read
        if _find_codec(encoding) not in ("utf-8", "utf-8-sig"):
            text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
            self._read = lambda size: text.read(size).encode("utf-8", "surrogatepass")
        self.buffer = self._fetch(self._block_bytes)
        self.start = len(_BYTE_ORDER_MARK) if self.buffer.startswith(_BYTE_ORDER_MARK) else 0
        self.line = 1

    def fill(self, size: int) -> bool:
        """Buffer at least `size` bytes that are not taken, and return whether the file has so many."""
        parts = [self.buffer[self.start :]]
        have = len(parts[0])
        while have < size and (more := self._fetch(self._block_bytes)):
            parts.append(more)
            have += len(more)
        if len(parts) > 1:
            self.buffer, self.start = b"".join(parts), 0
        return have >= size

    def take(self, size: int) -> bytes:
        r"""Return the next bytes of the buffer, at most `size`; their lines end at `\n`."""
        taken = self.buffer[self.start : self.start + size]
        self.start += len(taken)
        self.line += taken.count(b"\n")
        return taken

    def lines(self) -> Iterator[str]:
        """Yield lines with their line ends, split as Python's `open(newline="")` splits them."""
        while True:
            found = _LINE.search(self.buffer, self.start)
            incomplete = found is None or (found.group() == b"\r" and found.end() == len(self.buffer))
            if incomplete and self._grow():
                continue
            if self.start == len(self.buffer):
                return
            end = len(self.buffer) if found is None else found.end()
            line = self.buffer[self.start : end]
            self.start, self.line = end, self.line + 1
            yield line.decode("utf-8", "surrogateescape")

    def _grow(self) -> bool:
        """Buffer one more block, and return whether there was anything left to read."""
        ahead = len(self.buffer) - self.start
        if ahead > MAX_ROW_BYTES:
            raise InputError(f"{self.path}: expected lines, got {ahead:,} bytes without an end of line")
        return self.fill(ahead + self._block_bytes) or len(self.buffer) - self.start > ahead

    def _fetch(self, size: int) -> bytes:
        try:
            return self._read(size)
        except UnicodeError as error:
            raise InputError(
                f"{self.path}: expected text in the encoding {self.encoding} (corpus.encoding), got: {error}"
            ) from None


def _find_codec(encoding: str) -> str:
    """Return the name of Python's codec for a text encoding."""
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except LookupError:
        raise InputError(
            f"corpus.encoding: got {encoding!r}, expected a text encoding of Python such as utf-8 or latin-1"
        ) from None
