"""Choose which vectors of a file are kept, and count the lines that are not.

The readers of the formats hand over parsed lines, in file order. This module passes over tokens that are not wanted,
drops duplicates, stops at the wanted number of vectors, and counts every odd line by reason, with examples.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.schemas import ODD_LINES, vectors_schema

MAX_EXAMPLES = 100  # odd lines that are listed per reason; all are counted
EXCERPT_BYTES = 80


class OddLine(NamedTuple):
    """A line that was dropped or repaired: its number from 1, the action, the reason, its first bytes."""

    line: int
    action: str
    reason: str
    excerpt: str


class ParsedLines(NamedTuple):
    """The result of parsing some consecutive lines; positions count these lines from 0.

    `excerpt` returns the bytes of the line at a position.
    """

    lines: int
    tokens: pa.Array  # string[rows]
    values: np.ndarray  # float32[rows, dim]
    positions: Sequence[int] | np.ndarray  # of the rows, ascending
    dropped: Sequence[tuple[int, str]]  # position and reason
    repaired: dict[str, np.ndarray]  # positions by reason
    excerpt: Callable[[int], bytes]


class VectorSelection:
    """Choose among the vectors of a file and count what happens to its lines.

    Args:
        dim: values per vector.
        keep: the only tokens that are wanted; None wants all.
        max_vectors: stop after this many; None reads all.

    `lines` counts the lines up to the last chosen vector, `kept` the chosen vectors, `passed_over` the usable lines of
    unwanted tokens, `dropped` and `repaired` the odd lines by reason. `examples` lists the first odd lines per reason.
    """

    def __init__(self, dim: int, *, keep: Collection[str] | None = None, max_vectors: int | None = None) -> None:
        self.dim, self.max_vectors = dim, max_vectors
        self.keep = None if keep is None else frozenset(keep)
        self.lines = self.kept = self.passed_over = 0
        self.dropped: Counter[str] = Counter()
        self.repaired: Counter[str] = Counter()
        self.examples: list[OddLine] = []
        self.last_dropped: OddLine | None = None
        self._listed: Counter[tuple[str, str]] = Counter()
        self._seen: set[str] = set()

    @property
    def full(self) -> bool:
        """Whether the wanted number of vectors has been reached."""
        return self.kept == self.max_vectors

    @property
    def unusable(self) -> int:
        """Number of lines without a usable vector, headers not counted."""
        return self.dropped.total() - self.dropped["header"]

    @property
    def usable(self) -> int:
        """Number of lines with a usable vector, wanted or not."""
        return self.kept + self.passed_over

    def select(self, parsed: ParsedLines) -> pa.Table:
        """Count parsed lines and return the chosen rows as a table of `vectors_schema(dim)`."""
        rows, duplicates, unwanted = self._choose_rows(parsed.tokens.to_pylist())
        stop = parsed.lines
        if self.max_vectors is not None and len(rows) >= self.max_vectors - self.kept:
            rows = rows[: self.max_vectors - self.kept]
            stop = int(parsed.positions[rows[-1]]) + 1 if rows else 0
        dropped = [*parsed.dropped, *((int(parsed.positions[row]), "duplicate") for row in duplicates)]
        self._count_lines(parsed, dropped, stop)
        self.kept += len(rows)
        if stop < parsed.lines:
            unwanted = [row for row in unwanted if parsed.positions[row] < stop]
        self.passed_over += len(unwanted)
        tokens, values = parsed.tokens, parsed.values
        if len(rows) < len(tokens):
            tokens, values = tokens.take(pa.array(rows, pa.int64())), values[np.asarray(rows, np.int64)]
        return vectors_table(tokens, values)

    def count_repaired(self, reason: str, line: int, excerpt: bytes) -> None:
        """Count one line that was read after a repair."""
        self.repaired[reason] += 1
        self._add_example(line, excerpt, action="repaired", reason=reason)

    def count_dropped(self, reason: str, excerpt: bytes) -> None:
        """Count the next line as dropped; for lines that are read one by one, such as the header."""
        self.lines += 1
        self.dropped[reason] += 1
        self._add_example(self.lines, excerpt, action="dropped", reason=reason)

    def build_examples_table(self) -> pa.Table:
        """Return the examples as a table of `ODD_LINES`, ordered by line."""
        if not self.examples:
            return pa.Table.from_batches([], schema=ODD_LINES)
        columns = zip(*sorted(self.examples), strict=True)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, ODD_LINES, strict=True)], schema=ODD_LINES)

    def _choose_rows(self, words: list[str]) -> tuple[Sequence[int], list[int], list[int]]:
        """Return the rows of wanted new tokens, of wanted tokens that were seen before, and of unwanted tokens."""
        rows: Sequence[int] = range(len(words))
        wanted: Collection[str] = words
        unwanted: list[int] = []
        if self.keep is not None:
            rows = [row for row, word in enumerate(words) if word in self.keep]
            unwanted = [row for row, word in enumerate(words) if word not in self.keep]
            wanted = [words[row] for row in rows]
        seen = self._seen
        if seen.isdisjoint(wanted):  # nearly always, and faster than one look-up per token
            before = len(self._seen)
            self._seen.update(wanted)
            if len(self._seen) == before + len(rows):
                return rows, [], unwanted
            seen = set()  # the duplicates are among the wanted tokens themselves
        new: list[int] = []
        duplicates: list[int] = []
        for row in rows:
            (duplicates if words[row] in seen else new).append(row)
            seen.add(words[row])
        return new, duplicates, unwanted

    def _count_lines(self, parsed: ParsedLines, dropped: Sequence[tuple[int, str]], stop: int) -> None:
        """Count the odd lines at positions before `stop`."""
        for reason, positions in parsed.repaired.items():
            positions = positions[positions < stop]
            if len(positions):
                self.repaired[reason] += len(positions)
            for position in positions[: MAX_EXAMPLES - self._listed["repaired", reason]].tolist():
                line = self.lines + position + 1
                self._add_example(line, parsed.excerpt(position), action="repaired", reason=reason)
        for position, reason in sorted(dropped):
            if position < stop:
                self.dropped[reason] += 1
                line = self.lines + position + 1
                self._add_example(line, parsed.excerpt(position), action="dropped", reason=reason)
        self.lines += stop

    def _add_example(self, line: int, excerpt: bytes, *, action: str, reason: str) -> None:
        odd = OddLine(line, action, reason, excerpt[:EXCERPT_BYTES].decode("utf-8", "replace"))
        if action == "dropped":
            self.last_dropped = odd
        if self._listed[action, reason] < MAX_EXAMPLES:
            self._listed[action, reason] += 1
            self.examples.append(odd)


def vectors_table(tokens: pa.Array, values: np.ndarray) -> pa.Table:
    """Return tokens (string[V]) and their vectors (float32[V, dim]) as a table of `vectors_schema(dim)`."""
    schema = vectors_schema(values.shape[1])
    buffer = pa.py_buffer(np.ascontiguousarray(values, np.float32))
    flat = pa.Array.from_buffers(pa.float32(), values.size, [None, buffer])  # `pa.array` would import pandas
    return pa.table([tokens, pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type)], schema=schema)
