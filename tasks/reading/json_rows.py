r"""JSON lines: an object per line. Lines end only at `\n`. A row is what Python's `json` module reads."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.byte_stream import ByteStream
from tasks.reading.columns import ABSENT, find_column, find_field, list_fields
from tasks.reading.packed import open_stream
from tasks.reading.rows import Problem, Rows
from tasks.reading.value_types import ColumnTypes, clean, count_replaced, make_column


def find_schema(path: Path, _kind: str, reading: Reading) -> pa.Schema:
    """Return the fields of all objects of a file, with types found in all values; objects and arrays are JSON."""
    objects = FieldFinder(path)
    with open_stream(path, reading.encoding) as stream:
        for _ in read_stream(stream, objects):
            pass
    return objects.schema()


def read_rows(path: Path, _kind: str, reading: Reading, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """Yield the rows of a file of JSON lines."""
    with open_stream(path, reading.encoding) as stream:
        yield from read_stream(stream, Objects(reading.columns, path, schema))


def read_stream(stream: ByteStream, objects: "Objects") -> Iterator[Rows]:
    """Yield the rows that are made of the objects in a stream of JSON lines."""
    size = byte_stream.BLOCK_BYTES
    while stream.fill(size) or stream.start < len(stream.buffer):
        cut = stream.buffer.rfind(b"\n", stream.start) + 1
        if cut == 0 and stream.fill(size := 2 * size):
            if size > byte_stream.MAX_ROW_BYTES:
                raise InputError(f"{stream.path}: expected lines of JSON, got {size:,} bytes without an end of line")
            continue
        size = byte_stream.BLOCK_BYTES
        first = stream.line
        block = stream.take((cut or len(stream.buffer)) - stream.start)
        for number, line in enumerate(block.decode("utf-8", "surrogateescape").split("\n"), first):
            if not line or line.isspace():
                continue
            try:
                value = json.loads(line)
            except (ValueError, RecursionError):
                value = None
            objects.add(value, number, line)
        yield objects.take()
    objects.check_names()


class Objects:
    """Makes rows of JSON objects, and remembers which of the wanted fields occurred.

    With a schema, the rows also have all fields.
    """

    def __init__(self, names: tuple[str, ...], path: Path, schema: pa.Schema | None = None) -> None:
        self._names, self._path, self._schema = names, path, schema
        self._whole: list[dict[str, Any]] = []
        self._nothing = (None,) * len(names)
        self._found: set[str] = set()
        self._fields: dict[str, None] = {}  # of the first object, for messages
        self._rows: list[tuple[Any, ...]] = []
        self._problems: dict[int, Problem] = {}
        self._lines: list[int] = []

    def add(self, value: Any, line: int, source: str) -> None:
        """Add a value that begins at a line; `source` is its JSON, for a value that is no object."""
        self._lines.append(line)
        if self._schema is not None:
            self._whole.append(_clean_names(value) if isinstance(value, dict) else {})
        if not isinstance(value, dict):
            self._problems[len(self._rows)] = Problem("not_a_json_object", source)
            self._rows.append(self._nothing)
            return
        row = [value[name] if name in value else find_field(value, name) for name in self._names]
        if len(self._found) < len(self._names):
            self._found.update(name for name, field in zip(self._names, row, strict=True) if field is not ABSENT)
            if len(self._fields) < 1000:
                self._fields.update(dict.fromkeys(list_fields(value)))
        self._rows.append(tuple([None if field is ABSENT else field for field in row]))

    def take(self) -> Rows:
        """Return the rows added since the last call."""
        rows, self._rows = self._rows, []
        problems, self._problems = self._problems, {}
        lines, self._lines = self._lines, []
        names = self._names
        columns = dict(zip(names, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(names, ())
        made = Rows(columns, problems, np.array(lines, np.int64), len(rows))
        return made if self._schema is None else self._add_whole(made, self._schema)

    def _add_whole(self, rows: Rows, schema: pa.Schema) -> Rows:
        whole, self._whole = self._whole, []
        fields = [[value.get(name) for value in whole] for name in schema.names]
        arrays = [make_column(values, kind) for values, kind in zip(fields, schema.types, strict=True)]
        return rows._replace(whole=pa.table(arrays, schema=schema), replaced=count_replaced(fields, schema.names))

    def check_names(self) -> None:
        """Raise an InputError if there were objects and none had one of the fields."""
        for name in self._names if self._fields else ():
            if name not in self._found:
                find_column(list(self._fields), name, self._path)


class FieldFinder(Objects):
    """Makes no rows of JSON objects, but finds all their fields."""

    def __init__(self, path: Path) -> None:
        super().__init__((), path)
        self._types = ColumnTypes(path)

    def add(self, value: Any, line: int, source: str) -> None:  # noqa: ARG002
        """Take the fields of an object into account."""
        for name, field in _clean_names(value).items() if isinstance(value, dict) else ():
            self._types.add(name, field)

    def schema(self) -> pa.Schema:
        """Return the fields found so far."""
        return pa.schema([pa.field(str(name), kind) for name, kind in self._types.find().items()])


def _clean_names(value: dict[str, Any]) -> dict[str, Any]:
    """Return an object whose names are texts: bytes that are not in the encoding become question marks."""
    return value if all(map(str.isascii, value)) else {clean(name): field for name, field in value.items()}
