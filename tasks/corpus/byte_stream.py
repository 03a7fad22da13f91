r"""The bytes of a text file, in UTF-8 whatever its encoding, with as much of them ahead as a reader asks for."""

import codecs
import io
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from pipeline_config.errors import InputError

BLOCK_BYTES = 8 << 20
MAX_ROW_BYTES = 256 << 20  # a longer row is taken for a quote that nobody closed
_LINE = re.compile(rb"\r\n|\n|\r")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class ByteStream:
    """The bytes of a text file in UTF-8, whatever its encoding, without a byte order mark.

    Bytes outside the encoding stay what they are or become the bytes of a lone surrogate: in both cases no UTF-8.

    Raises:
        InputError: there is no such encoding, or the file cannot be in it.
    """

    def __init__(self, file: BinaryIO, path: Path, encoding: str) -> None:
        self.path, self.encoding = path, encoding
        self._read: Callable[[int], bytes] = file.read
        if _codec(encoding) not in ("utf-8", "utf-8-sig"):
            text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
            self._read = lambda size: text.read(size).encode("utf-8", "surrogatepass")
        self.buffer = self._fetch(BLOCK_BYTES)
        self.start = len(_BYTE_ORDER_MARK) if self.buffer.startswith(_BYTE_ORDER_MARK) else 0

    def fill(self, size: int) -> bool:
        """Have at least `size` bytes ahead, if the file has them; tell whether it has."""
        parts = [self.buffer[self.start :]]
        have = len(parts[0])
        while have < size and (more := self._fetch(BLOCK_BYTES)):
            parts.append(more)
            have += len(more)
        if len(parts) > 1:
            self.buffer, self.start = b"".join(parts), 0
        return have >= size

    def take(self, size: int) -> bytes:
        """Return the next bytes, at most `size` of those that are ahead."""
        taken = self.buffer[self.start : self.start + size]
        self.start += len(taken)
        return taken

    def lines(self) -> Iterator[str]:
        """Yield lines with their ends, split as Python's `open(newline="")` does."""
        while True:
            found = _LINE.search(self.buffer, self.start)
            unsure = found is None or (found.group() == b"\r" and found.end() == len(self.buffer))
            if unsure and self._grow():
                continue
            if self.start == len(self.buffer):
                return
            end = len(self.buffer) if found is None else found.end()
            yield self.take(end - self.start).decode("utf-8", "surrogateescape")

    def _grow(self) -> bool:
        ahead = len(self.buffer) - self.start
        if ahead > MAX_ROW_BYTES:
            raise InputError(f"{self.path}: expected rows, got {ahead:,} bytes without an end of line")
        return self.fill(ahead + BLOCK_BYTES) or len(self.buffer) - self.start > ahead

    def _fetch(self, size: int) -> bytes:
        try:
            return self._read(size)
        except UnicodeError as error:
            raise InputError(
                f"{self.path}: is not in the encoding {self.encoding} (corpus.encoding): {error}"
            ) from None


def _codec(encoding: str) -> str:
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except LookupError:
        raise InputError(f"corpus.encoding: got {encoding!r}, which is no text encoding of Python's") from None
