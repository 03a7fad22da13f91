"""Parquet: a table with named and typed columns."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.columns import find_column
from tasks.reading.rows import MAX_BLOCK_ROWS, Rows

_PARQUET_BUFFER = 1 << 20  # bytes; without a buffer, or with pre_buffer, Arrow reads whole columns of a row group


def read_rows(path: Path, _kind: str, reading: Reading) -> Iterator[Rows]:
    """Yield the rows of a Parquet file."""
    try:
        with pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as file:
            for name in reading.columns:
                find_column(file.schema_arrow.names, name, path)
            class_names = find_class_names(file.schema_arrow, reading.label_column)
            groups = range(file.num_row_groups)
            total = sum(file.metadata.row_group(i).total_byte_size for i in groups)
            bytes_per_row = total / max(file.metadata.num_rows, 1)
            most = max(1, min(MAX_BLOCK_ROWS, int(byte_stream.BLOCK_BYTES / max(bytes_per_row, 1))))
            first = 1
            for batch in file.iter_batches(batch_size=most, columns=sorted(reading.columns)):
                columns = {name: pa.chunked_array([batch.column(name)]) for name in reading.columns}
                yield Rows(columns, {}, np.arange(first, first + len(batch)), len(batch), class_names)
                first += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: expected a Parquet file, cannot read it: {error}") from error


def find_class_names(schema: pa.Schema, column: str | None) -> tuple[str, ...]:
    """Return the names that the numbers of a column stand for, from the metadata that the library `datasets` writes."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        names = feature["names"]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
