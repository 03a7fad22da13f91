"""Excel files (.xlsx): the rows of one sheet. openpyxl reads them; it is in the extra `xlsx`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.fetching.archives import read_directory
from tasks.reading.columns import find_column
from tasks.reading.rows import Rows

_BLOCK_ROWS = 4096


def read_rows(path: Path, _kind: str, reading: Reading) -> Iterator[Rows]:
    """Yield the rows of a sheet that are not blank; the line of a row is its number in the sheet.

    Raises:
        InputError: openpyxl is not installed, there is no such sheet or column, or the file cannot be read.
    """
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
            yield from _make_rows(_iterate_rows(book, path, reading), path, reading)
        except (BadZipFile, KeyError, ValueError, OSError, SyntaxError, TypeError, AttributeError) as error:
            raise InputError(f"{path}: expected an Excel file, cannot read it: {error}") from error


def _iterate_rows(book: Any, path: Path, reading: Reading) -> Iterator[tuple[int, tuple[Any, ...]]]:
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


def _make_rows(numbered: Iterator[tuple[int, tuple[Any, ...]]], path: Path, reading: Reading) -> Iterator[Rows]:
    first = next(numbered, None)
    if first is None:
        raise InputError(f"{path}: expected a sheet with rows, got an empty one")
    header = ["" if value is None else str(value).strip() for value in first[1]]
    if not reading.header:
        header = list(reading.column_names) or [str(i) for i in range(1, len(header) + 1)]
    places = {name: find_column(header, name, path) for name in reading.columns}
    block = [] if reading.header else [first]
    for row in numbered:
        block.append(row)
        if len(block) == _BLOCK_ROWS:
            yield _make_block(block, places)
            block = []
    yield _make_block(block, places)


def _make_block(block: list[tuple[int, tuple[Any, ...]]], places: dict[str, int]) -> Rows:
    columns = {
        name: [values[place] if place < len(values) else None for _, values in block] for name, place in places.items()
    }
    return Rows(columns, {}, np.array([number for number, _ in block], np.int64), len(block))
