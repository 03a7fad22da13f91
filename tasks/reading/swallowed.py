"""Notice a stray quote that makes one row of several: a row over several lines that look like rows of the file."""

import csv
from collections.abc import Iterable

import numpy as np

from tasks.reading.layout import Layout

_MOST_LABELS = 10_000  # with more, a label says nothing about a line


class SwallowedLines:
    """Tells rows that swallowed others from texts with line breaks.

    A row did if at least two of its lines, split at every separator, have the fields of a row and a label that other
    rows have. In files without a label column it did if all of its lines have the fields of a row, and its quotes are
    wrong.
    """

    def __init__(self, layout: Layout, label_column: str | None) -> None:
        self._separator, self._width = layout.separator, layout.width
        self._place = layout.places.get(label_column or "")
        self._labels = set(layout.labels or ())

    def learn(self, labels: Iterable[str]) -> None:
        """Remember labels of rows."""
        if len(self._labels) < _MOST_LABELS:
            self._labels.update(label.strip() for label in labels)

    def look_swallowed(self, lines: list[str]) -> bool:
        """Return whether the lines of a row, with their line ends, look like rows of the file."""
        if len(lines) < 2 or self._width < 2:
            return False
        rows = [line.rstrip("\r\n").split(self._separator) for line in lines if line.strip()]
        fitting = [row for row in rows if len(row) == self._width]
        if self._place is not None:
            return sum(self._is_label(row[self._place]) for row in fitting) > 1
        return len(fitting) == len(rows) > 1 and not _are_quotes_right(lines, self._separator)

    def may_be_in(self, data: bytes, line_ends: np.ndarray, row_ends: np.ndarray) -> bool:
        """Return whether a row of a block, all of whose quotes are right, looks as if it swallowed others.

        Args:
            data: the block.
            line_ends: int64, positions of its line ends.
            row_ends: int64, those at which rows end.
        """
        if len(line_ends) == len(row_ends) or self._place is None or self._width < 2:
            return False
        row_of_line = np.searchsorted(row_ends, line_ends)
        starts = np.concatenate([[0], line_ends[:-1] + 1])
        separators = np.flatnonzero(np.frombuffer(data, np.uint8) == ord(self._separator))
        fields = 1 + np.searchsorted(separators, line_ends) - np.searchsorted(separators, starts)
        fitting = fields == self._width
        counts = np.bincount(row_of_line[fitting], minlength=len(row_ends))
        several = np.bincount(row_of_line, minlength=len(row_ends)) > 1
        places = np.flatnonzero(fitting & (several & (counts > 1))[row_of_line])
        found: dict[int, int] = {}
        for place in places.tolist():
            line = data[starts[place] : line_ends[place]].decode("utf-8", "surrogateescape")
            if self._is_label(line.rstrip("\r").split(self._separator)[self._place]):
                row = int(row_of_line[place])
                found[row] = found.get(row, 0) + 1
                if found[row] > 1:
                    return True
        return False

    def _is_label(self, field: str) -> bool:
        label = field.strip(' \t"')
        return label != "" and label in self._labels


def _are_quotes_right(lines: list[str], separator: str) -> bool:
    """Return whether the lines of a row have no quote in a wrong place."""
    try:
        list(csv.reader(lines, delimiter=separator, strict=True))
    except csv.Error:
        return False
    return True
