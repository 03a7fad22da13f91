r"""Read word vectors from GloVe's text format: a token, then `dim` decimal numbers, one space between.

Reads a binary stream, yields Arrow tables in file order with bounded memory. Lines are split at `\n` only
and the token is cut off from the right, because published files have tokens with spaces, no-break spaces and
U+0085. A block of lines goes through Arrow's CSV reader when that is sure to give the same rows as
`parse_line`; any block with an odd line goes through `parse_line`.

How odd lines are treated (every one is counted by reason):

| line | treatment |
|---|---|
| word2vec header (`400000 50`) as the first line | dropped: `header` |
| blank | dropped: `blank` |
| ends in `\r`, or UTF-8 byte order mark before the first token | repaired: `carriage_return`, `byte_order_mark` |
| spaces after the last number | repaired: `trailing_space` |
| fewer than `dim` numbers, or a field that is no decimal number | dropped: `not_a_vector` |
| NaN or infinity | dropped: `not_finite` |
| token empty | dropped: `empty_token` |
| token not UTF-8 | dropped: `undecodable` |
| token seen before | dropped: `duplicate` (the first one counts) |
"""

import re
from collections import Counter
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline_config.errors import InputError
from pipeline_config.schemas import DROPPED, vectors_schema

BLOCK_BYTES = 8 << 20
MAX_LINE_BYTES = 16 << 20  # 4096 numbers of 400 digits take a tenth of it; memory stays bounded
MAX_EXCERPTS = 1000  # dropped lines that are listed one by one; all are counted
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_HEADER = re.compile(rb"\d+ \d+\s*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DroppedLineError(ValueError):
    """A line that holds no usable vector; its argument is the reason."""


def parse_line(line: bytes, dim: int) -> tuple[str, np.ndarray]:
    """Return token and float32[dim] vector of one line.

    Raises:
        DroppedLineError: the line is unusable; see the table above for the reasons.
    """
    line = line.rstrip(b" ")
    if not line:
        raise DroppedLineError("blank")
    fields = line.rsplit(b" ", dim)
    if len(fields) != dim + 1 or not all(_NUMBER.fullmatch(field) for field in fields[1:]):
        raise DroppedLineError("not_a_vector")
    if not fields[0].strip(b" "):
        raise DroppedLineError("empty_token")
    with np.errstate(over="ignore"):
        vector = np.array([float(field) for field in fields[1:]]).astype(np.float32)
    if not np.isfinite(vector).all():
        raise DroppedLineError("not_finite")
    try:
        return fields[0].decode(), vector
    except UnicodeDecodeError:
        raise DroppedLineError("undecodable") from None


class GloveTextReader:
    """Iterate over the vectors of a stream as tables of `vectors_schema(dim)`.

    Args:
        stream: bytes of the text, decompressed.
        name: what to call the stream in messages.
        dim: values per vector.
        max_vectors: stop after this many; None reads all.

    After the iteration `lines`, `kept`, `dropped` and `repaired` hold the counts, `excerpts` the first
    dropped lines.

    Raises:
        InputError: the first vector does not have `dim` values, or a line is endless.
    """

    def __init__(self, stream: BinaryIO, *, name: str, dim: int, max_vectors: int | None = None) -> None:
        self.stream, self.name, self.dim, self.max_vectors = stream, name, dim, max_vectors
        self.lines = 0
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.excerpts: list[tuple[int, str, str]] = []
        self._seen: set[str] = set()

    def __iter__(self) -> Iterator[pa.Table]:
        rest = self._read_first_line()
        while block := self.stream.read(BLOCK_BYTES):
            block = rest + block
            cut = block.rfind(b"\n") + 1
            rest = block[cut:]
            if cut:
                yield from self._read_block(block[:cut])
            if self._room() == 0:
                return
            self._check_line_size(rest)
        if rest and not rest.endswith(b"\n"):
            self.repaired["no_final_newline"] += 1
            rest += b"\n"
        if rest:
            yield from self._read_block(rest)

    def dropped_table(self) -> pa.Table:
        """Return the first dropped lines: line number (from 1), reason, beginning of the line."""
        columns = list(zip(*self.excerpts, strict=True)) or [(), (), ()]
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, DROPPED, strict=True)], schema=DROPPED)

    def _room(self) -> int | None:
        return None if self.max_vectors is None else self.max_vectors - self.kept

    def _read_block(self, block: bytes) -> Iterator[pa.Table]:
        table = self._read_fast(block)
        if table is None:
            table = self._read_careful(block)
        self.kept += len(table)
        if len(table):
            yield table

    def _read_first_line(self) -> bytes:
        first = self.stream.readline(MAX_LINE_BYTES + 1)
        if first.startswith(_BYTE_ORDER_MARK):
            self.repaired["byte_order_mark"] += 1
            first = first.removeprefix(_BYTE_ORDER_MARK)
        if _HEADER.fullmatch(first):
            self.lines = 1
            self._drop("header", first.rstrip(b"\n"))
            first = self.stream.readline(MAX_LINE_BYTES + 1)
        self._check_line_size(first)
        self._check_dim(first.rstrip(b" \r\n"))
        return first

    def _check_dim(self, line: bytes) -> None:
        got = line.count(b" ")
        numbers = sum(1 for field in line.split(b" ")[-self.dim - 1 :] if _NUMBER.fullmatch(field))
        if line and (got < self.dim or (got > self.dim and numbers > self.dim)):
            raise InputError(f"{self.name}:{self.lines + 1}: expected {self.dim} values, got {got}")

    def _check_line_size(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            raise InputError(f"{self.name}:{self.lines + 1}: expected a line, got {len(line):,} bytes without an end")

    def _read_fast(self, block: bytes) -> pa.Table | None:
        """Return the rows by way of Arrow, or None when the block needs the careful road."""
        if any(odd in block for odd in (b"\r", b"\x00", b"\t")):  # Arrow trims tabs off numbers
            return None
        count = block.count(b"\n")
        names = [str(i) for i in range(self.dim + 1)]
        try:
            table = csv.read_csv(
                pa.BufferReader(block),
                read_options=csv.ReadOptions(column_names=names),
                parse_options=csv.ParseOptions(
                    delimiter=" ", quote_char=False, escape_char=False, ignore_empty_lines=False
                ),
                convert_options=csv.ConvertOptions(
                    column_types={"0": pa.binary(), **dict.fromkeys(names[1:], pa.float64())}, null_values=[]
                ),
            )
            tokens = table.column(0).combine_chunks().cast(pa.string())
        except pa.ArrowInvalid:
            return None
        with np.errstate(over="ignore"):  # by way of float64, as `parse_line` and torchtext round
            values = np.column_stack([column.to_numpy().astype(np.float32) for column in table.columns[1:]])
        words = tokens.to_pylist()
        new = set(words)
        if (
            len(table) != count
            or len(new) != count
            or not self._seen.isdisjoint(new)
            or not np.isfinite(values).all()
            or pc.any(pc.equal(tokens, "")).as_py()
        ):
            return None
        self._seen |= new
        rows = vectors_table(tokens, values).slice(0, self._room())
        self.lines += len(rows)
        return rows

    def _read_careful(self, block: bytes) -> pa.Table:
        words: list[str] = []
        rows: list[np.ndarray] = []
        for line in block[:-1].split(b"\n"):
            if len(words) == self._room():
                break
            self.lines += 1
            try:
                word, vector = parse_line(self._repair(line), self.dim)
                if word in self._seen:
                    raise DroppedLineError("duplicate")
            except DroppedLineError as reason:
                self._drop(str(reason), line)
                continue
            self._seen.add(word)
            words.append(word)
            rows.append(vector)
        values = np.stack(rows) if rows else np.empty((0, self.dim), np.float32)
        return vectors_table(pa.array(words, pa.string()), values)

    def _repair(self, line: bytes) -> bytes:
        if line.endswith(b"\r"):
            self.repaired["carriage_return"] += 1
            line = line[:-1]
        if line.endswith(b" ") and line.strip(b" "):
            self.repaired["trailing_space"] += 1
        return line

    def _drop(self, reason: str, line: bytes) -> None:
        self.dropped[reason] += 1
        if len(self.excerpts) < MAX_EXCERPTS:
            self.excerpts.append((self.lines, reason, line[:80].decode("utf-8", "replace")))


def vectors_table(tokens: pa.Array, values: np.ndarray) -> pa.Table:
    """Return tokens (string[V]) and their vectors (float32[V, dim]) as a table of `vectors_schema(dim)`."""
    schema = vectors_schema(values.shape[1])
    flat = pa.array(np.ascontiguousarray(values, np.float32).reshape(-1))
    return pa.table([tokens, pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type)], schema=schema)
