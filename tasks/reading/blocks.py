"""Blocks of rows in one schema, whatever their format, and the rules that make text, label and time of a value.

Takes `tasks.reading.rows.Rows`, returns Arrow tables of the schema `BLOCK`. A row that cannot be read keeps its
place, with the reason in `problem`.
"""

import json
import math
import re
from collections.abc import Callable, Hashable
from datetime import UTC, date, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading.labels import list_values, parse_label, parse_named
from tasks.reading.rows import Column, Rows
from tasks.runtime.arrow import whole_column

BLOCK = pa.schema(
    [
        pa.field("text", pa.large_string()),
        pa.field("label", pa.string()),
        pa.field("split", pa.string()),
        pa.field("group", pa.string()),
        pa.field("time", pa.float64()),
        pa.field("problem", pa.string()),
        pa.field("line", pa.int64()),
    ]
)
KEPT = "kept "  # begins the names of the kept columns of a block
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_time(value: Any) -> float | None:
    """Return a time as a number: a number unchanged, a date or an ISO 8601 text as seconds since 1970 (UTC)."""
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
    return float(value) if isinstance(value, int | float | np.floating) and math.isfinite(value) else None


def show_kept(value: Any) -> str | None:
    """Return the value of a kept column as text: as `parse_label` does, lists and objects as JSON."""
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, list | tuple | dict):
        return json.dumps(value, ensure_ascii=False, default=str)
    return parse_label(value)


def make_block(rows: Rows, reading: Reading, where: object = "rows") -> pa.Table:
    """Return rows as a table of the schema `BLOCK`, followed by a string column for each of `reading.keep_columns`.

    Args:
        rows: the rows, with all columns that `reading` names.
        reading: which column has the text, the label, the split, the group, the time, and which columns to keep.
        where: what the rows come from, for messages.

    Raises:
        InputError: a label, split or group is not one value.
    """
    problems = {place: problem.reason for place, problem in rows.problems.items()}
    text = join_texts([make_texts(rows.columns[name], problems) for name in reading.text_column], reading.text_joiner)
    rules: dict[str, tuple[str | None, Callable[[Any], Any]]] = {
        "label": (
            reading.label_column,
            partial(parse_named, names=rows.class_names) if rows.class_names else parse_label,
        ),
        "split": (reading.split_column, parse_label),
        "group": (reading.group_column, parse_label),
        "time": (reading.time_column, parse_time),
    }
    arrays = {
        role: [None] * rows.size if name is None else _map_values(rows, name, rule, where)
        for role, (name, rule) in rules.items()
    }
    for role in ("label", "split", "group"):
        for place in _replace_surrogates(arrays[role]):
            if role == "label" and text[place].is_valid:
                problems.setdefault(place, "undecodable")
    reasons: list[str | None] = [None] * rows.size
    for place, reason in problems.items():
        reasons[place] = reason
    line = pa.nulls(rows.size, pa.int64()) if rows.lines is None else pa.array(rows.lines, pa.int64())
    kept = [_map_values(rows, name, show_kept, where) for name in reading.keep_columns]
    for column in kept:
        _replace_surrogates(column)
    values = [_show_problems(text, rows), *arrays.values(), reasons, line, *kept]
    schema = pa.schema([*BLOCK, *(pa.field(KEPT + name, pa.string()) for name in reading.keep_columns)])
    return pa.table(
        [a if isinstance(a, pa.Array) else pa.array(a, f.type) for a, f in zip(values, schema, strict=True)],
        schema=schema,
    )


def make_texts(column: Column, problems: dict[int, str]) -> pa.Array:
    """Return the values of a column as large_string, and enter in `problems` why a value cannot be a text."""
    if not isinstance(column, pa.ChunkedArray):
        return _convert_texts(list(column), problems)
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
        return _convert_texts(column.to_pylist(), problems)
    try:
        text = column.cast(pa.large_string())
        text.validate(full=True)  # a Parquet string column may hold bytes that are not UTF-8
    except pa.ArrowInvalid:
        values = column.cast(pa.large_binary()).to_pylist()
        return _convert_texts([v if v is None else v.decode("utf-8", "surrogateescape") for v in values], problems)
    return whole_column(text)


def join_texts(parts: list[pa.Array], joiner: str) -> pa.Array:
    """Return the texts of several columns (large_string) as one: parts that are null or blank are left out."""
    if len(parts) == 1:
        return parts[0]
    between, joined = pa.scalar(joiner, pa.large_string()), None
    for part in parts:
        text = pc.if_else(pc.equal(pc.utf8_trim_whitespace(part), ""), pa.scalar(None, pa.large_string()), part)
        joined = (
            text if joined is None else pc.coalesce(pc.binary_join_element_wise(joined, text, between), joined, text)
        )
    return joined


def _show_problems(text: pa.Array, rows: Rows) -> pa.Array:
    """Return the texts with what the file has in place of those that could not be read."""
    if not rows.problems:
        return text
    places = sorted(rows.problems)
    excerpts = [_SURROGATE.sub("?", rows.problems[place].excerpt) for place in places]
    mask = [False] * rows.size
    for place in places:
        mask[place] = True
    return pc.replace_with_mask(text, pa.array(mask), pa.array(excerpts, pa.large_string()))


def _replace_surrogates(values: list[Any]) -> list[int]:
    """Replace, in place, bytes that are not in the encoding by question marks; return the positions of such values."""
    found = [i for i, v in enumerate(values) if isinstance(v, str) and not v.isascii() and _SURROGATE.search(v)]
    for place in found:
        values[place] = _SURROGATE.sub("?", values[place])
    return found


def _map_values(rows: Rows, name: str, rule: Callable[[Any], Any], where: object) -> list[Any]:
    """Apply a rule to every value of a column, once per distinct value."""
    column = rows.columns[name]
    parsed: dict[tuple[type, Hashable], Any] = {}
    results = []
    for place, value in enumerate(list_values(column) if isinstance(column, pa.ChunkedArray) else column):
        key = (type(value), repr(value) if isinstance(value, list | dict) else value)
        if key not in parsed:
            try:
                parsed[key] = rule(value)
            except InputError as error:
                at = "" if rows.lines is None else f":{rows.lines[place]}"
                raise InputError(f"{where}{at}: column {name!r}: {error}") from None
        results.append(parsed[key])
    return results


def _convert_texts(texts: list[Any], problems: dict[int, str]) -> pa.Array:
    """Return Python values as large_string, and enter in `problems` why a value cannot be a text."""
    try:
        if not any(isinstance(text, bytes) for text in texts):
            return pa.array(texts, pa.large_string())
    except (pa.ArrowInvalid, pa.ArrowTypeError, UnicodeError):
        pass
    for i, text in enumerate(texts):
        if text is None or (isinstance(text, float) and math.isnan(text)):
            texts[i] = None
        elif not isinstance(text, str):
            texts[i] = repr(text)
            problems.setdefault(i, "text_is_no_string")
        if isinstance(texts[i], str) and _SURROGATE.search(texts[i]):
            texts[i] = _SURROGATE.sub("?", texts[i])
            problems.setdefault(i, "undecodable")
    return pa.array(texts, pa.large_string())
