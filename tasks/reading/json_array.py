"""A JSON file: an array of objects, read as a stream; or else an object per line."""

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.byte_stream import ByteStream
from tasks.reading.json_rows import FieldFinder, Objects, read_stream
from tasks.reading.packed import open_stream
from tasks.reading.rows import MAX_BLOCK_ROWS, Rows

_SPACE = re.compile(r"[ \t\r\n]*")
_MARGIN = 16  # characters; a cut number, word or escape is shorter
_SHOWN = 200  # characters of an element that is no object


def find_schema(path: Path, _kind: str, reading: Reading) -> pa.Schema:
    """Return the fields of all objects of a file, with types found in all values; objects and arrays are JSON."""
    objects = FieldFinder(path)
    for _ in _read(path, reading, objects):
        pass
    return objects.schema()


def read_rows(path: Path, _kind: str, reading: Reading, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """Yield the rows of a JSON file, block by block.

    Raises:
        InputError: it is neither an array nor objects on lines of their own, or the array is damaged.
    """
    return _read(path, reading, Objects(reading.columns, path, schema))


def _read(path: Path, reading: Reading, objects: Objects) -> Iterator[Rows]:
    with open_stream(path, reading.encoding) as stream:
        start = stream.buffer[stream.start :].lstrip(b" \t\r\n")
        if start.startswith(b"["):
            yield from _read_array(stream, objects)
            return
        _check_first_line(start, path)
        yield from read_stream(stream, objects)


def _check_first_line(start: bytes, path: Path) -> None:
    line, end, _ = start.partition(b"\n")
    try:
        if end:
            json.loads(line.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        raise InputError(
            f"{path}: expected a JSON array of objects, or an object on each line, got a first line that is neither: "
            f"{line[:80].decode('utf-8', 'replace')!r}"
        ) from None


def _read_array(stream: ByteStream, objects: Objects) -> Iterator[Rows]:
    elements = _Elements(stream)
    size = count = 0
    for value, line, source in elements:
        objects.add(value, line, source if isinstance(value, dict) else source[:_SHOWN])
        size, count = size + len(source), count + 1
        if size >= byte_stream.BLOCK_BYTES or count == MAX_BLOCK_ROWS:
            yield objects.take()
            size = count = 0
    yield objects.take()
    objects.check_names()


class _Elements:
    """Iterates over the elements of the array in a stream, each with its line and its JSON."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._decode = codecs.getincrementaldecoder("utf-8")("surrogateescape").decode
        self._text, self._at, self._line, self._ended = "", 0, 1, False

    def __iter__(self) -> Iterator[tuple[Any, int, str]]:
        self._expect("[")
        if self._peek() == "]":
            self._at += 1
        else:
            while True:
                self._peek()
                value, start = self._take_value()
                source = self._text[start : self._at]
                yield value, self._line, source
                self._line += source.count("\n")
                if self._expect(",]") == "]":
                    break
        if self._peek():
            raise self._damage("the end of the file")

    def _peek(self) -> str:
        """Return the next character that is not white space; empty at the end."""
        while True:
            found = _SPACE.match(self._text, self._at)
            end = found.end() if found else self._at
            self._line += self._text.count("\n", self._at, end)
            self._at = end
            if end < len(self._text) or not self._grow(0):
                return self._text[end : end + 1]

    def _expect(self, letters: str) -> str:
        found = self._peek()
        if not found or found not in letters:
            raise self._damage(" or ".join(letters))
        self._at += 1
        return found

    def _take_value(self) -> tuple[Any, int]:
        """Return the next value and where it begins; a value at the end of the buffer may go on after it."""
        more = byte_stream.BLOCK_BYTES
        while True:
            try:
                value, end = _DECODER.raw_decode(self._text, self._at)
                if end < len(self._text) or not self._grow(more):
                    start, self._at = self._at, end
                    return value, start
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self._text) - _MARGIN or error.msg.startswith("Unterminated string")
                if not is_cut or not self._grow(more):
                    self._line += self._text.count("\n", self._at, error.pos)
                    raise self._damage(f"an element ({error.msg})") from None
            except RecursionError:
                raise self._damage("an element that is nested less deeply") from None
            more *= 2

    def _grow(self, size: int) -> bool:
        """Read at least `size` more bytes; return whether there were any."""
        if self._ended:
            return False
        if len(self._text) - self._at > byte_stream.MAX_ROW_BYTES:
            raise self._damage(f"elements of at most {byte_stream.MAX_ROW_BYTES:,} bytes")
        size = max(size, byte_stream.BLOCK_BYTES)
        self._stream.fill(size)
        data = self._stream.take(size)
        self._ended = not data
        self._text = self._text[self._at :] + self._decode(data, self._ended)
        self._at = 0
        return not self._ended

    def _damage(self, expected: str) -> InputError:
        got = self._text[self._at : self._at + 40]
        return InputError(
            f"{self._stream.path}:{self._line}: expected {expected} in the JSON array, "
            f"got {repr(got) if got else 'the end of the file'}"
        )


_DECODER = json.JSONDecoder()
