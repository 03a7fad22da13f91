"""A folder with one sub-folder per class and one file per document; to be scored, also one of .txt files alone.

The documents of a sub-folder called `unsup`, `unsupervised` or `unlabelled` have no label.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading import byte_stream
from tasks.reading.file_names import UNLABELLED_NAMES
from tasks.reading.packed import open_stream
from tasks.reading.rows import MAX_BLOCK_ROWS, Column, Rows
from tasks.reading.value_types import TEXT, make_texts


def find_schema(_path: Path, _kind: str, reading: Reading) -> pa.Schema:
    """Return the columns: the name of the file, with that of its folder, and the text."""
    text = reading.text_column[0]
    return pa.schema([pa.field("file" if text != "file" else "file_name", TEXT), pa.field(text, TEXT)])


def read_rows(path: Path, kind: str, reading: Reading, schema: pa.Schema | None = None) -> Iterator[Rows]:
    """Yield the documents of a folder, in the order of the names of their classes and files."""
    if reading.keep_columns:
        raise InputError(
            f"{path}: expected a column {reading.keep_columns[0]!r} (corpus.keep_columns), got a folder of texts, "
            "which has no columns"
        )
    names: list[str] = []
    texts: list[str] = []
    labels: list[str | None] = []
    size = 0

    def block() -> Rows:
        columns: dict[str, Column] = dict.fromkeys(reading.columns, [None] * len(texts))
        columns[reading.text_column[0]] = texts
        if reading.label_column is not None:
            columns[reading.label_column] = labels
        return Rows(columns, {}, None, len(texts), whole=schema and make_texts([names, texts], schema))

    for name, file in list_texts(path, kind).items():
        with open_stream(file, reading.encoding) as stream:
            stream.fill(sys.maxsize)
            texts.append(stream.buffer[stream.start :].decode("utf-8", "surrogateescape"))
        names.append(name)
        label = name.partition("/")[0]
        labels.append(None if label.lower() in UNLABELLED_NAMES else label)
        size += len(texts[-1])
        if size > byte_stream.BLOCK_BYTES or len(texts) == MAX_BLOCK_ROWS:
            yield block()
            names, texts, labels, size = [], [], [], 0
    yield block()


def list_texts(path: Path, kind: str) -> dict[str, Path]:
    """Return the path of each document of a folder, by name, for the format `folder` or `documents`."""
    return list_documents(path) if kind == "documents" else list_class_files(path)


def list_documents(path: Path) -> dict[str, Path]:
    """Return the .txt files that lie in a folder itself, sorted, by name."""
    return {
        file.name: file
        for file in sorted(path.iterdir())
        if file.suffix.lower() == ".txt" and file.is_file() and not file.name.startswith(".")
    }


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
