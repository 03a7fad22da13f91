"""Files of scored rows: Parquet, CSV and JSON lines, written chunk by chunk.

In CSV, texts that a spreadsheet would run as a formula get an apostrophe in front; the other formats keep every text as
it is. JSON has no numbers that are not finite: they become null.
"""

import csv
import datetime
import decimal
import json
import math
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.runtime.escaping import escape_cell

Write = Callable[[Path, pa.Schema, Iterable[pa.Table]], None]


def write_parquet(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write rows to a Parquet file, a row group per chunk."""
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for table in tables:
            if len(table):
                writer.write_table(table)


def write_csv(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write rows to a CSV file with a header."""
    with path.open("w", encoding="utf-8", newline="") as file:
        cells = csv.writer(file, lineterminator="\n")
        cells.writerow([escape_cell(name) for name in schema.names])
        for table in tables:
            cells.writerows(zip(*([_make_cell(v) for v in list_values(c)] for c in table.columns), strict=True))


def write_jsonl(path: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write rows to a file of one JSON object per line."""
    with path.open("w", encoding="utf-8", newline="") as file:
        for table in tables:
            for row in zip(*map(list_values, table.columns), strict=True):
                cells = {name: simplify(value) for name, value in zip(schema.names, row, strict=True)}
                file.write(json.dumps(cells, ensure_ascii=False, allow_nan=False) + "\n")


def write_parts(folder: Path, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    """Write rows to a directory of Parquet files, one per chunk."""
    folder.mkdir()
    for number, table in enumerate(tables):
        write_parquet(folder / f"part-{number:05}.parquet", schema, [table])


WRITERS: dict[str, Write] = {"parquet": write_parquet, "csv": write_csv, "jsonl": write_jsonl, "directory": write_parts}


def list_values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column; a float32 is the shortest number that means it, broken texts are bytes."""
    if pa.types.is_float32(column.type) or pa.types.is_float16(column.type):
        return [None if value is None else float(str(np.float32(value))) for value in column.to_pylist()]
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return list(column.cast(pa.large_binary()).to_pylist())


def simplify(value: Any) -> Any:
    """Return a value as JSON has it."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, dict):
        return {str(key): simplify(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [simplify(inner) for inner in value]
    if isinstance(value, datetime.datetime | datetime.date | datetime.time):
        return value.isoformat()
    return int(value) if isinstance(value, decimal.Decimal) and value == value.to_integral_value() else str(value)


def _make_cell(value: Any) -> Any:
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    elif isinstance(value, list | dict):
        value = json.dumps(simplify(value), ensure_ascii=False)
    return escape_cell(value)
