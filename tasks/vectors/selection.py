"""Which vectors of a file are kept, and the account of the lines that are not.

The readers of the formats hand over what they parsed, part by part in file order. Here tokens that nobody asked
for are passed over, duplicates are dropped, reading stops at the number that was asked for, and every odd
line is counted by reason, with examples.
"""

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.schemas import ODD_LINES, vectors_schema

MAX_EXAMPLES = 100  # odd lines of a reason that are listed one by one; all are counted
EXCERPT_BYTES = 80


class OddLine(NamedTuple):
    """A line that was dropped or repaired: its number from 1, which of the two, the reason, its beginning."""

    line: int
    fate: str
    reason: str
    excerpt: str


class ParsedLines(NamedTuple):
    """What came of some consecutive lines; positions count the lines of the part from 0.

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

    `lines` counts the lines up to the last vector that was wanted, `kept` the vectors, `passed_over` the good lines
    of tokens that are not wanted, `dropped` and `repaired` the odd lines by reason; `examples` are the first odd lines
    of each reason.
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
        """Tell whether the wanted number of vectors has been reached."""
        return self.kept == self.max_vectors

    @property
    def unusable(self) -> int:
        """Number of lines that should have held a vector and do not."""
        return self.dropped.total() - self.dropped["header"]

    @property
    def usable(self) -> int:
        """Number of lines that held a vector, wanted or not."""
        return self.kept + self.passed_over

    def take(self, part: ParsedLines) -> pa.Table:
        """Count a part's lines and return its chosen rows as a table of `vectors_schema(dim)`."""
        rows, duplicates, others = self._choose(part.tokens.to_pylist())
        stop = part.lines
        if self.max_vectors is not None and len(rows) >= self.max_vectors - self.kept:
            rows = rows[: self.max_vectors - self.kept]
            stop = int(part.positions[rows[-1]]) + 1 if rows else 0
        self._count(part, [*part.dropped, *((int(part.positions[row]), "duplicate") for row in duplicates)], stop)
        self.kept += len(rows)
        self.passed_over += len(others) if stop == part.lines else sum(part.positions[row] < stop for row in others)
        tokens, values = part.tokens, part.values
        if len(rows) < len(tokens):
            tokens, values = tokens.take(pa.array(rows, pa.int64())), values[np.asarray(rows, np.int64)]
        return vectors_table(tokens, values)

    def repair(self, reason: str, line: int, excerpt: bytes) -> None:
        """Count a line that was read after a repair."""
        self.repaired[reason] += 1
        self._list(line, "repaired", reason, excerpt)

    def drop(self, reason: str, excerpt: bytes) -> None:
        """Count a line that was read apart from the parts, and dropped."""
        self.lines += 1
        self.dropped[reason] += 1
        self._list(self.lines, "dropped", reason, excerpt)

    def build_examples_table(self) -> pa.Table:
        """Return the examples as a table of `ODD_LINES`, by line."""
        if not self.examples:
            return pa.Table.from_batches([], schema=ODD_LINES)
        columns = zip(*sorted(self.examples), strict=True)
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, ODD_LINES, strict=True)], schema=ODD_LINES)

    def _choose(self, words: list[str]) -> tuple[Sequence[int], list[int], list[int]]:
        """Return the rows that are wanted and new, those that are wanted and known, and those that are not wanted."""
        rows: Sequence[int] = range(len(words))
        wanted: Collection[str] = words
        others: list[int] = []
        if self.keep is not None:
            rows = [row for row, word in enumerate(words) if word in self.keep]
            others = [row for row, word in enumerate(words) if word not in self.keep]
            wanted = [words[row] for row in rows]
        known = self._seen
        if known.isdisjoint(wanted):  # as good as always, and cheaper than one look-up after the other
            before = len(self._seen)
            self._seen.update(wanted)
            if len(self._seen) == before + len(rows):
                return rows, [], others
            known = set()
        fresh: list[int] = []
        duplicates: list[int] = []
        for row in rows:
            (duplicates if words[row] in known else fresh).append(row)
            known.add(words[row])
        return fresh, duplicates, others

    def _count(self, part: ParsedLines, dropped: Sequence[tuple[int, str]], stop: int) -> None:
        for reason, positions in part.repaired.items():
            positions = positions[positions < stop]
            if len(positions):
                self.repaired[reason] += len(positions)
            for position in positions[: MAX_EXAMPLES - self._listed["repaired", reason]].tolist():
                self._list(self.lines + position + 1, "repaired", reason, part.excerpt(position))
        for position, reason in sorted(dropped):
            if position < stop:
                self.dropped[reason] += 1
                self._list(self.lines + position + 1, "dropped", reason, part.excerpt(position))
        self.lines += stop

    def _list(self, line: int, fate: str, reason: str, excerpt: bytes) -> None:
        odd = OddLine(line, fate, reason, excerpt[:EXCERPT_BYTES].decode("utf-8", "replace"))
        if fate == "dropped":
            self.last_dropped = odd
        if self._listed[fate, reason] < MAX_EXAMPLES:
            self._listed[fate, reason] += 1
            self.examples.append(odd)


def vectors_table(tokens: pa.Array, values: np.ndarray) -> pa.Table:
    """Return tokens (string[V]) and their vectors (float32[V, dim]) as a table of `vectors_schema(dim)`."""
    schema = vectors_schema(values.shape[1])
    buffer = pa.py_buffer(np.ascontiguousarray(values, np.float32))
    flat = pa.Array.from_buffers(pa.float32(), values.size, [None, buffer])  # `pa.array` would import pandas
    return pa.table([tokens, pa.FixedSizeListArray.from_arrays(flat, type=schema.field("vector").type)], schema=schema)
