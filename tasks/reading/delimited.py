r"""CSV and TSV: rows of fields with a separator between them.

A row is what Python's `csv` module reads. Lines end at `\n`, `\r\n` or `\r`. There are two parsers: Arrow's is fast,
and reads blocks whose quotes and line ends have only one meaning; Python's is careful, and reads the other blocks.
"""

import csv
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from pyarrow import csv as arrow_csv

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.byte_stream import ByteStream
from tasks.reading.columns import find_column
from tasks.reading.rows import Problem, Rows


class Layout(NamedTuple):
    """How the fields of a file stand in its rows.

    Attributes:
        delimiter: what stands between two fields.
        width: number of fields of a row.
        places: position of each wanted column in a row, by name.
    """

    delimiter: str
    width: int
    places: Mapping[str, int]


class RegularBlock(NamedTuple):
    """Bytes of whole rows that have only one meaning, and int64[rows], the line at which each row begins."""

    data: bytes
    lines: np.ndarray


def read_rows(path: Path, kind: str, reading: Reading) -> Iterator[Rows]:
    """Yield the rows of a file of CSV or TSV, block by block, each with the parser that can read it."""
    delimiter = reading.separator if reading.separator != "auto" else "\t" if kind == "tsv" else ","
    csv.field_size_limit(min(byte_stream.MAX_ROW_BYTES, sys.maxsize))
    with path.open("rb") as file:
        stream = ByteStream(file, path, reading.encoding)
        header = _read_header(stream, delimiter, reading)
        places = {name: find_column(header, name, path) for name in reading.columns}
        layout = Layout(delimiter, len(header), places)
        while stream.fill(byte_stream.BLOCK_BYTES) or stream.start < len(stream.buffer):
            block = _find_regular(stream, delimiter)
            rows = _parse_fast(block, layout) if block else None
            if block and rows:
                stream.take(len(block.data))
                yield rows
            else:
                yield _parse_carefully(stream, layout)


def _read_header(stream: ByteStream, delimiter: str, reading: Reading) -> list[str]:
    """Return the names of the columns; the stream goes on after the header, if there is one."""
    start, line = stream.start, stream.line
    first = next(csv.reader(stream.lines(), delimiter=delimiter), [])
    if reading.header:
        return [name.strip() for name in first]
    stream.start, stream.line = start, line
    return list(reading.column_names) or [str(i) for i in range(1, len(first) + 1)]


def _find_regular(stream: ByteStream, delimiter: str) -> RegularBlock | None:
    r"""Return the buffered bytes up to the last end of a row if they have only one meaning, else None.

    They do if every quote opens a field, closes a field, or is doubled inside a field, and every `\r` is before a `\n`.
    """
    ahead = stream.buffer[stream.start :]
    if b"\x00" in ahead or ahead.count(b"\r") != ahead.count(b"\r\n"):
        return None
    data = np.frombuffer(ahead, np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    line_ends = np.flatnonzero(data == ord("\n"))
    ends = line_ends[np.searchsorted(quotes, line_ends) % 2 == 0]  # drops line ends inside quoted fields
    cut = int(ends[-1]) + 1 if len(ends) else 0
    quotes = quotes[: np.searchsorted(quotes, cut)]
    edges = np.frombuffer(delimiter.encode() + b'\r\n"', np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    before = data[np.maximum(opening - 1, 0)]
    opens = (opening == 0) | np.isin(before, edges)
    if not cut or not (opens.all() and np.isin(data[np.minimum(closing + 1, len(data) - 1)], edges).all()):
        return None
    starts = np.concatenate([[0], ends[:-1] + 1])
    blank = (starts == ends) | ((starts + 1 == ends) & (data[starts] == ord("\r")))  # which no parser takes for a row
    lines = stream.line + np.searchsorted(line_ends, starts[~blank])
    return RegularBlock(ahead[:cut], lines)


def _parse_fast(block: RegularBlock, layout: Layout) -> Rows | None:
    """Return the rows of a regular block, parsed by Arrow; None if a row is not `width` fields of UTF-8."""
    names = [str(i) for i in range(layout.width)]
    wanted = {name: names[place] for name, place in layout.places.items()}
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(block.data),
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=max(len(block.data) // 2, 1 << 20)),
            parse_options=arrow_csv.ParseOptions(delimiter=layout.delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()),
                include_columns=list(set(wanted.values())),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    if len(table) != len(block.lines):
        return None
    return Rows({name: table[column] for name, column in wanted.items()}, {}, block.lines, len(table))


def _parse_carefully(stream: ByteStream, layout: Layout) -> Rows:
    """Return the rows that begin in the next block, parsed by Python, with the problems of odd rows."""
    rows: list[list[str | None]] = []
    problems: dict[int, Problem] = {}
    lines_of_rows: list[int] = []
    target, size = min(len(stream.buffer) - stream.start, byte_stream.BLOCK_BYTES), 0

    def lines() -> Iterator[str]:
        nonlocal size
        for line in stream.lines():
            size += len(line)
            if size > byte_stream.MAX_ROW_BYTES + target:
                raise InputError(
                    f"{stream.path}: expected rows of at most {byte_stream.MAX_ROW_BYTES:,} bytes, got a longer one; "
                    "is a quote not closed?"
                )
            yield line

    reader = csv.reader(lines(), delimiter=layout.delimiter)
    line = stream.line
    try:
        for fields in reader:
            if fields:
                lines_of_rows.append(line)
            if len(fields) == layout.width:
                rows.append([fields[place] for place in layout.places.values()])
            elif fields:
                problems[len(rows)] = Problem("wrong_number_of_fields", layout.delimiter.join(fields))
                rows.append([None] * len(layout.places))
            line = stream.line
            if size >= target:
                break
    except csv.Error as error:
        raise InputError(f"{stream.path}:{line}: {error}; is a quote not closed?") from None
    columns = (
        dict(zip(layout.places, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(layout.places, ())
    )
    return Rows(columns, problems, np.array(lines_of_rows, np.int64), len(rows))
