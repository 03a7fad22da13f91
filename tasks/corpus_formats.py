"""The formats a corpus comes in, read row by row: CSV, TSV, JSON lines, Parquet, a folder per class.

Every row of a source is yielded, the unreadable ones with the reason; deciding what to do with them is
`tasks.corpus`'s business.
"""

import codecs
import contextlib
import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig

_SUFFIXES = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class Row(NamedTuple):
    """One row of the source; `problem` names why it could not be read, if so."""

    text: Any
    label: Any
    split: Any = None
    problem: str | None = None


def read_rows(path: Path, kind: str, config: CorpusConfig) -> Iterator[Row]:
    """Yield every row of a source, in order, the unreadable ones with their problem.

    Raises:
        InputError: a configured column is not there, or the file is not of its format.
    """
    readers: dict[str, Callable[[Path, CorpusConfig], Iterator[Row]]] = {
        "csv": _read_delimited, "tsv": _read_delimited, "jsonl": _read_json_lines,
        "parquet": _read_parquet, "folder": _read_folder,
    }  # fmt: skip
    return readers[kind](path, config)


def detect_format(path: Path, wanted: str) -> str:
    """Return the format of a path: the wanted one, or with `auto` the one that its name tells.

    Raises:
        InputError: the name tells nothing, or a folder is there in place of a file.
    """
    kind = wanted if wanted != "auto" else "folder" if path.is_dir() else _SUFFIXES.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"corpus.source: {path}: cannot tell its format, set corpus.format (known: {', '.join(_SUFFIXES)})"
        )
    if (kind == "folder") != path.is_dir():
        raise InputError(
            f"corpus.source: {path}: expected a {'folder' if kind == 'folder' else 'file'} for format {kind}"
        )
    return kind


def list_class_files(path: Path) -> dict[str, Path]:
    """Return `<class>/<file>` and the path of each document of a folder, sorted.

    Raises:
        InputError: there is none.
    """
    files = {
        f"{folder.name}/{file.name}": file
        for folder in sorted(path.iterdir())
        if folder.is_dir() and not folder.name.startswith((".", "__"))
        for file in sorted(folder.iterdir())
        if file.is_file() and not file.name.startswith(".")
    }
    if not files:
        raise InputError(f"{path}: expected one sub-folder per class with a file per document, got none")
    return files


def _read_folder(path: Path, config: CorpusConfig) -> Iterator[Row]:
    for name, file in list_class_files(path).items():
        with _open_text(file, config, newline="") as text:
            yield Row(text.read(), name.partition("/")[0])


def _read_delimited(path: Path, config: CorpusConfig) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    delimiter = "\t" if detect_format(path, config.format) == "tsv" else ","
    with _open_text(path, config, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter)
        header = [name.strip() for name in next(reader, [])]
        text, label, split = (_column(header, name, path) for name in _columns(config))
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                yield Row(delimiter.join(fields), None, problem="wrong_number_of_fields")
            else:
                yield Row(fields[text or 0], fields[label or 0], None if split is None else fields[split])


def _read_json_lines(path: Path, config: CorpusConfig) -> Iterator[Row]:
    names = _columns(config)
    seen: Counter[str] = Counter()
    with _open_text(path, config, newline="\n") as file:
        for line in file:
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except (ValueError, RecursionError):
                values = None
            if not isinstance(values, dict):
                yield Row(line, None, problem="not_a_json_object")
                continue
            seen.update(values.keys())
            yield Row(*(None if name is None else values.get(name) for name in names))
    for name in names if seen else ():
        _column(list(seen), name, path)


def _read_parquet(path: Path, config: CorpusConfig) -> Iterator[Row]:
    names = _columns(config)
    try:
        file = pq.ParquetFile(path)
        for name in names:
            _column(file.schema_arrow.names, name, path)
        for batch in file.iter_batches(columns=[name for name in names if name is not None]):
            columns = [None if name is None else batch.column(name).to_pylist() for name in names]
            for i in range(batch.num_rows):
                yield Row(*(None if column is None else column[i] for column in columns))
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: is no readable Parquet file: {error}") from error


@contextlib.contextmanager
def _open_text(path: Path, config: CorpusConfig, *, newline: str) -> Iterator[TextIO]:
    """Open a text file, without its byte order mark; bytes that cannot be decoded become lone surrogates."""
    try:
        utf_8 = codecs.lookup(config.encoding).name == "utf-8"
        encoding = "utf-8-sig" if utf_8 else config.encoding
        file = path.open(encoding=encoding, errors="surrogateescape", newline=newline)
    except LookupError:
        raise InputError(f"corpus.encoding: got {config.encoding!r}, which is no text encoding of Python's") from None
    try:
        with file:
            yield file
    except UnicodeError as error:
        raise InputError(f"{path}: is not in the encoding {config.encoding} (corpus.encoding): {error}") from None


def _columns(config: CorpusConfig) -> tuple[str, str, str | None]:
    return config.text_column, config.label_column, config.split_column


def _column(header: list[str], name: str | None, path: Path) -> int | None:
    if name is None:
        return None
    if name not in header:
        raise InputError(f"{path}: no column {name!r}; it has {', '.join(map(repr, header)) or 'no header'}")
    return header.index(name)
