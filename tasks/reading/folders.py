"""A folder with one sub-folder per class and one file per document.

The documents of a sub-folder called `unsup`, `unsupervised` or `unlabelled` have no label.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.file_names import UNLABELLED_NAMES
from tasks.reading.packed import open_stream
from tasks.reading.rows import MAX_BLOCK_ROWS, Column, Rows


def read_rows(path: Path, _kind: str, reading: Reading) -> Iterator[Rows]:
    """Yield the documents of a folder, in the order of the names of their classes and files."""
    texts: list[str] = []
    labels: list[str | None] = []
    size = 0

    def block() -> Rows:
        columns: dict[str, Column] = dict.fromkeys(reading.columns, [None] * len(texts))
        columns[reading.text_column[0]] = texts
        if reading.label_column is not None:
            columns[reading.label_column] = labels
        return Rows(columns, {}, None, len(texts))

    for name, file in list_class_files(path).items():
        with open_stream(file, reading.encoding) as stream:
            stream.fill(sys.maxsize)
            texts.append(stream.buffer[stream.start :].decode("utf-8", "surrogateescape"))
        label = name.partition("/")[0]
        labels.append(None if label.lower() in UNLABELLED_NAMES else label)
        size += len(texts[-1])
        if size > byte_stream.BLOCK_BYTES or len(texts) == MAX_BLOCK_ROWS:
            yield block()
            texts, labels, size = [], [], 0
    yield block()


def list_class_files(path: Path) -> dict[str, Path]:
    """Return the path of each document in a folder with one sub-folder per class, sorted, by `<class>/<file>`.

    Raises:
        InputError: there are no documents.
    """
    files = {
        f"{folder.name}/{file.name}": file
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith((".", "__"))
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".")
    }
    if not files:
        raise InputError(f"{path}: expected one sub-folder per class with one file per document, got none")
    return files
