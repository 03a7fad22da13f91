r"""CSV and TSV: rows of fields with a separator between them.

A row is what Python's `csv` module reads. Lines end at `\n`, `\r\n` or `\r`. There are two parsers: Arrow's is fast,
and reads blocks whose quotes and line ends have only one meaning; Python's is careful, and reads the other blocks.
"""

import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.byte_stream import ByteStream
from tasks.reading.layout import Layout, find_layout, parse_rows
from tasks.reading.packed import open_stream
from tasks.reading.rows import Problem, Rows
from tasks.reading.swallowed import SwallowedLines
from tasks.reading.value_types import TEXT, clean, count_replaced, make_texts


class RegularBlock(NamedTuple):
    """Bytes of whole rows that have only one meaning.

    Attributes:
        data: the bytes.
        lines: int64[rows], the line at which each row begins.
        line_ends: int64, positions of the line ends in `data`.
        row_ends: int64, those at which rows end; blank lines count.
    """

    data: bytes
    lines: np.ndarray
    line_ends: np.ndarray
    row_ends: np.ndarray


def find_schema(path: Path, kind: str, reading: Reading) -> pa.Schema:
    """Return all columns of a file, which are texts."""
    return pa.schema([pa.field(clean(name), TEXT) for name in find_layout(path, kind, reading).header])


def read_rows(path: Path, kind: str, reading: Reading, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """Yield the rows of a file of CSV or TSV, block by block, each with the parser that can read it."""
    csv.field_size_limit(min(byte_stream.MAX_ROW_BYTES, sys.maxsize))
    layout = find_layout(path, kind, reading)
    trusted = reading.quoting != "auto" or layout.quoting != "standard"
    swallowed = None if trusted else SwallowedLines(layout, reading.label_column)
    with open_stream(path, reading.encoding) as stream:
        for _ in range(layout.skipped):
            next(stream.lines())
        if layout.has_header:
            next((row for row in parse_rows(stream.lines(), layout.separator, layout.quoting) if row), None)
        while stream.fill(byte_stream.BLOCK_BYTES) or stream.start < len(stream.buffer):
            block = _find_regular(stream, layout)
            rows = _parse_fast(block, layout, reading.label_column, swallowed, schema) if block else None
            if block and rows:
                stream.take(len(block.data))
                yield rows
            else:
                yield _parse_carefully(stream, layout, reading.label_column, swallowed, schema)


def resolve(path: Path, kind: str, reading: Reading) -> Reading:
    """Return how a file is read, with what was found in place of what is auto."""
    layout = find_layout(path, kind, reading)
    names = () if layout.has_header else layout.header
    found = {"separator": layout.separator, "quoting": layout.quoting, "encoding": layout.encoding}
    return reading.model_copy(update={"format": kind, "column_names": names, **found})


def _find_regular(stream: ByteStream, layout: Layout) -> RegularBlock | None:
    r"""Return the buffered bytes up to the last end of a row if they have only one meaning, else None.

    They do if every quote opens a field, closes a field, or is doubled inside a field, every `\r` is before a `\n`, and
    there is no backslash that may be an escape.
    """
    ahead = stream.buffer[stream.start :]
    if b"\x00" in ahead or ahead.count(b"\r") != ahead.count(b"\r\n"):
        return None
    if layout.quoting == "backslash" and b"\\" in ahead:
        return None
    data = np.frombuffer(ahead, np.uint8)
    quotes = np.zeros(0, np.int64) if layout.quoting == "none" else np.flatnonzero(data == ord('"'))
    line_ends = np.flatnonzero(data == ord("\n"))
    ends = line_ends[np.searchsorted(quotes, line_ends) % 2 == 0]  # drops line ends inside quoted fields
    cut = int(ends[-1]) + 1 if len(ends) else 0
    quotes = quotes[: np.searchsorted(quotes, cut)]
    edges = np.frombuffer(layout.separator.encode() + b'\r\n"', np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    before = data[np.maximum(opening - 1, 0)]
    opens = (opening == 0) | np.isin(before, edges)
    if not cut or not (opens.all() and np.isin(data[np.minimum(closing + 1, len(data) - 1)], edges).all()):
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    blank = (starts == ends) | ((starts + 1 == ends) & (data[starts] == ord("\r")))  # which no parser takes for a row
    lines = stream.line + np.searchsorted(line_ends, starts[~blank])
    return RegularBlock(ahead[:cut], lines, line_ends[: np.searchsorted(line_ends, cut)], ends)


def _parse_fast(
    block: RegularBlock,
    layout: Layout,
    label_column: str | None,
    swallowed: SwallowedLines | None,
    schema: pa.Schema | None,
) -> Rows | None:
    """Return the rows of a regular block, parsed by Arrow.

    None if a row is not `width` fields of UTF-8, or may have swallowed others.
    """
    quoted = layout.quoting != "none"
    names = [str(i) for i in range(layout.width)]
    wanted = {name: names[place] for name, place in layout.places.items()}
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(block.data),
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=max(len(block.data) // 2, 1 << 20)),
            parse_options=arrow_csv.ParseOptions(
                delimiter=layout.separator, quote_char='"' if quoted else False, newlines_in_values=quoted
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()),
                include_columns=names if schema else list(set(wanted.values())),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    if len(table) != len(block.lines):
        return None
    if swallowed:
        if label_column in wanted:
            swallowed.learn(pc.unique(table[wanted[label_column]]).to_pylist())
        if swallowed.may_be_in(block.data, block.line_ends, block.row_ends):
            return None
    columns = {name: table[column] for name, column in wanted.items()}
    return Rows(columns, {}, block.lines, len(table), whole=schema and table.rename_columns(schema.names))


def _parse_carefully(
    stream: ByteStream,
    layout: Layout,
    label_column: str | None,
    swallowed: SwallowedLines | None,
    schema: pa.Schema | None,
) -> Rows:
    """Return the rows that begin in the next block, parsed by Python, with the problems of odd rows."""
    kept = range(layout.width) if schema else list(layout.places.values())
    found = list(_take_rows(stream, layout, kept))
    if swallowed and label_column in layout.places:
        place = kept.index(layout.places[label_column or ""])
        swallowed.learn(row.values[place] for row in found if row.values)
    rows: list[Sequence[str | None]] = []
    problems: dict[int, Problem] = {}
    lines: list[int] = []
    nothing: Sequence[str | None] = [None] * len(kept)
    for row in found:
        if swallowed and swallowed.look_swallowed(row.lines):
            for number, line in enumerate(row.lines, row.line):
                if line.strip("\r\n"):
                    problems[len(rows)] = Problem("swallowed_by_quote", line.rstrip("\r\n"))
                    rows.append(nothing)
                    lines.append(number)
            continue
        if row.values is None:
            problems[len(rows)] = Problem("wrong_number_of_fields", row.excerpt)
        rows.append(nothing if row.values is None else row.values)
        lines.append(row.line)
    values = list(zip(*rows, strict=True)) if rows else [()] * len(kept)
    columns = {name: values[kept.index(place)] for name, place in layout.places.items()}
    whole = schema and make_texts(values, schema)
    replaced = count_replaced(values, schema.names) if schema else {}
    return Rows(columns, problems, np.array(lines, np.int64), len(rows), whole=whole, replaced=replaced)


class _CarefulRow(NamedTuple):
    """A row, with as little as is needed later.

    Attributes:
        values: the fields that are kept; None if the row has another number of fields.
        excerpt: all fields, if the row has another number of them.
        lines: the lines of the file that it is on, if there are several.
        line: number of the first.
    """

    values: list[str] | None
    excerpt: str
    lines: list[str]
    line: int


def _take_rows(stream: ByteStream, layout: Layout, kept: Sequence[int]) -> Iterator[_CarefulRow]:
    """Yield the rows that begin in the next block, with the fields at the positions kept; blank lines are left out."""
    target, size = min(len(stream.buffer) - stream.start, byte_stream.BLOCK_BYTES), 0
    line, taken = stream.line, list[str]()

    def lines() -> Iterator[str]:
        nonlocal size
        for text in stream.lines():
            size += len(text)
            if size > byte_stream.MAX_ROW_BYTES + target:
                raise InputError(
                    f"{stream.path}:{line}: expected rows of at most {byte_stream.MAX_ROW_BYTES:,} bytes, got a longer "
                    "one that begins here; corpus.quoting=none takes quotes as they are; is a quote not closed?"
                )
            taken.append(text)
            yield text

    try:
        for fields in parse_rows(lines(), layout.separator, layout.quoting):
            if fields:
                right = len(fields) == layout.width
                values = [fields[place] for place in kept] if right else None
                excerpt = "" if right else layout.separator.join(fields)
                yield _CarefulRow(values, excerpt, taken.copy() if len(taken) > 1 else [], line)
            taken.clear()
            line = stream.line
            if size >= target:
                break
    except csv.Error as error:
        raise InputError(
            f"{stream.path}:{line}: {error}; corpus.quoting=none takes quotes as they are; is a quote not closed?"
        ) from None
