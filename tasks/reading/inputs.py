"""The rows of files to score: all of their columns, in one schema, beside the texts to classify.

Takes the files that `sources.locate_files` found; yields `InputBlock`s, in the order of the rows.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading.blocks import KEPT, make_block
from tasks.reading.formats import drop_roles, find_schema, read_blocks, read_rows, resolve_reading
from tasks.reading.labels import parse_label
from tasks.reading.rows import Rows
from tasks.reading.sources import CorpusFile
from tasks.runtime.arrow import whole_column
from tasks.served.text import normalize_texts


class InputBlock(NamedTuple):
    """Rows of a file to score.

    Attributes:
        table: all columns of the rows that could be read.
        texts: large_string, the normalized text of each of these rows; null if it has none that can be classified.
        rejected: rows without a text and rows that could not be read: `line`, `reason`, `text`.
        undecodable: how many values of the other columns have bytes that are not in the encoding, by column.
    """

    table: pa.Table
    texts: pa.Array
    rejected: pa.Table
    undecodable: dict[str, int]


class InputFile(NamedTuple):
    """A file to score.

    Attributes:
        file: the file.
        reading: how it is read.
        found: the same with what was found in place of auto.
        own: its columns.
        schema: its columns, and those that its folder gives it.
    """

    file: CorpusFile
    reading: Reading
    found: Reading
    own: pa.Schema
    schema: pa.Schema


class Inputs:
    """Files to score.

    Attributes:
        files: the files.
        schema: the columns of all files; a file that lacks one has nulls in it.

    Raises:
        InputError: a file cannot be read, has no column with the text, or has a column of another type than others do.
    """

    def __init__(self, files: Sequence[CorpusFile], reading: Reading) -> None:
        self.files = [_open(file, reading) for file in files]
        self.schema = self.files[0].schema
        for other in self.files[1:]:
            self.schema = _unite(self.schema, other)

    def read(self, file: InputFile) -> Iterator[InputBlock]:
        """Yield the rows of one of the files, block by block."""
        path = Path(file.file.path)
        texts_only = file.reading.model_copy(update={"label_column": None})
        for rows in read_rows(path, file.file.kind, file.reading, file.file.constants, file.own):
            if rows.size:
                yield self._make_block(rows, texts_only, file)

    def _make_block(self, rows: Rows, reading: Reading, file: InputFile) -> InputBlock:
        block = make_block(rows, reading, file.file.path)
        text, reason = whole_column(block["text"]), whole_column(block["problem"])
        blank = pc.equal(pc.utf8_trim_whitespace(text), "").fill_null(False)
        for mask, name in ((pc.is_null(text), "null_text"), (blank, "empty_text")):
            reason = pc.coalesce(reason, pc.if_else(mask, name, pa.scalar(None, pa.string())))
        usable = pc.is_null(reason)
        bad = pc.invert(usable)
        rejected = pa.table({"line": block["line"], "reason": reason, "text": text}).filter(bad)
        table, texts = self._align(rows, file), pc.if_else(usable, text, pa.scalar(None, text.type))
        if rows.problems:
            was_read = np.ones(rows.size, bool)
            was_read[list(rows.problems)] = False
            table, texts = table.filter(pa.array(was_read)), texts.filter(pa.array(was_read))
        return InputBlock(table, _normalize(texts), rejected, _count_undecodable(rows, reading))

    def _align(self, rows: Rows, file: InputFile) -> pa.Table:
        """Return all columns of rows in the schema of all files."""
        whole = cast(pa.Table, rows.whole)
        constants = [pa.array([file.file.constants[f.name]] * rows.size, f.type) for f in _added(file)]
        table = pa.table([*whole.columns, *constants], schema=file.schema)
        if len(self.files) == 1:
            return table
        try:
            columns = [
                table[field.name].cast(field.type)
                if field.name in table.column_names
                else pa.nulls(rows.size, field.type)
                for field in self.schema
            ]
        except pa.ArrowInvalid as error:
            raise InputError(
                f"{file.file.path}: its values do not fit the columns of the other files: {error}; score each file on "
                "its own"
            ) from None
        return pa.table(columns, schema=self.schema)


def _added(file: InputFile) -> list[pa.Field]:
    return [file.schema.field(place) for place in range(len(file.own), len(file.schema))]


def _open(file: CorpusFile, reading: Reading) -> InputFile:
    path = Path(file.path)
    reading = drop_roles(path, file.kind, reading, file.constants)
    own = find_schema(path, file.kind, reading, file.constants)
    if not len(own):  # JSON without any field; a table without columns has no rows
        own = pa.schema([pa.field(reading.text_column[0], pa.large_string())])
    added = [pa.field(n, pa.large_string()) for n, v in file.constants.items() if v is not None and n not in own.names]
    found = resolve_reading(path, file.kind, reading, file.constants)
    return InputFile(file, reading, found, own, pa.schema([*own, *added], metadata=own.metadata))


def _unite(schema: pa.Schema, other: InputFile) -> pa.Schema:
    """Return the columns of two schemas, by name.

    Raises:
        InputError: a name is there twice in one of them, or types do not fit.
    """
    for names in (schema.names, other.schema.names):
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise InputError(
                f"{other.file.path}: files that are scored together need columns with different names, got "
                f"{repeated[0]!r} twice; score each file on its own"
            )
    try:
        return pa.unify_schemas(
            [schema.remove_metadata(), other.schema.remove_metadata()], promote_options="permissive"
        )
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise InputError(
            f"{other.file.path}: its columns do not fit those of the other files: {error}; score each file on its own"
        ) from None


def _count_undecodable(rows: Rows, reading: Reading) -> dict[str, int]:
    """Return how many values with bytes that are not in the encoding each column has, without those of the text.

    Text files have them replaced. In Parquet they stay as they are.
    """
    counts, whole = Counter(rows.replaced), cast(pa.Table, rows.whole)
    for name, column in zip(whole.column_names, whole.columns, strict=True):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            try:
                column.validate(full=True)
            except pa.ArrowInvalid:
                counts[name] += sum(map(_is_broken, column.cast(pa.large_binary()).to_pylist()))
    return {name: count for name, count in counts.items() if name not in reading.text_column}


def _is_broken(value: bytes | None) -> bool:
    try:
        (value or b"").decode()
    except UnicodeDecodeError:
        return True
    return False


def _normalize(texts: pa.Array) -> pa.Array:
    """Return texts in normalization form C, with their nulls."""
    if not texts.null_count:
        return normalize_texts(texts)
    there = texts.is_valid()
    return pc.replace_with_mask(texts, there, normalize_texts(texts.drop_null()))


class LabelledRows(NamedTuple):
    """The rows of labelled files that have a text.

    Attributes:
        texts: the normalized texts.
        labels: their labels; None for a row without one.
        columns: the values of each kept column.
        left_out: number of rows without a text, and of those that cannot be read, by reason.
    """

    texts: list[str]
    labels: list[str | None]
    columns: dict[str, list[str | None]]
    left_out: Counter[str]


def read_labelled(files: Sequence[CorpusFile], reading: Reading, *, blocks: int | None = None) -> LabelledRows:
    """Return the rows of files with their labels, to which the label map of the reading is applied.

    Args:
        files: the files.
        reading: how they are read.
        blocks: how many blocks of each file to read; None reads all.

    Raises:
        InputError: a file cannot be read, or lacks a column with the text, or the label if `reading` names one.
    """
    names = {parse_label(old): parse_label(new) for old, new in reading.label_map.items()}
    found = LabelledRows([], [], {name: [] for name in reading.keep_columns}, Counter())
    for file in files:
        for block in islice(read_blocks(Path(file.path), file.kind, reading, file.constants), blocks):
            blank = pc.equal(pc.utf8_trim_whitespace(block["text"]), "")
            reason = pc.coalesce(block["problem"], pc.if_else(pc.fill_null(blank, True), "empty_text", None))
            found.left_out.update(value for value in reason.to_pylist() if value is not None)
            rows = block.filter(reason.is_null())
            found.texts.extend(normalize_texts(whole_column(rows["text"])).to_pylist())
            found.labels.extend(names.get(label, label) for label in rows["label"].to_pylist())
            for name, values in found.columns.items():
                values.extend(rows[KEPT + name].to_pylist())
    return found
