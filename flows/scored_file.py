"""The files that scoring writes: the rows with their answers, and beside it the rows without one.

Both are written under temporary names and get their own when all is written. In CSV, texts that a spreadsheet would run
as a formula get an apostrophe in front; Parquet keeps every text as it is.
"""

import contextlib
import csv
import json
import os
from collections.abc import Iterator, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.errors import InputError, StoreError
from tasks.runtime.escaping import escape_cell

Answer = dict[str, Any]
_EXCERPT = 80  # characters of a rejected text


class ScoredFile:
    """Writes rows and their answers, block by block.

    Attributes:
        rows: number of rows written.
        rejected: number of rows without an answer that were written to the file beside it.
    """

    def __init__(self, path: Path, file: TextIOWrapper, rejected: TextIOWrapper) -> None:
        self._path, self._file = path, file
        self.rows = self.rejected = 0
        self._labels: Sequence[str] = ()
        self._names: list[str] = []
        self._parquet: pq.ParquetWriter | None = None
        self._cells = csv.writer(file, lineterminator="\n")
        self._rejected_cells = csv.writer(rejected, lineterminator="\n")

    def start(self, schema: pa.Schema, labels: Sequence[str]) -> None:
        """Take the columns of the rows and the names of the classes; call it once, before any row."""
        self._labels = labels
        own = [pa.field("label", pa.string()), *(pa.field(n, pa.float64()) for n in ("score", *self._classes()))]
        self._names = name_columns(schema.names, [field.name for field in own])
        fields = [field.with_name(name) for field, name in zip(schema, self._names, strict=True)]
        kept = {k: v for k, v in (schema.metadata or {}).items() if k == b"pandas" and self._names == schema.names}
        whole = pa.schema([*fields, *own], metadata=kept)
        with write_errors(self._path):
            if self._path.suffix == ".parquet":
                self._parquet = pq.ParquetWriter(self._file.buffer, whole)
            else:
                self._cells.writerow([escape_cell(name) for name in whole.names])
            self._rejected_cells.writerow(["file", "line", "reason", "text"])
        self._schema = whole

    def write(self, table: pa.Table, answers: Sequence[Answer | None]) -> None:
        """Write rows with their answers; None stands for a row without one."""
        columns = [
            pa.array([answer and answer["label"] for answer in answers], pa.string()),
            pa.array([answer and answer["score"] for answer in answers], pa.float64()),
            *(
                pa.array([answer and answer["probabilities"][label] for answer in answers], pa.float64())
                for label in self._labels
            ),
        ]
        whole = pa.table([*table.columns, *columns], schema=self._schema)
        self.rows += len(table)
        with write_errors(self._path):
            if self._parquet:
                self._parquet.write_table(whole)
            else:
                self._cells.writerows(zip(*map(_make_cells, whole.columns), strict=True))

    def reject(self, file: str, rows: pa.Table) -> None:
        """Write rows without an answer: `line`, `reason` and `text`."""
        self.rejected += len(rows)
        with write_errors(self._path):
            for row in rows.to_pylist():
                text = escape_cell((row["text"] or "")[:_EXCERPT])
                self._rejected_cells.writerow([escape_cell(file), row["line"], row["reason"], text])

    def finish(self) -> None:
        """Write what is left to write."""
        if self._parquet:
            self._parquet.close()

    def abandon(self) -> None:
        """End a file that is not wanted any more, or finished."""
        with contextlib.suppress(OSError):
            self.finish()

    def _classes(self) -> list[str]:
        return [f"p_{label}" for label in self._labels]


@contextlib.contextmanager
def open_scored(path: Path) -> Iterator[ScoredFile]:
    """Open the files, and give them their names if the body ends without an error; else nothing is left of them.

    Raises:
        InputError: the name ends in neither .parquet nor .csv.
        StoreError: a file cannot be written.
    """
    if path.suffix not in (".parquet", ".csv"):
        raise InputError(f"{path}: expected a name that ends in .parquet or .csv")
    if path.is_dir():
        raise StoreError(f"{path}: cannot be written: it is a directory")
    places = (path, rejected_path(path))
    temporary, side = (place.with_name(f".{place.name}.{os.getpid()}.tmp") for place in places)
    with contextlib.ExitStack() as stack:
        for place in (temporary, side):
            stack.callback(place.unlink, missing_ok=True)
        with write_errors(path):
            files = [stack.enter_context(place.open("w", encoding="utf-8", newline="")) for place in (temporary, side)]
        scored = ScoredFile(path, *files)
        stack.callback(scored.abandon)
        yield scored
        with write_errors(path):
            scored.finish()
            for file in files:
                file.close()
            if scored.rejected:
                side.replace(places[1])
            else:
                places[1].unlink(missing_ok=True)  # of an earlier scoring
            temporary.replace(path)


def rejected_path(path: Path) -> Path:
    """Return the path of the file with the rows without an answer."""
    return path.with_name(f"{path.stem}-rejected.csv")


def name_columns(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return names for the columns of the input, all different and none of those that are taken.

    A column keeps its name unless a column of the answers, or a column before it, has it. Then it gets `input_` in
    front, as often as is needed for a name that no column has.
    """
    used, result = set(taken), list[str]()
    everything = used | set(names)
    for name in names:
        if name in used:
            while name in everything:
                name = f"input_{name}"
        used.add(name)
        everything.add(name)
        result.append(name)
    return result


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise StoreError in place of an error of the system."""
    try:
        yield
    except OSError as error:
        raise StoreError(f"{path}: cannot be written: {error.strerror or error}") from error


def _make_cells(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column for a CSV file."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        return [None if value is None else str(np.float32(value)) for value in column.to_pylist()]
    try:
        values = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pa.large_binary()).to_pylist()
    return [_make_cell(value) for value in values]


def _make_cell(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    elif isinstance(value, list | dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return escape_cell(value)
