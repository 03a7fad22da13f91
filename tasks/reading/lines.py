r"""Plain text to score: a text per line, blank lines included. Lines end at `\n`, `\r\n` or `\r`."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from tasks.reading import byte_stream
from tasks.reading.packed import open_stream
from tasks.reading.rows import MAX_BLOCK_ROWS, Column, Rows
from tasks.reading.value_types import TEXT, make_texts


def find_schema(_path: Path, _kind: str, reading: Reading) -> pa.Schema:
    """Return the columns: only the text."""
    return pa.schema([pa.field(reading.text_column[0], TEXT)])


def read_rows(path: Path, _kind: str, reading: Reading, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """Yield the lines of a file, block by block."""
    first = size = 0
    block: list[str] = []

    def take() -> Rows:
        columns: dict[str, Column] = dict.fromkeys(reading.columns, [None] * len(block))
        columns[reading.text_column[0]] = block
        lines = np.arange(first + 1, first + 1 + len(block))
        return Rows(columns, {}, lines, len(block), whole=schema and make_texts([block], schema))

    with open_stream(path, reading.encoding) as stream:
        for line in stream.lines():
            block.append(line.rstrip("\r\n"))
            size += len(line)
            if size >= byte_stream.BLOCK_BYTES or len(block) == MAX_BLOCK_ROWS:
                yield take()
                first, size, block = first + len(block), 0, []
    yield take()
