"""Excel files (.xlsx): the rows of one sheet. openpyxl reads them; it is in the extra `xlsx`."""

import contextlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path
from typing import Any, TypeAlias
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.fetching.archives import read_directory
from tasks.reading.columns import find_column
from tasks.reading.rows import Rows
from tasks.reading.value_types import TEXT, ColumnTypes, make_column

_BLOCK_ROWS = 4096
_NumberedRows: TypeAlias = Iterator[tuple[int, tuple[Any, ...]]]


def find_schema(path: Path, _kind: str, reading: Reading) -> pa.Schema:
    """Return the columns of the header, and by their numbers those to the right of it, with types found in all rows."""
    with _open_rows(path, reading) as numbered:
        header, rows = _take_header(numbered, path, reading)
        found = ColumnTypes(path)
        for _, values in rows:
            for place, value in enumerate(values):
                found.add(place, value)
    types = found.find()
    names = [*header, *(str(i) for i in range(len(header) + 1, len(types) + 1))]
    return pa.schema([pa.field(name, types.get(place, TEXT)) for place, name in enumerate(names)])


def read_rows(path: Path, _kind: str, reading: Reading, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """Yield the rows of a sheet that are not blank; the line of a row is its number in the sheet.

    Raises:
        InputError: openpyxl is not installed, there is no such sheet or column, or the file cannot be read.
    """
    with _open_rows(path, reading) as numbered:
        yield from _make_rows(numbered, path, reading, schema)


@contextlib.contextmanager
def _open_rows(path: Path, reading: Reading) -> Iterator[_NumberedRows]:
    """Give the body the number and the values of each row that is not blank."""
    try:
        from openpyxl import load_workbook  # here because it is in an extra
    except ImportError:
        raise InputError(
            f"{path}: reading Excel files needs openpyxl; install it with: pip install 'gloveflow[xlsx]'"
        ) from None
    with path.open("rb") as file:
        read_directory(file, str(path))  # an Excel file is a zip archive, with the same dangers
        try:
            book = load_workbook(file, read_only=True, data_only=True)
            yield _iterate_rows(book, path, reading)
        except (BadZipFile, KeyError, ValueError, OSError, SyntaxError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: expected an Excel file, cannot read it: {error}") from error


def _iterate_rows(book: Any, path: Path, reading: Reading) -> _NumberedRows:
    """Yield number and values of each row that is not blank."""
    names = [sheet.title for sheet in book.worksheets]
    if reading.sheet is not None and reading.sheet not in names:
        raise InputError(
            f"{path}: expected a sheet {reading.sheet!r} (corpus.sheet), got {', '.join(map(repr, names))}"
        )
    sheet = book.worksheets[0 if reading.sheet is None else names.index(reading.sheet)]
    sheet.reset_dimensions()  # the size that the file states may be wrong
    for number, values in enumerate(sheet.iter_rows(values_only=True), 1):
        if any(value is not None and value != "" for value in values):
            yield number, values


def _take_header(numbered: _NumberedRows, path: Path, reading: Reading) -> tuple[list[str], _NumberedRows]:
    """Return the names of the columns, and the rows of values."""
    first = next(numbered, None)
    if first is None:
        raise InputError(f"{path}: expected a sheet with rows, got an empty one")
    if reading.header:
        return ["" if value is None else str(value).strip() for value in first[1]], numbered
    return list(reading.column_names) or [str(i) for i in range(1, len(first[1]) + 1)], chain([first], numbered)


def _make_rows(numbered: _NumberedRows, path: Path, reading: Reading, schema: pa.Schema | None) -> Iterator[Rows]:
    header, rows = _take_header(numbered, path, reading)
    places = {name: find_column(header, name, path) for name in reading.columns}
    while block := list(islice(rows, _BLOCK_ROWS)):
        columns = {name: _take_column(block, place) for name, place in places.items()}
        whole = schema and pa.table(
            [make_column(_take_column(block, place), kind) for place, kind in enumerate(schema.types)], schema=schema
        )
        yield Rows(columns, {}, np.array([number for number, _ in block], np.int64), len(block), whole=whole)


def _take_column(block: list[tuple[int, tuple[Any, ...]]], place: int) -> list[Any]:
    return [values[place] if place < len(values) else None for _, values in block]
