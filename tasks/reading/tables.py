"""Parquet: a table with named and typed columns; a dotted name is a field of a struct."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.columns import find_column
from tasks.reading.rows import MAX_BLOCK_ROWS, Rows

_PARQUET_BUFFER = 1 << 20  # bytes; without a buffer, or with pre_buffer, Arrow reads whole columns of a row group


def find_schema(path: Path, _kind: str, _reading: Reading) -> pa.Schema:
    """Return all columns of a Parquet file."""
    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: expected a Parquet file, cannot read it: {error}") from error


def read_rows(path: Path, _kind: str, reading: Reading, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """Yield the rows of a Parquet file."""
    try:
        with pq.ParquetFile(path, buffer_size=_PARQUET_BUFFER, pre_buffer=False) as file:
            types = {name: _find_type(file.schema_arrow, name, path) for name in reading.columns}
            for name in reading.text_column:
                _check_text(types[name], name, path)
            class_names = find_class_names(file.schema_arrow, reading.label_column)
            groups = range(file.num_row_groups)
            total = sum(file.metadata.row_group(i).total_byte_size for i in groups)
            bytes_per_row = total / max(file.metadata.num_rows, 1)
            most = max(1, min(MAX_BLOCK_ROWS, int(byte_stream.BLOCK_BYTES / max(bytes_per_row, 1))))
            first = 1
            for batch in file.iter_batches(batch_size=most, columns=None if schema else sorted(reading.columns)):
                columns = {name: pa.chunked_array([_take_column(batch, name)]) for name in reading.columns}
                whole = schema and pa.Table.from_batches([batch])
                yield Rows(columns, {}, np.arange(first, first + len(batch)), len(batch), class_names, whole)
                first += len(batch)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: expected a Parquet file, cannot read it: {error}") from error


def _find_type(schema: pa.Schema, name: str, path: Path) -> pa.DataType:
    """Return the type of a column, or of a field of a struct by its dotted name; a column with the dots comes first."""
    if name not in schema.names and "." in name:
        first, *inner = name.split(".")
        kind = schema.field(first).type if schema.names.count(first) == 1 else pa.null()
        for part in inner:
            place = kind.get_field_index(part) if pa.types.is_struct(kind) else -1
            if place < 0:
                break
            kind = kind.field(place).type
        else:
            return kind
    header = schema.names if name in schema.names else _list_names(schema)
    return schema.field(find_column(header, name, path)).type


def _list_names(schema: pa.Schema) -> list[str]:
    """Return the names of all columns, and after them the dotted names of the fields of structs."""
    structs = [field for field in schema if pa.types.is_struct(field.type)]
    return [*schema.names, *(f"{field.name}.{inner.name}" for field in structs for inner in field.type.fields)]


def _check_text(kind: pa.DataType, name: str, path: Path) -> None:
    values = kind.value_type if pa.types.is_dictionary(kind) else kind
    is_text = pa.types.is_string(values) or pa.types.is_large_string(values) or pa.types.is_string_view(values)
    if not (is_text or pa.types.is_null(values)):
        inner = [f"{name}.{field.name}" for field in kind.fields] if pa.types.is_struct(kind) else []
        fields = f"; its fields are {', '.join(map(repr, inner))}" if inner else ""
        raise InputError(f"{path}: expected texts in the column {name!r} (corpus.text_column), got {kind}{fields}")


def _take_column(batch: pa.RecordBatch, name: str) -> pa.Array:
    if name in batch.schema.names:
        return batch.column(name)
    first, *inner = name.split(".")
    return pc.struct_field(batch.column(first), inner)


def find_class_names(schema: pa.Schema, column: str | None) -> tuple[str, ...]:
    """Return the names that the numbers of a column stand for, from the metadata that the library `datasets` writes."""
    try:
        feature = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        feature = feature[0] if isinstance(feature, list) else feature.get("feature", feature)
        names = feature["names"]
    except (KeyError, TypeError, AttributeError, IndexError, ValueError):
        return ()
    return tuple(map(str, names)) if isinstance(names, list) else ()
