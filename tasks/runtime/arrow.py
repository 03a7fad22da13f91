"""Columns of Arrow tables as single arrays and matrices, without a copy if they have a single chunk."""

import numpy as np
import pyarrow as pa


def whole_column(column: pa.ChunkedArray) -> pa.Array:
    """Return a column as one array; `combine_chunks` would copy even a single chunk."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def as_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a fixed-size list column of float32 as a matrix float32[rows, size]."""
    parts = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
