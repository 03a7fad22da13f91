"""The reader of each format, and one schema for the blocks of all.

`read_blocks` and `read_rows` take the configured `Reading`; `resolve_reading` says what they find in a file.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import delimited, folders, json_array, json_rows, lines, spreadsheet, tables
from tasks.reading.blocks import make_block
from tasks.reading.columns import show_value
from tasks.reading.file_names import TEXT_FORMATS
from tasks.reading.packed import open_stream
from tasks.reading.rows import Rows


class Format(NamedTuple):
    """How files of a format are read.

    Attributes:
        read_rows: yields rows; with a schema they have all columns.
        find_schema: returns this schema.
    """

    read_rows: Callable[[Path, str, Reading, pa.Schema | None], Iterator[Rows]]
    find_schema: Callable[[Path, str, Reading], pa.Schema]


_ROLES = ("label_column", "split_column", "group_column", "time_column")
_FORMATS = {
    "csv": Format(delimited.read_rows, delimited.find_schema),
    "tsv": Format(delimited.read_rows, delimited.find_schema),
    "json": Format(json_array.read_rows, json_array.find_schema),
    "jsonl": Format(json_rows.read_rows, json_rows.find_schema),
    "parquet": Format(tables.read_rows, tables.find_schema),
    "xlsx": Format(spreadsheet.read_rows, spreadsheet.find_schema),
    "folder": Format(folders.read_rows, folders.find_schema),
    "documents": Format(folders.read_rows, folders.find_schema),
    "txt": Format(lines.read_rows, lines.find_schema),
}
_ENOUGH_ROWS = 20  # before a column of numbers is taken for the wrong one


def read_blocks(
    path: Path, kind: str, reading: Reading, constants: Mapping[str, str | None] | None = None
) -> Iterator[pa.Table]:
    """Yield the rows of a file in order, as tables of the schema `BLOCK` with the kept columns after it.

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
    path: Path,
    kind: str,
    reading: Reading,
    constants: Mapping[str, str | None] | None = None,
    schema: pa.Schema | None = None,
) -> Iterator[Rows]:
    """Yield the rows of a file in order, with the columns that `reading` names; the arguments are as above.

    With the schema that `find_schema` gives for the file, they have all columns in `whole`, too.
    """
    constants = constants or {}
    for rows in _FORMATS[kind].read_rows(path, kind, _without(reading, constants), schema):
        same = {name: [constants[name]] * rows.size for name in reading.columns if name in constants}
        yield rows._replace(columns={**rows.columns, **same}) if same else rows


def find_schema(
    path: Path, kind: str, reading: Reading, constants: Mapping[str, str | None] | None = None
) -> pa.Schema:
    """Return all columns of a file, in its order; names can be there twice. JSON and Excel files are read for it.

    Raises:
        InputError: as `read_blocks` does.
    """
    return _FORMATS[kind].find_schema(path, kind, _without(reading, constants or {}))


def drop_roles(path: Path, kind: str, reading: Reading, constants: Mapping[str, str | None] | None = None) -> Reading:
    """Return the reading of a file to score, which needs only texts.

    A file of CSV or TSV keeps the label column if it has one, because labels help to notice swallowed rows.
    """
    only_texts = reading.model_copy(update={**dict.fromkeys(_ROLES), "keep_columns": ()})
    if kind not in ("csv", "tsv") or reading.label_column is None or reading.label_column in (constants or {}):
        return only_texts
    with_label = only_texts.model_copy(update={"label_column": reading.label_column})
    try:
        delimited.resolve(path, kind, with_label)
    except InputError:
        return only_texts
    return with_label


def _without(reading: Reading, constants: Mapping[str, str | None]) -> Reading:
    """Return the reading of a file that lacks the columns with one value."""
    left = tuple(name for name in reading.keep_columns if name not in constants)
    roles = {role: None for role in _ROLES if getattr(reading, role) in constants}
    return reading.model_copy(update={**roles, "keep_columns": left})


def resolve_reading(
    path: Path, kind: str, reading: Reading, constants: Mapping[str, str | None] | None = None
) -> Reading:
    """Return how a file is read: its format, and what was found for what is auto.

    Raises:
        InputError: as `read_blocks` does for the beginning of the file.
    """
    if kind in ("csv", "tsv"):
        in_file = delimited.resolve(path, kind, _without(reading, constants or {}))
        return in_file.model_copy(update={name: getattr(reading, name) for name in (*_ROLES, "keep_columns")})
    found = {"format": kind}
    if kind in (*TEXT_FORMATS, "txt"):
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
