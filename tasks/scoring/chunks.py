"""Chunks: consecutive rows of the input that are classified and committed together.

Where chunks end depends only on the input, so a scoring that goes on finds the same ones.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.reading.inputs import InputBlock, Inputs
from tasks.runtime.arrow import whole_column

CHUNK_ROWS = 1 << 14
CHUNK_BYTES = 4 << 20  # of text
REJECTED_ROWS = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("text", pa.large_string()),
    ]
)
EXCERPT = 80  # characters of a rejected text


class Chunk(NamedTuple):
    """Rows of the input.

    Attributes:
        table: all columns of the rows that could be read.
        texts: large_string, the text of each of these rows; null if it has none that can be classified.
        rejected: rows without an answer, in the schema `REJECTED_ROWS`.
        undecodable: how many values of other columns than the text are not in the encoding, by column.
    """

    table: pa.Table
    texts: pa.Array
    rejected: pa.Table
    undecodable: dict[str, int]


def read_chunks(inputs: Inputs) -> Iterator[Chunk]:
    """Yield the rows of all files, in order; an input without rows has one empty chunk."""
    return cut_chunks(_join_blocks(inputs), CHUNK_ROWS, CHUNK_BYTES)


def _join_blocks(inputs: Inputs) -> Iterator[Chunk]:
    """Yield chunks that are large enough; a block of the input has up to 8 MiB or 65,536 rows."""
    blocks: list[tuple[str, InputBlock]] = []
    rows = size = found = 0
    for file in inputs.files:
        for block in inputs.read(file):
            blocks.append((Path(file.file.path).name, block))
            rows += len(block.texts)
            size += block.texts.nbytes
            if rows >= CHUNK_ROWS or size >= CHUNK_BYTES:
                yield _join(blocks, inputs.schema)
                blocks, rows, size, found = [], 0, 0, found + 1
    if blocks or not found:
        yield _join(blocks, inputs.schema)


def cut_chunks(chunks: Iterable[Chunk], rows: int, size: int) -> Iterator[Chunk]:
    """Yield chunks of so many rows and bytes of text at most; one row may have more.

    The rejected rows of a chunk are in the first of its parts.
    """
    for chunk in chunks:
        ends = np.cumsum(pc.fill_null(pc.binary_length(chunk.texts), 0).to_numpy(zero_copy_only=False))
        start = 0
        while True:
            limit = (ends[start - 1] if start else 0) + size
            stop = min(max(start + 1, int(np.searchsorted(ends, limit, side="right"))), start + rows)
            yield Chunk(
                chunk.table.slice(start, stop - start),
                chunk.texts.slice(start, stop - start),
                chunk.rejected.slice(0, None if start == 0 else 0),
                chunk.undecodable if start == 0 else {},
            )
            if stop >= len(chunk.texts):
                break
            start = stop


def _join(blocks: list[tuple[str, InputBlock]], schema: pa.Schema) -> Chunk:
    tables = [block.table for _, block in blocks]
    texts = pa.chunked_array([block.texts for _, block in blocks], pa.large_string())
    rejected = [_name_rows(name, block.rejected) for name, block in blocks if len(block.rejected)]
    counts: Counter[str] = Counter()
    for _, block in blocks:
        counts.update(block.undecodable)
    return Chunk(
        pa.concat_tables(tables) if tables else schema.empty_table(),
        whole_column(texts),
        pa.concat_tables(rejected) if rejected else REJECTED_ROWS.empty_table(),
        dict(counts),
    )


def _name_rows(file: str, rows: pa.Table) -> pa.Table:
    texts = [text and text[:EXCERPT] for text in rows["text"].to_pylist()]
    columns = [
        pa.array([file] * len(rows), pa.string()),
        rows["line"],
        rows["reason"],
        pa.array(texts, pa.large_string()),
    ]
    return pa.table(columns, schema=REJECTED_ROWS)
