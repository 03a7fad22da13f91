"""Rows as they stand in a file, before anything is made of their values."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa

MAX_BLOCK_ROWS = 1 << 16
Column: TypeAlias = pa.ChunkedArray | Sequence[Any]


class Problem(NamedTuple):
    """Why a row could not be read, and the beginning of what the file has there."""

    reason: str
    excerpt: str


class Rows(NamedTuple):
    """Rows of a file, in its order.

    Attributes:
        columns: the values by name of the column, as Arrow has them, or as Python values of any type. A row with a
            problem has None in each.
        problems: the problem of each row that could not be read, by its position in these rows.
        lines: int64[rows], where each row begins: its line in a text file, its number (from 1) in a table; None for
            documents in files of their own.
        size: number of rows.
        class_names: names of the classes that the numbers of the label column stand for, if the file has them.
        whole: all columns of the file, if they were asked for; a row with a problem has null in each.
        replaced: how many values of `whole` had bytes that are not in the encoding, by name of the column.
    """

    columns: Mapping[str, Column]
    problems: Mapping[int, Problem]
    lines: np.ndarray | None
    size: int
    class_names: Sequence[str] = ()
    whole: pa.Table | None = None
    replaced: Mapping[str, int] = {}
