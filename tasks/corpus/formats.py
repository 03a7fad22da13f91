r"""The formats of a corpus, read in blocks of rows: CSV, TSV, JSON lines, Parquet, a folder per class.

Reads one file, or one folder of classes, and yields Arrow tables of the schema `tasks.corpus.blocks.BLOCK`, in file
order. Memory is bounded by `byte_stream.BLOCK_BYTES`. Every row of the file is in a block, an unreadable one with its
problem; `tasks.corpus.reading` decides what to do with it.

A row is what Python's `csv` or `json` module reads. Lines of CSV end at `\n`, `\r\n` or `\r`, lines of JSON only at
`\n`. CSV has two parsers: Arrow's is fast, and reads blocks whose quotes and line ends have only one meaning; Python's
is careful, and reads the other blocks.
"""

import csv
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig
from tasks.corpus import byte_stream
from tasks.corpus.blocks import convert_block, make_block
from tasks.corpus.byte_stream import ByteStream

_PARQUET_BUFFER = 1 << 20  # bytes; without a buffer, or with pre_buffer, Arrow reads whole columns of a row group
MAX_BLOCK_ROWS = 1 << 16


def read_blocks(path: Path, kind: str, config: CorpusConfig) -> Iterator[pa.Table]:
    """Yield the rows of a file in order, as tables of the schema `BLOCK`.

    Args:
        path: a file, or a folder with one sub-folder per class.
        kind: `csv`, `tsv`, `jsonl`, `parquet` or `folder`.
        config: names of the columns and the encoding.

    Raises:
        InputError: a configured column is missing, the file is not in its format, or a row is too long.
    """
    columns = {
        role: name
        for role, name in (
            ("text", config.text_column),
            ("label", config.label_column),
            ("split", config.split_column),
            ("group", config.group_column),
            ("time", config.time_column),
        )
        if name is not None
    }
    if kind == "parquet":
        return _read_parquet(path, columns)
    if kind == "jsonl":
        return _read_json_lines(path, columns, config.encoding)
    if kind == "folder":
        return _read_folder(path, config.encoding)
    return _read_delimited(path, columns, config.encoding, delimiter="\t" if kind == "tsv" else ",")


def list_class_files(path: Path) -> dict[str, Path]:
    """Return the path of each document in a folder with one sub-folder per class, sorted, by `<class>/<file>`.

    Raises:
        InputError: there are no documents.
    """
    files = {
        f"{folder.name}/{file.name}": file
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith((".", "__"))
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".")
    }
    if not files:
        raise InputError(f"{path}: expected one sub-folder per class with one file per document, got none")
    return files


def _read_delimited(path: Path, columns: Mapping[str, str], encoding: str, *, delimiter: str) -> Iterator[pa.Table]:
    """Yield the rows of a file of CSV or TSV, block by block, each with the parser that can read it."""
    csv.field_size_limit(min(byte_stream.MAX_ROW_BYTES, sys.maxsize))
    with path.open("rb") as file:
        stream = ByteStream(file, path, encoding)
        header = [name.strip() for name in next(csv.reader(stream.lines(), delimiter=delimiter), [])]
        places = {role: _find_column(header, name, path) for role, name in columns.items()}
        while stream.fill(byte_stream.BLOCK_BYTES) or stream.start < len(stream.buffer):
            block = _find_regular(stream, delimiter)
            table = _parse_fast(block, len(header), places, delimiter=delimiter) if block else None
            if table is not None:
                stream.take(len(block))
                yield table
            else:
                yield _parse_carefully(stream, len(header), places, delimiter=delimiter)


def _find_regular(stream: ByteStream, delimiter: str) -> bytes:
    r"""Return the buffered bytes up to the last end of a row if they have only one meaning, else no bytes.

    They do if every quote opens a field, closes a field, or is doubled inside a field, and every `\r` is before a `\n`.
    """
    ahead = stream.buffer[stream.start :]
    if b"\x00" in ahead or ahead.count(b"\r") != ahead.count(b"\r\n"):
        return b""
    data = np.frombuffer(ahead, np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    ends = np.flatnonzero(data == ord("\n"))
    ends = ends[np.searchsorted(quotes, ends) % 2 == 0]  # drops line ends inside quoted fields
    cut = int(ends[-1]) + 1 if len(ends) else 0
    quotes = quotes[: np.searchsorted(quotes, cut)]
    edges = np.frombuffer(delimiter.encode() + b'\r\n"', np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    before = data[np.maximum(opening - 1, 0)]
    opens = (opening == 0) | np.isin(before, edges)
    if not (opens.all() and np.isin(data[np.minimum(closing + 1, len(data) - 1)], edges).all()):
        return b""
    return ahead[:cut]


def _parse_fast(block: bytes, width: int, places: Mapping[str, int], *, delimiter: str) -> pa.Table | None:
    """Return the rows of a regular block, parsed by Arrow; None if a row is not `width` fields of UTF-8."""
    names = [str(i) for i in range(width)]
    wanted = {role: names[place] for role, place in places.items()}
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(block),
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=max(len(block) // 2, 1 << 20)),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()),
                include_columns=list(set(wanted.values())),
                null_values=[],
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        return None
    return convert_block({role: table[name] for role, name in wanted.items()})


def _parse_carefully(stream: ByteStream, width: int, places: Mapping[str, int], *, delimiter: str) -> pa.Table:
    """Return the rows that begin in the next block, parsed by Python, with the problems of odd rows."""
    rows: list[list[Any]] = []
    problems: list[str | None] = []
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

    reader = csv.reader(lines(), delimiter=delimiter)
    try:
        for fields in reader:
            if len(fields) == width:
                rows.append([fields[place] for place in places.values()])
                problems.append(None)
            elif fields:
                rows.append([delimiter.join(fields), *[None] * (len(places) - 1)])
                problems.append("wrong_number_of_fields")
            if size >= target:
                break
    except csv.Error as error:
        message = f"{stream.path}: row {len(rows) + 1} of a block: {error}; is a quote not closed?"
        raise InputError(message) from None
    columns = dict(zip(places, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(places, ())
    return make_block(columns, problems)


def _read_json_lines(path: Path, columns: Mapping[str, str], encoding: str) -> Iterator[pa.Table]:
    seen: set[str] = set()
    with path.open("rb") as file:
        stream = ByteStream(file, path, encoding)
        size = byte_stream.BLOCK_BYTES
        while stream.fill(size) or stream.start < len(stream.buffer):
            cut = stream.buffer.rfind(b"\n", stream.start) + 1
            if cut == 0 and stream.fill(size := 2 * size):
                if size > byte_stream.MAX_ROW_BYTES:
                    raise InputError(f"{path}: expected lines of JSON, got {size:,} bytes without an end of line")
                continue
            size = byte_stream.BLOCK_BYTES
            block = stream.take((cut or len(stream.buffer)) - stream.start)
            yield _parse_json(block.decode("utf-8", "surrogateescape"), columns, seen)
    for name in columns.values() if seen else ():
        _find_column(sorted(seen), name, path)


def _parse_json(block: str, columns: Mapping[str, str], seen: set[str]) -> pa.Table:
    """Return the rows of a block of lines, and add the keys of their objects to `seen`."""
    rows: list[tuple[Any, ...]] = []
    problems: list[str | None] = []
    names = tuple(columns.values())
    for line in block.split("\n"):
        if not line or line.isspace():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            seen.update(values)
            rows.append(tuple([values.get(name) for name in names]))
            problems.append(None)
        else:
            rows.append((line, *[None] * (len(names) - 1)))
            problems.append("not_a_json_object")
    return make_block(
        dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(columns, ()), problems
    )


def _read_parquet(path: Path, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    try:
        with pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as file:
            for name in columns.values():
                _find_column(file.schema_arrow.names, name, path)
            bytes_per_row = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)) / max(
                file.metadata.num_rows, 1
            )
            rows = max(1, min(MAX_BLOCK_ROWS, int(byte_stream.BLOCK_BYTES / max(bytes_per_row, 1))))
            for batch in file.iter_batches(batch_size=rows, columns=sorted(set(columns.values()))):
                yield convert_block({role: pa.chunked_array([batch.column(name)]) for role, name in columns.items()})
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: expected a Parquet file, cannot read it: {error}") from error


def _read_folder(path: Path, encoding: str) -> Iterator[pa.Table]:
    texts: list[str] = []
    labels: list[str] = []
    size = 0
    for name, file in list_class_files(path).items():
        with file.open("rb") as opened:
            stream = ByteStream(opened, file, encoding)
            stream.fill(sys.maxsize)
            texts.append(stream.buffer[stream.start :].decode("utf-8", "surrogateescape"))
        labels.append(name.partition("/")[0])
        size += len(texts[-1])
        if size > byte_stream.BLOCK_BYTES or len(texts) == MAX_BLOCK_ROWS:
            yield make_block({"text": texts, "label": labels})
            texts, labels, size = [], [], 0
    yield make_block({"text": texts, "label": labels})


def _find_column(header: list[str], name: str, path: Path) -> int:
    """Return the place of a column, or raise an InputError that names the columns of the file."""
    if name not in header:
        found = f"columns {', '.join(map(repr, header))}" if header else "no header"
        raise InputError(f"{path}: expected a column {name!r}, got {found}")
    return header.index(name)
