r"""The formats a corpus comes in, read in blocks of rows: CSV, TSV, JSON lines, Parquet, a folder per class.

Reads one file (or class folder) and yields Arrow tables of the schema `BLOCK`, in file order, with memory
bounded by `BLOCK_BYTES`. Every row of a source is in a block, the unreadable ones with their problem; deciding
what to do with them is `tasks.corpus`'s business. A row is what Python's `csv` or `json` module makes of the
file, and lines of CSV end at `\n`, `\r\n` or `\r`, of JSON at `\n` alone. A block of CSV goes through Arrow's
reader when its quotes and line ends leave no room for two readings, and through Python's otherwise.
"""

import codecs
import csv
import io
import json
import math
import re
import sys
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig

BLOCK_BYTES = 8 << 20
MAX_ROW_BYTES = 256 << 20  # a longer row is taken for a quote that nobody closed
MAX_BLOCK_ROWS = 1 << 16
BLOCK = pa.schema(
    [
        pa.field("text", pa.large_string()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),
        pa.field("time", pa.float64()),
        pa.field("problem", pa.string()),
    ]
)
_LINE = re.compile(rb"\r\n|\n|\r")
_SURROGATE = re.compile("[\ud800-\udfff]")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_blocks(path: Path, kind: str, config: CorpusConfig) -> Iterator[pa.Table]:
    """Yield every row of a file in order, as tables of the schema `BLOCK`.

    Args:
        path: a file, or a folder with one sub-folder per class.
        kind: `csv`, `tsv`, `jsonl`, `parquet` or `folder`.
        config: names of the columns and the encoding.

    Raises:
        InputError: a configured column is not there, the file is not of its format, or a row has no end.
    """
    columns = {
        role: name
        for role, name in (
            ("text", config.text_column), ("label", config.label_column), ("split", config.split_column),
            ("group", config.group_column), ("time", config.time_column),
        ) if name is not None
    }  # fmt: skip
    if kind == "parquet":
        return _read_parquet(path, columns)
    if kind == "jsonl":
        return _read_json_lines(path, columns, config.encoding)
    if kind == "folder":
        return _read_folder(path, config.encoding)
    return _read_delimited(path, columns, config.encoding, "\t" if kind == "tsv" else ",")


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


def label_text(value: Any) -> str | None:
    """Return a label as text by rule: `1`, `1.0` and `"1"` are "1", true is "true", null and NaN are None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


def time_value(value: Any) -> float | None:
    """Return a moment as a number: a number as it is, a date or an ISO 8601 text in seconds since 1970 (UTC)."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            try:
                value = datetime.fromisoformat(value.strip())
            except ValueError:
                return None
    if isinstance(value, date) and not isinstance(value, datetime):
        value = datetime(value.year, value.month, value.day)
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def make_block(columns: Mapping[str, Sequence[Any]], problems: Sequence[str | None] | None = None) -> pa.Table:
    """Return rows as a table of the schema `BLOCK`.

    Args:
        columns: Python values of each column that there is, one per row.
        problems: why a row could not be read, None for the others; its text then shows what was there.
    """
    texts, problem = list(columns["text"]), list(problems or [None] * len(columns["text"]))
    texts_array = _text_array(texts, problem)
    return _block(texts_array, columns, problem)


class ByteStream:
    """The bytes of a text file in UTF-8, whatever its encoding, without a byte order mark.

    Bytes outside the encoding stay what they are or become the bytes of a lone surrogate: in both cases no UTF-8.

    Raises:
        InputError: there is no such encoding, or the file cannot be in it.
    """

    def __init__(self, file: BinaryIO, path: Path, encoding: str) -> None:
        self.path, self.encoding = path, encoding
        self._read: Callable[[int], bytes] = file.read
        if _codec(encoding) not in ("utf-8", "utf-8-sig"):
            text = io.TextIOWrapper(file, encoding=encoding, errors="surrogateescape", newline="")
            self._read = lambda size: text.read(size).encode("utf-8", "surrogatepass")
        self.buffer = self._fetch(BLOCK_BYTES)
        self.start = len(_BYTE_ORDER_MARK) if self.buffer.startswith(_BYTE_ORDER_MARK) else 0

    def fill(self, size: int) -> bool:
        """Have at least `size` bytes ahead, if the file has them; tell whether it has."""
        parts = [self.buffer[self.start :]]
        have = len(parts[0])
        while have < size and (more := self._fetch(BLOCK_BYTES)):
            parts.append(more)
            have += len(more)
        if len(parts) > 1:
            self.buffer, self.start = b"".join(parts), 0
        return have >= size

    def take(self, size: int) -> bytes:
        """Return the next bytes, at most `size` of those that are ahead."""
        taken = self.buffer[self.start : self.start + size]
        self.start += len(taken)
        return taken

    def lines(self) -> Iterator[str]:
        """Yield lines with their ends, split as Python's `open(newline="")` does."""
        while True:
            found = _LINE.search(self.buffer, self.start)
            unsure = found is None or (found.group() == b"\r" and found.end() == len(self.buffer))
            if unsure and self._grow():
                continue
            if self.start == len(self.buffer):
                return
            end = len(self.buffer) if found is None else found.end()
            yield self.take(end - self.start).decode("utf-8", "surrogateescape")

    def _grow(self) -> bool:
        ahead = len(self.buffer) - self.start
        if ahead > MAX_ROW_BYTES:
            raise InputError(f"{self.path}: expected rows, got {ahead:,} bytes without an end of line")
        return self.fill(ahead + BLOCK_BYTES) or len(self.buffer) - self.start > ahead

    def _fetch(self, size: int) -> bytes:
        try:
            return self._read(size)
        except UnicodeError as error:
            raise InputError(
                f"{self.path}: is not in the encoding {self.encoding} (corpus.encoding): {error}"
            ) from None


def _read_delimited(path: Path, columns: Mapping[str, str], encoding: str, delimiter: str) -> Iterator[pa.Table]:
    csv.field_size_limit(min(MAX_ROW_BYTES, sys.maxsize))
    with path.open("rb") as file:
        stream = ByteStream(file, path, encoding)
        header = [name.strip() for name in next(csv.reader(stream.lines(), delimiter=delimiter), [])]
        places = {role: _find_column(header, name, path) for role, name in columns.items()}
        while stream.fill(BLOCK_BYTES) or stream.start < len(stream.buffer):
            block = _regular_part(stream, delimiter)
            table = _parse_delimited(block, len(header), places, delimiter) if block else None
            if table is not None:
                stream.take(len(block))
                yield table
            else:
                yield _read_careful(stream, len(header), places, delimiter)


def _regular_part(stream: ByteStream, delimiter: str) -> bytes:
    r"""Return the bytes ahead up to the last end of a row, if they can be read in one way only, else none.

    That is so when every quote opens a field, closes one, or is doubled inside one, and no `\r` stands alone.
    """
    ahead = stream.buffer[stream.start :]
    if b"\x00" in ahead or ahead.count(b"\r") != ahead.count(b"\r\n"):
        return b""
    data = np.frombuffer(ahead, np.uint8)
    quotes = np.flatnonzero(data == ord('"'))
    ends = np.flatnonzero(data == ord("\n"))
    ends = ends[np.searchsorted(quotes, ends) % 2 == 0]  # the others are inside a quoted field
    cut = int(ends[-1]) + 1 if len(ends) else 0
    quotes = quotes[: np.searchsorted(quotes, cut)]
    edges = np.frombuffer(delimiter.encode() + b'\r\n"', np.uint8)
    opening, closing = quotes[0::2], quotes[1::2]
    before = data[np.maximum(opening - 1, 0)]
    opens = (opening == 0) | np.isin(before, edges)
    if not (opens.all() and np.isin(data[np.minimum(closing + 1, len(data) - 1)], edges).all()):
        return b""
    return ahead[:cut]


def _parse_delimited(block: bytes, width: int, places: Mapping[str, int], delimiter: str) -> pa.Table | None:
    """Return the rows of a regular part by way of Arrow, or None when one of them is odd."""
    names = [str(i) for i in range(width)]
    wanted = {role: names[place] for role, place in places.items()}
    try:
        table = arrow_csv.read_csv(
            pa.BufferReader(block),
            read_options=arrow_csv.ReadOptions(column_names=names, block_size=max(len(block) // 2, 1 << 20)),
            parse_options=arrow_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
            convert_options=arrow_csv.ConvertOptions(
                column_types=dict.fromkeys(names, pa.large_string()), include_columns=list(set(wanted.values())),
                null_values=[], strings_can_be_null=False,
            ),
        )  # fmt: skip
    except pa.ArrowInvalid:
        return None
    return _arrow_block({role: table[name] for role, name in wanted.items()})


def _read_careful(stream: ByteStream, width: int, places: Mapping[str, int], delimiter: str) -> pa.Table:
    """Return the rows that begin in the next block, by way of Python's reader."""
    rows: list[list[Any]] = []
    problems: list[str | None] = []
    target, size = min(len(stream.buffer) - stream.start, BLOCK_BYTES), 0

    def lines() -> Iterator[str]:
        nonlocal size
        for line in stream.lines():
            size += len(line)
            if size > MAX_ROW_BYTES + target:
                raise InputError(f"{stream.path}: got a row of more than {MAX_ROW_BYTES:,} bytes; is a quote open?")
            yield line

    reader = csv.reader(lines(), delimiter=delimiter)
    try:
        for fields in reader:
            if len(fields) == width:
                rows.append([fields[place] for place in places.values()])
                problems.append(None)
            elif fields:
                rows.append([delimiter.join(fields), *[None] * (len(places) - 1)])
                problems.append("wrong_number_of_fields")
            if size >= target:
                break
    except csv.Error as error:
        raise InputError(f"{stream.path}: row {len(rows) + 1} of a block: {error}; is a quote open?") from None
    columns = dict(zip(places, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(places, ())
    return make_block(columns, problems)


def _read_json_lines(path: Path, columns: Mapping[str, str], encoding: str) -> Iterator[pa.Table]:
    seen: set[str] = set()
    with path.open("rb") as file:
        stream = ByteStream(file, path, encoding)
        size = BLOCK_BYTES
        while stream.fill(size) or stream.start < len(stream.buffer):
            cut = stream.buffer.rfind(b"\n", stream.start) + 1
            if cut == 0 and stream.fill(size := 2 * size):
                if size > MAX_ROW_BYTES:
                    raise InputError(f"{path}: expected lines of JSON, got {size:,} bytes without an end of line")
                continue
            size = BLOCK_BYTES
            block = stream.take((cut or len(stream.buffer)) - stream.start)
            yield _parse_json(block.decode("utf-8", "surrogateescape"), columns, seen)
    for name in columns.values() if seen else ():
        _find_column(sorted(seen), name, path)


def _parse_json(block: str, columns: Mapping[str, str], seen: set[str]) -> pa.Table:
    rows: list[tuple[Any, ...]] = []
    problems: list[str | None] = []
    names = tuple(columns.values())
    for line in block.split("\n"):
        if not line or line.isspace():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            values = None
        if isinstance(values, dict):
            seen.update(values)
            rows.append(tuple([values.get(name) for name in names]))
            problems.append(None)
        else:
            rows.append((line, *[None] * (len(names) - 1)))
            problems.append("not_a_json_object")
    return make_block(dict(zip(columns, zip(*rows, strict=True), strict=True)) if rows else dict.fromkeys(columns, ()),
                      problems)  # fmt: skip


def _read_parquet(path: Path, columns: Mapping[str, str]) -> Iterator[pa.Table]:
    try:
        file = pq.ParquetFile(path)
        for name in columns.values():
            _find_column(file.schema_arrow.names, name, path)
        bytes_per_row = sum(
            file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)
        ) / max(file.metadata.num_rows, 1)  # fmt: skip
        rows = max(1, min(MAX_BLOCK_ROWS, int(BLOCK_BYTES / max(bytes_per_row, 1))))
        for batch in file.iter_batches(batch_size=rows, columns=sorted(set(columns.values()))):
            yield _arrow_block({role: pa.chunked_array([batch.column(name)]) for role, name in columns.items()})
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path}: is no readable Parquet file: {error}") from error


def _read_folder(path: Path, encoding: str) -> Iterator[pa.Table]:
    texts: list[str] = []
    labels: list[str] = []
    size = 0
    for name, file in list_class_files(path).items():
        with file.open("rb") as opened:
            stream = ByteStream(opened, file, encoding)
            stream.fill(sys.maxsize)
            texts.append(stream.buffer[stream.start :].decode("utf-8", "surrogateescape"))
        labels.append(name.partition("/")[0])
        size += len(texts[-1])
        if size > BLOCK_BYTES or len(texts) == MAX_BLOCK_ROWS:
            yield make_block({"text": texts, "label": labels})
            texts, labels, size = [], [], 0
    yield make_block({"text": texts, "label": labels})


def _arrow_block(columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """Return Arrow columns as a table of the schema `BLOCK`; odd ones go by way of Python values."""
    text = columns["text"]
    kind = text.type.value_type if pa.types.is_dictionary(text.type) else text.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    try:
        if is_text:
            text = text.cast(pa.large_string())
            text.validate(full=True)  # it may hold bytes that are no UTF-8
    except pa.ArrowInvalid:
        is_text, text = True, text.cast(pa.large_binary())
        values = [None if v is None else v.decode("utf-8", "surrogateescape") for v in text.to_pylist()]
        return make_block({role: c.to_pylist() for role, c in columns.items() if role != "text"} | {"text": values})
    if not is_text:
        return make_block({role: column.to_pylist() for role, column in columns.items()})
    return _block(text.combine_chunks(), columns, [None] * len(text))


def _block(text: pa.Array, columns: Mapping[str, Any], problem: list[str | None]) -> pa.Table:
    labels = _mapped(columns["label"], label_text)
    for i, label in enumerate(labels):
        if label is not None and not label.isascii() and _SURROGATE.search(label):
            labels[i] = _SURROGATE.sub("?", label)
            problem[i] = problem[i] or ("undecodable" if text[i].is_valid else None)
    rules: dict[str, Callable[[Any], Any]] = {"split": label_text, "group": label_text, "time": time_value}
    found = {
        role: _without_surrogates(_mapped(columns[role], rule)) if role in columns else [None] * len(text)
        for role, rule in rules.items()
    }
    arrays = [text, labels, found["split"], found["group"], found["time"], problem]
    return pa.table([a if isinstance(a, pa.Array) else pa.array(a, f.type) for a, f in zip(arrays, BLOCK, strict=True)],
                    schema=BLOCK)  # fmt: skip


def _without_surrogates(values: list[Any]) -> list[Any]:
    return [_SURROGATE.sub("?", v) if isinstance(v, str) and not v.isascii() else v for v in values]


def _mapped(values: Any, rule: Callable[[Any], Any]) -> list[Any]:
    """Apply a rule to every value, once per distinct one."""
    if isinstance(values, pa.ChunkedArray):
        values = values.to_pylist()
    known: dict[tuple[type, Hashable], Any] = {}
    results = []
    for value in values:
        try:
            key = (type(value), value)
            if key not in known:
                known[key] = rule(value)
            results.append(known[key])
        except TypeError:  # not hashable
            results.append(rule(value))
    return results


def _text_array(texts: list[Any], problem: list[str | None]) -> pa.Array:
    """Return texts as an Arrow array, after marking those that cannot be one."""
    try:
        if not any(isinstance(text, bytes) for text in texts):
            return pa.array(texts, pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError):
        pass
    for i, text in enumerate(texts):
        if text is None or (isinstance(text, float) and math.isnan(text)):
            texts[i] = None
        elif not isinstance(text, str):
            texts[i], problem[i] = repr(text), problem[i] or "text_is_no_string"
        if isinstance(texts[i], str) and _SURROGATE.search(texts[i]):
            texts[i], problem[i] = _SURROGATE.sub("?", texts[i]), problem[i] or "undecodable"
    return pa.array(texts, pa.large_string())


def _find_column(header: list[str], name: str, path: Path) -> int:
    if name not in header:
        raise InputError(f"{path}: no column {name!r}; it has {', '.join(map(repr, header)) or 'no header'}")
    return header.index(name)


def _codec(encoding: str) -> str:
    try:
        "".encode(encoding)
        return codecs.lookup(encoding).name
    except LookupError:
        raise InputError(f"corpus.encoding: got {encoding!r}, which is no text encoding of Python's") from None
