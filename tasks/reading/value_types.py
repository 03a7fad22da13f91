"""Arrow types for columns of Python values that declare none, as in JSON and Excel files."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline_config.errors import InputError

TEXT = pa.large_string()
_SURROGATE = re.compile("[\ud800-\udfff]")
_MOST_COLUMNS = 10_000
_EXACT = 1 << 53  # whole numbers up to it are exact as float64
_TYPES: tuple[tuple[frozenset[str], pa.DataType], ...] = (
    (frozenset({"boolean"}), pa.bool_()),
    (frozenset({"small", "large"}), pa.int64()),
    (frozenset({"small", "float"}), pa.float64()),
    (frozenset({"datetime"}), pa.timestamp("us")),
    (frozenset({"date"}), pa.date32()),
)


class ColumnTypes:
    """Finds the type of each column from all of its values.

    Booleans, whole numbers, numbers, dates and times keep their type. A column that holds anything else, or values of
    several types, is text: texts as they are, other values as JSON.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._kinds: dict[str | int, set[str]] = {}

    def add(self, name: str | int, value: Any) -> None:
        """Take a value of a column, which has a name or a position, into account."""
        kinds = self._kinds.get(name)
        if kinds is None:
            if len(self._kinds) == _MOST_COLUMNS:
                raise InputError(
                    f"{self._path}: expected at most {_MOST_COLUMNS:,} columns, got more, such as {name!r}"
                )
            kinds = self._kinds[name] = set()
        if value is not None:
            kinds.add(_find_kind(value))

    def find(self) -> dict[str | int, pa.DataType]:
        """Return the type of each column, in the order in which they came."""
        return {name: _find_type(kinds) for name, kinds in self._kinds.items()}


def make_column(values: Iterable[Any], kind: pa.DataType) -> pa.Array:
    """Return values as a column of a type that `ColumnTypes` found for them."""
    return pa.array([_show(value) for value in values] if kind == TEXT else list(values), kind)


def make_texts(columns: Sequence[Sequence[str | None]], schema: pa.Schema) -> pa.Table:
    """Return columns of texts as a table; bytes that are not in the encoding become question marks."""
    arrays = [pa.array([value and clean(value) for value in column], TEXT) for column in columns]
    return pa.table(arrays or [pa.array([], TEXT) for _ in schema], schema=schema)


def count_replaced(columns: Iterable[Sequence[Any]], names: Sequence[str]) -> dict[str, int]:
    """Return how many values of each column have parts that `clean` replaces; columns without any are left out."""
    counts: Counter[str] = Counter()
    for name, values in zip(names, columns, strict=True):
        for value in values:
            text = json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else value
            if isinstance(text, str) and clean(text) != text:
                counts[name] += 1
    return dict(counts)


def clean(text: str) -> str:
    """Return a text with question marks in place of what is no text: bytes that are not in the encoding."""
    return text if text.isascii() else _SURROGATE.sub("?", text)


def _find_kind(value: Any) -> str:
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "small" if abs(value) <= _EXACT else "large" if -(1 << 63) <= value < 1 << 63 else "other"
    if isinstance(value, float):
        return "float"
    if isinstance(value, datetime):
        return "datetime" if value.tzinfo is None else "other"
    return "date" if isinstance(value, date) else "other"


def _find_type(kinds: set[str]) -> pa.DataType:
    return next((kind for fitting, kind in _TYPES if kinds and kinds <= fitting), TEXT)


def _show(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value and clean(value)
    return clean(json.dumps(value, ensure_ascii=False, default=str) if not isinstance(value, date) else str(value))
