"""The reader of each format, and one schema for the blocks of all.

`read_blocks` and `read_rows` take the configured `Reading`; `resolve_reading` says what they find in a file.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import delimited, folders, json_array, json_rows, spreadsheet, tables
from tasks.reading.blocks import make_block
from tasks.reading.columns import show_value
from tasks.reading.file_names import TEXT_FORMATS
from tasks.reading.packed import open_stream
from tasks.reading.rows import Rows

Read: TypeAlias = Callable[[Path, str, Reading], Iterator[Rows]]
_ROLES = ("label_column", "split_column", "group_column", "time_column")
_READERS: dict[str, Read] = {
    "csv": delimited.read_rows,
    "tsv": delimited.read_rows,
    "json": json_array.read_rows,
    "jsonl": json_rows.read_rows,
    "parquet": tables.read_rows,
    "xlsx": spreadsheet.read_rows,
    "folder": folders.read_rows,
}
_ENOUGH_ROWS = 20  # before a column of numbers is taken for the wrong one


def read_blocks(
    path: Path, kind: str, reading: Reading, constants: Mapping[str, str | None] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of a file in order, as tables of the schema `BLOCK`.

    Args:
        path: a file, or a folder with one sub-folder per class.
        kind: a format of `sources.CorpusFile`.
        reading: names of the columns, and how the file is read.
        constants: columns that have one value in the whole file, such as the label in the name of its folder.

    Raises:
        InputError: a configured column is missing, the file is not in its format, a row is too long, a label is a list
            or an object; or the text column of a labelled file holds something else than texts.
    """
    first = True
    for rows in read_rows(path, kind, reading, constants):
        block = make_block(rows, reading, path)
        if first and reading.label_column is not None:
            _check_texts(block, path, reading)
        first = first and not len(block)
        yield block


def read_rows(
    path: Path, kind: str, reading: Reading, constants: Mapping[str, str | None] | None = None
) -> Iterator[Rows]:
    """Yield the rows of a file in order, with the columns that `reading` names; the arguments are as above."""
    constants = constants or {}
    for rows in _READERS[kind](path, kind, _without(reading, constants)):
        same = {name: [constants[name]] * rows.size for name in reading.columns if name in constants}
        yield rows._replace(columns={**rows.columns, **same}) if same else rows


def _without(reading: Reading, constants: Mapping[str, str | None]) -> Reading:
    """Return the reading of a file that lacks the columns with one value."""
    return reading.model_copy(update={role: None for role in _ROLES if getattr(reading, role) in constants})


def resolve_reading(
    path: Path, kind: str, reading: Reading, constants: Mapping[str, str | None] | None = None
) -> Reading:
    """Return how a file is read: its format, and what was found for what is auto.

    Raises:
        InputError: as `read_blocks` does for the beginning of the file.
    """
    if kind in ("csv", "tsv"):
        in_file = delimited.resolve(path, kind, _without(reading, constants or {}))
        return in_file.model_copy(update={role: getattr(reading, role) for role in _ROLES})
    found = {"format": kind}
    if kind in TEXT_FORMATS:
        with open_stream(path, reading.encoding) as stream:
            found["encoding"] = stream.encoding
    return reading.model_copy(update=found)


def _check_texts(block: pa.Table, path: Path, reading: Reading) -> None:
    """Raise an InputError if the first texts of a file are all no texts, or all numbers."""
    first = block.select(["text", "problem"]).slice(0, _ENOUGH_ROWS).to_pylist()
    if len(first) < _ENOUGH_ROWS:
        return
    columns, example = " and ".join(map(repr, reading.text_column)), show_value(first[0]["text"] or "")
    if all(row["problem"] == "text_is_no_string" for row in first):
        raise InputError(
            f"{path}: expected texts in the column {columns} (corpus.text_column), got other values such as {example}; "
            "the field text of an object data has the name data.text"
        )
    if all(row["problem"] is None and _is_number(row["text"]) for row in first):
        raise InputError(
            f"{path}: expected texts in the column {columns} (corpus.text_column), got numbers such as {example}"
        )


def _is_number(text: str | None) -> bool:
    try:
        float(text or "")
    except ValueError:
        return False
    return True
