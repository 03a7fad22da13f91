r"""Read word vectors from GloVe's text format: a token, then `dim` decimal numbers, one space between.

Reads a binary stream, yields Arrow tables in file order with bounded memory. Lines are split at `\n` only
and the token is cut off from the right, because published files have tokens with spaces, no-break spaces and
U+0085. Blocks of lines are parsed side by side in threads. A block goes through Arrow's CSV reader when that
is sure to give the same rows as `parse_line`; one that it refuses is halved until the odd lines are nearly
alone, and those go through `parse_line`.

A value is the float32 nearest to the decimal number, ties to even, rounded once. (Python's `float` and then a
cast round twice, which may differ for a number next to the middle of two float32.)

How odd lines are treated (every one is counted by reason):

| line | treatment |
|---|---|
| word2vec header (`400000 50`) as the first line | dropped: `header` |
| blank | dropped: `blank` |
| ends in `\r`, or UTF-8 byte order mark before the first token | repaired: `carriage_return`, `byte_order_mark` |
| spaces after the last number | repaired: `trailing_space` |
| last line without `\n` | repaired: `no_final_newline` |
| fewer than `dim` numbers, or a field that is no decimal number | dropped: `not_a_vector` |
| NaN, infinity, or a number beyond float32 | dropped: `not_finite` |
| token empty | dropped: `empty_token` |
| token not UTF-8 | dropped: `undecodable` |
| token not among those to keep | passed over |
| token seen before | dropped: `duplicate` (the first one counts) |
"""

import functools
import io
import itertools
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from pipeline_config.errors import InputError
from tasks.parallel import THREADS, map_ahead
from tasks.vector_selection import Part, VectorSelection

logger = logging.getLogger(__name__)
BLOCK_BYTES = 2 << 20
BLOCKS_AHEAD = 4  # blocks per thread that are read before the first of them is taken
CAREFUL_LINES = 16  # a refused block of so few lines is not halved again
MAX_LINE_BYTES = 16 << 20  # 4096 numbers of 400 digits take a tenth of it; memory stays bounded
_NUMBER = re.compile(rb"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?|[+-]?(?:nan|inf(?:inity)?)", re.IGNORECASE)
_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18})\s*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DroppedLineError(ValueError):
    """A line that holds no usable vector; its argument is the reason."""


Lines = bytes | bytearray


class GloveTextReader:
    """Iterate over the chosen vectors of a stream as tables of `vectors_schema(dim)`.

    Args:
        stream: bytes of the text, decompressed.
        name: what to call the stream in messages.
        selection: what to choose; it holds the counts afterwards.

    Raises:
        InputError: the first vector does not have `dim` values, or a line is endless.
    """

    def __init__(self, stream: io.BufferedIOBase, *, name: str, selection: VectorSelection) -> None:
        self.stream, self.name, self.selection = stream, name, selection
        self._promised: int | None = None
        self._rest = b""

    def __iter__(self) -> Iterator[pa.Table]:
        self._read_first_line()
        pool = ThreadPoolExecutor(THREADS, thread_name_prefix="glove-text")
        parse = functools.partial(parse_block, dim=self.selection.dim)
        try:
            for part in itertools.chain.from_iterable(
                map_ahead(pool, parse, self._read_blocks(), ahead=THREADS * BLOCKS_AHEAD)
            ):
                table = self.selection.take(part)
                if len(table):
                    yield table
                if self.selection.full:
                    return
        finally:
            pool.shutdown(cancel_futures=True)
        self._check_line_size(self._rest)
        self._compare_with_header()

    def _read_blocks(self) -> Iterator[bytearray]:
        """Yield whole lines; what follows a line without an end stays in `_rest`."""
        while len(self._rest) <= MAX_LINE_BYTES:
            block = bytearray(len(self._rest) + BLOCK_BYTES)
            block[: len(self._rest)] = self._rest
            with memoryview(block)[len(self._rest) :] as free:
                read = self.stream.readinto(free)
            size = len(self._rest) + read
            cut = block.rfind(b"\n", 0, size) + 1 if read else size
            self._rest = bytes(memoryview(block)[cut:size])
            del block[cut:]
            if block:
                yield block
            if not read:
                return

    def _read_first_line(self) -> None:
        first = self.stream.readline(MAX_LINE_BYTES + 1)
        if first.startswith(_BYTE_ORDER_MARK):
            self.selection.repair("byte_order_mark", 1, first.rstrip(b"\n"))
            first = first.removeprefix(_BYTE_ORDER_MARK)
        if header := _HEADER.fullmatch(first):
            self._promised = int(header[1])
            self.selection.drop("header", first.rstrip(b"\n"))
            first = self.stream.readline(MAX_LINE_BYTES + 1)
        self._check_line_size(first)
        self._check_dim(first.rstrip(b" \r\n"))
        self._rest = first

    def _check_dim(self, line: bytes) -> None:
        dim, got = self.selection.dim, line.count(b" ")
        numbers = sum(1 for field in line.split(b" ")[-dim - 1 :] if _NUMBER.fullmatch(field))
        if line and (got < dim or (got > dim and numbers > dim)):
            raise InputError(f"{self.name}:{self.selection.lines + 1}: expected {dim} values, got {got}")

    def _check_line_size(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            where = f"{self.name}:{self.selection.lines + 1}"
            raise InputError(f"{where}: expected a line, got {len(line):,} bytes without an end")

    def _compare_with_header(self) -> None:
        got = self.selection.lines - 1
        if self._promised is not None and self._promised != got:
            logger.warning("%s:1: the header promises %s vectors, got %s lines", self.name, self._promised, got)


def parse_block(block: Lines, dim: int) -> list[Part]:
    """Return what some whole lines hold; only the last one may lack its line end."""
    part = _parse_fast(block, dim)
    if part:
        return [part]
    lines = block.count(b"\n")
    if lines <= CAREFUL_LINES:
        return [_parse_careful(block, dim)]
    middle = block.rfind(b"\n", 0, len(block) // 2) + 1 or block.find(b"\n") + 1
    return [*parse_block(block[:middle], dim), *parse_block(block[middle:], dim)]


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
    vector = round_to_float32(fields[1:])
    if not np.isfinite(vector).all():
        raise DroppedLineError("not_finite")
    try:
        return fields[0].decode(), vector
    except UnicodeDecodeError:
        raise DroppedLineError("undecodable") from None


def round_to_float32(numbers: list[bytes]) -> np.ndarray:
    """Return the float32 nearest to each decimal number, ties to even.

    A double that lies in the middle of two float32 does not tell on which side of it the number was; there the
    digits decide.
    """
    doubles = np.array([float(number) for number in numbers])
    with np.errstate(over="ignore", invalid="ignore"):
        below, above = (np.nextafter(doubles, to).astype(np.float32) for to in (-np.inf, np.inf))
        for i in np.flatnonzero((below != above) & np.isfinite(doubles)):
            exact, double = Decimal(numbers[i].decode()), Decimal(doubles[i].item())
            lower, upper = (Decimal(min(max(float(end[i]), -(2.0**128)), 2.0**128)) for end in (below, above))
            if exact != double and lower + upper == 2 * double:
                doubles[i] = np.nextafter(doubles[i], np.inf if exact > double else -np.inf)
        return doubles.astype(np.float32)


@functools.lru_cache
def _csv_options(dim: int) -> tuple[list[str], csv.ParseOptions, csv.ConvertOptions]:
    columns = [str(i) for i in range(dim + 1)]
    types = {"0": pa.string(), **dict.fromkeys(columns[1:], pa.float32())}
    return (
        columns,
        csv.ParseOptions(delimiter=" ", quote_char=False, escape_char=False, ignore_empty_lines=False),
        csv.ConvertOptions(column_types=types, null_values=[]),
    )


def _parse_fast(block: Lines, dim: int) -> Part | None:
    """Return what Arrow reads, or None when a line may be odd."""
    text = block
    batch = _read_csv(text, dim)
    for odd in (b"\r\n", b" \n"):
        if batch is None and odd in text:
            text = text.replace(odd, b"\n")
            batch = _read_csv(text, dim)
    if batch is None or pc.min(pc.binary_length(batch.column(0))).as_py() == 0:
        return None
    values = batch.select(range(1, dim + 1)).to_tensor(null_to_nan=False, row_major=True).to_numpy()
    if not np.isfinite(values).all():
        return None
    return Part(
        lines=len(batch),
        tokens=batch.column(0),
        values=values,
        positions=range(len(batch)),
        dropped=(),
        repaired={} if text is block and block.endswith(b"\n") else _find_repairs(block),
        excerpt=functools.partial(_line_at, block),
    )


def _read_csv(text: Lines, dim: int) -> pa.RecordBatch | None:
    r"""Return the rows that Arrow makes of some lines, or None if it refuses them or may have changed them.

    It drops a byte order mark, which may be part of a token, ends lines at `\r` and trims tabs off numbers: the only
    bytes below 14 have to be the `\n` of the rows.
    """
    columns, parse_options, convert_options = _csv_options(dim)
    read_options = csv.ReadOptions(column_names=columns, use_threads=False, block_size=len(text) + 1)
    characters = np.frombuffer(text, np.uint8)
    line_ends = np.count_nonzero(characters == 10)
    if np.count_nonzero(characters < 14) != line_ends or text.startswith(_BYTE_ORDER_MARK):
        return None
    try:
        table = csv.read_csv(pa.BufferReader(text), read_options, parse_options, convert_options)
    except pa.ArrowInvalid:
        return None
    if len(table) != line_ends + (not text.endswith(b"\n")):
        return None
    return table.combine_chunks().to_batches()[0]


def _parse_careful(block: Lines, dim: int) -> Part:
    words: list[str] = []
    vectors: list[np.ndarray] = []
    positions: list[int] = []
    dropped: list[tuple[int, str]] = []
    lines = bytes(block).removesuffix(b"\n").split(b"\n")
    for position, line in enumerate(lines):
        try:
            word, vector = parse_line(line.removesuffix(b"\r"), dim)
        except DroppedLineError as reason:
            dropped.append((position, str(reason)))
            continue
        words.append(word)
        vectors.append(vector)
        positions.append(position)
    values = np.stack(vectors) if vectors else np.empty((0, dim), np.float32)
    return Part(
        lines=len(lines),
        tokens=pa.array(words, pa.string()),
        values=values,
        positions=positions,
        dropped=dropped,
        repaired=_find_repairs(block),
        excerpt=functools.partial(_line_at, block),
    )


def _find_repairs(block: Lines) -> dict[str, np.ndarray]:
    lines = bytes(block).removesuffix(b"\n").split(b"\n")
    repaired = {
        "carriage_return": [i for i, line in enumerate(lines) if line.endswith(b"\r")],
        "trailing_space": [
            i for i, line in enumerate(lines) if line.endswith((b" ", b" \r")) and line.removesuffix(b"\r").strip(b" ")
        ],
        "no_final_newline": [] if block.endswith(b"\n") else [len(lines) - 1],
    }
    return {reason: np.array(positions, np.int64) for reason, positions in repaired.items() if positions}


def _line_at(block: Lines, position: int) -> bytes:
    return bytes(block.split(b"\n", position + 1)[position])
