r"""Read word vectors from GloVe's text format: a token, then `dim` decimal numbers, one space between.

Reads a binary stream; yields Arrow tables in file order, in bounded memory. Lines are split at `\n` only, and the
numbers are split off from the right, because published files have tokens with spaces, no-break spaces and U+0085.
Threads parse blocks of lines with a fast parser, which converts all numbers of a block at once. If a block contains a
line that is not of the regular form, it is halved until few lines are left with the odd one, and the careful parser
(`parse_line`) reads those. A value is the float32 nearest to the decimal number (`tasks.vectors.decimal_numbers`).

How odd lines are treated (all are counted by reason):

| line | treatment |
|---|---|
| word2vec header (`400000 50`) as the first line | dropped: `header` |
| blank | dropped: `blank` |
| ends in `\r`, or UTF-8 byte order mark before the first token | repaired: `carriage_return`, `byte_order_mark` |
| spaces after the last number | repaired: `trailing_space` |
| the first vector has tabs between its numbers | repaired: `tabs`; tabs count as spaces in all lines |
| last line without `\n` | repaired: `no_final_newline` |
| fewer than `dim` numbers, or a field that is not a decimal number | dropped: `not_a_vector` |
| NaN, infinity, or a number outside the range of float32 | dropped: `not_finite` |
| empty token | dropped: `empty_token` |
| token that is not UTF-8 | dropped: `undecodable` |
| token that is not among those to keep | passed over |
| token that occurred before | dropped: `duplicate` (the first one is kept) |
"""

import functools
import io
import itertools
import logging
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from pipeline_config.errors import InputError
from tasks.runtime.parallel import HELPERS, THREADS, map_ahead
from tasks.vectors.decimal_numbers import NUMBER, gather_strings, round_to_float32, rows_to_float32
from tasks.vectors.selection import ParsedLines, VectorSelection

logger = logging.getLogger(__name__)
BLOCK_BYTES = 2 << 20
BLOCKS_AHEAD = 2  # blocks per thread that are read before the result of the first one is used
CAREFUL_LINES = 16  # a block of at most so many lines is not halved again
MAX_LINE_BYTES = 16 << 20  # bounds the memory; 4096 numbers of 400 digits take a tenth of it
_HEADER = re.compile(rb"(\d{1,18}) (\d{1,18})\s*")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class DroppedLineError(ValueError):
    """A line without a usable vector; the argument is the reason."""


Lines = bytes | bytearray


class GloveTextReader:
    """Iterate over the chosen vectors of a stream as tables of `vectors_schema(dim)`.

    Args:
        stream: bytes of the text, decompressed.
        name: the name of the stream in messages.
        selection: chooses the vectors, and holds the counts afterwards.

    Raises:
        InputError: the first vector does not have `dim` values, or a line is longer than `MAX_LINE_BYTES`.
    """

    def __init__(self, stream: io.BufferedIOBase, *, name: str, selection: VectorSelection) -> None:
        self.stream, self.name, self.selection = stream, name, selection
        self._stated_vectors: int | None = None  # by the header
        self._tabs = False  # whether the first vector has tabs between its numbers; then tabs count as spaces
        self._rest = b""  # bytes after the last complete line

    def __iter__(self) -> Iterator[pa.Table]:
        self._read_first_line()
        pool = ThreadPoolExecutor(HELPERS, thread_name_prefix="glove-text")
        parse = functools.partial(parse_block, dim=self.selection.dim)
        try:
            for parsed in itertools.chain.from_iterable(
                map_ahead(pool, parse, self._read_blocks(), ahead=THREADS * BLOCKS_AHEAD)
            ):
                table = self.selection.select(parsed)
                if len(table):
                    yield table
                if self.selection.full:
                    return
        finally:
            pool.shutdown(cancel_futures=True)
        self._check_line_size(self._rest)
        self._compare_with_header()

    def _read_blocks(self) -> Iterator[bytearray]:
        """Yield blocks of whole lines; a line that exceeds `MAX_LINE_BYTES` ends the iteration and stays in `_rest`."""
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
                yield block.replace(b"\t", b" ") if self._tabs else block
            if not read:
                return

    def _read_first_line(self) -> None:
        first = self.stream.readline(MAX_LINE_BYTES + 1)
        if first.startswith(_BYTE_ORDER_MARK):
            self.selection.count_repaired("byte_order_mark", 1, first.rstrip(b"\n"))
            first = first.removeprefix(_BYTE_ORDER_MARK)
        if header := _HEADER.fullmatch(first.replace(b"\t", b" ")):
            self._stated_vectors = int(header[1])
            self.selection.count_dropped("header", first.rstrip(b"\n"))
            first = self.stream.readline(MAX_LINE_BYTES + 1)
        self._check_line_size(first)
        if self._find_tabs(first):
            self._tabs = True
            self.selection.count_repaired("tabs", self.selection.lines + 1, first.rstrip(b"\n"))
            first = first.replace(b"\t", b" ")
        self._check_dim(first.rstrip(b" \r\n"))
        self._rest = first

    def _find_tabs(self, first: bytes) -> bool:
        """Return whether the first vector is one only if its tabs count as spaces."""
        if first.count(b" ") >= self.selection.dim:
            return False
        fields = first.rstrip(b" \t\r\n").replace(b"\t", b" ").split(b" ")[1:]
        return len(fields) >= self.selection.dim and all(
            NUMBER.fullmatch(field) for field in fields[-self.selection.dim :]
        )

    def _check_dim(self, line: bytes) -> None:
        dim, got = self.selection.dim, line.count(b" ")
        numbers = sum(1 for field in line.split(b" ")[-dim - 1 :] if NUMBER.fullmatch(field))
        if line and (got < dim or (got > dim and numbers > dim)):
            raise InputError(f"{self.name}:{self.selection.lines + 1}: expected {dim} values, got {got}")

    def _check_line_size(self, line: bytes) -> None:
        if len(line) > MAX_LINE_BYTES:
            where = f"{self.name}:{self.selection.lines + 1}"
            raise InputError(f"{where}: expected a line, got {len(line):,} bytes without a line end")

    def _compare_with_header(self) -> None:
        got = self.selection.lines - 1
        if self._stated_vectors is not None and self._stated_vectors != got:
            logger.warning("%s:1: the header states %s vectors, got %s lines", self.name, self._stated_vectors, got)


def parse_block(block: Lines, dim: int) -> list[ParsedLines]:
    """Parse whole lines; only the last one may lack its line end."""
    parsed = _parse_fast(block, dim)
    if parsed:
        return [parsed]
    lines = block.count(b"\n")
    if lines <= CAREFUL_LINES:
        return [_parse_careful(block, dim)]
    middle = block.rfind(b"\n", 0, len(block) // 2) + 1 or block.find(b"\n") + 1
    return [*parse_block(block[:middle], dim), *parse_block(block[middle:], dim)]


def parse_line(line: bytes, dim: int) -> tuple[str, np.ndarray]:
    """Return the token and the float32[dim] vector of one line.

    Raises:
        DroppedLineError: the line is unusable; the table above lists the reasons.
    """
    line = line.rstrip(b" ")
    if not line:
        raise DroppedLineError("blank")
    fields = line.rsplit(b" ", dim)
    if len(fields) != dim + 1 or not all(NUMBER.fullmatch(field) for field in fields[1:]):
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


def _parse_fast(block: Lines, dim: int) -> ParsedLines | None:
    """Parse lines of the regular form; return None if one of them may be odd."""
    text = block
    rows = _split_rows(text, dim)
    for odd in (b"\r\n", b" \n"):
        if rows is None and odd in text:
            text = text.replace(odd, b"\n")
            rows = _split_rows(text, dim)
    if rows is None:
        return None
    tokens, values = rows
    return ParsedLines(
        lines=len(tokens),
        tokens=tokens,
        values=values,
        positions=range(len(tokens)),
        dropped=(),
        repaired={} if text is block and block.endswith(b"\n") else _find_repairs(block),
        excerpt=functools.partial(_get_line, block),
    )


def _split_rows(text: Lines, dim: int) -> tuple[pa.Array, np.ndarray] | None:
    """Return the tokens and float32[rows, dim] values of lines, or None if one of them is irregular.

    A regular line has a token without spaces and `dim` finite numbers, so it has as many spaces as numbers.
    """
    characters = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", np.uint8)
    line_ends = characters == ord("\n")
    rows = np.count_nonzero(line_ends)
    separators = characters == ord(" ")
    separators |= line_ends
    ends = np.flatnonzero(separators)
    if len(ends) != rows * (dim + 1) or not line_ends[ends[dim :: dim + 1]].all():
        return None
    starts = np.empty_like(ends)
    starts[:1] = 0
    np.add(ends[:-1], 1, out=starts[1:])
    token_starts, token_ends = starts[:: dim + 1], ends[:: dim + 1]
    if not (token_starts < token_ends).all():
        return None
    values = rows_to_float32(characters, starts, ends, dim=dim)
    tokens = gather_strings(characters, token_starts, token_ends)
    return None if values is None or not _is_utf8(tokens) else (tokens, values)


def _is_utf8(strings: pa.Array) -> bool:
    try:
        strings.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _parse_careful(block: Lines, dim: int) -> ParsedLines:
    """Parse lines of any form, one by one."""
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
    return ParsedLines(
        lines=len(lines),
        tokens=pa.array(words, pa.string()),
        values=values,
        positions=positions,
        dropped=dropped,
        repaired=_find_repairs(block),
        excerpt=functools.partial(_get_line, block),
    )


def _find_repairs(block: Lines) -> dict[str, np.ndarray]:
    """Return the positions of the lines that need a repair, by reason."""
    lines = bytes(block).removesuffix(b"\n").split(b"\n")
    repaired = {
        "carriage_return": [i for i, line in enumerate(lines) if line.endswith(b"\r")],
        "trailing_space": [
            i for i, line in enumerate(lines) if line.endswith((b" ", b" \r")) and line.removesuffix(b"\r").strip(b" ")
        ],
        "no_final_newline": [] if block.endswith(b"\n") else [len(lines) - 1],
    }
    return {reason: np.array(positions, np.int64) for reason, positions in repaired.items() if positions}


def _get_line(block: Lines, position: int) -> bytes:
    return bytes(block.split(b"\n", position + 1)[position])
