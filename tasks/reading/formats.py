"""The formats of a corpus: CSV, TSV, JSON lines, Parquet, a folder per class.

Reads one file, or one folder of classes, and yields its rows in blocks, in file order. Memory is bounded by
`byte_stream.BLOCK_BYTES`. Every row of the file is in a block, an unreadable one with its problem;
`tasks.corpus.documents` decides what to do with it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from tasks.reading import delimited, folders, json_rows, tables
from tasks.reading.blocks import make_block
from tasks.reading.rows import Rows

Read: TypeAlias = Callable[[Path, str, Reading], Iterator[Rows]]
_READERS: dict[str, Read] = {
    "csv": delimited.read_rows,
    "tsv": delimited.read_rows,
    "jsonl": json_rows.read_rows,
    "parquet": tables.read_rows,
    "folder": folders.read_rows,
}


def read_blocks(path: Path, kind: str, reading: Reading) -> Iterator[pa.Table]:
    """Yield the rows of a file in order, as tables of the schema `BLOCK`.

    Args:
        path: a file, or a folder with one sub-folder per class.
        kind: `csv`, `tsv`, `jsonl`, `parquet` or `folder`.
        reading: names of the columns and the encoding.

    Raises:
        InputError: a configured column is missing, the file is not in its format, a row is too long, or a label is
            a list or an object.
    """
    for rows in read_rows(path, kind, reading):
        yield make_block(rows, reading, path)


def read_rows(path: Path, kind: str, reading: Reading) -> Iterator[Rows]:
    """Yield the rows of a file in order, with the columns that `reading` names."""
    return _READERS[kind](path, kind, reading)
