"""Blocks of rows in one schema, whatever their format, and the rules that make text, label and time of a value.

Takes Python or Arrow columns, returns Arrow tables of the schema `BLOCK`. A row that cannot be read keeps its
place, with the reason in `problem`.
"""

import math
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa

from tasks.runtime.arrow import whole_column

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
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_label(value: Any) -> str | None:
    """Return a label as text: `1`, `1.0` and `"1"` are "1", true is "true", null, NaN and blank texts are None."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip() or None


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
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def make_block(columns: Mapping[str, Sequence[Any]], problems: Sequence[str | None] | None = None) -> pa.Table:
    """Return Python columns as a table of the schema `BLOCK`.

    Args:
        columns: values of each column that the file has, one per row.
        problems: why each row could not be read, None for a readable one. The text of an unreadable row shows what
            the file has there.
    """
    texts, problem = list(columns["text"]), list(problems or [None] * len(columns["text"]))
    text = _make_text_array(texts, problem)
    return _assemble_block(text, columns, problem)


def convert_block(columns: Mapping[str, pa.ChunkedArray]) -> pa.Table:
    """Return Arrow columns as a table of the schema `BLOCK`; texts that are not valid strings go through Python."""
    text = columns["text"]
    kind = text.type.value_type if pa.types.is_dictionary(text.type) else text.type
    is_text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not is_text:
        return make_block({role: column.to_pylist() for role, column in columns.items()})
    try:
        text = text.cast(pa.large_string())
        text.validate(full=True)  # a Parquet string column may hold bytes that are not UTF-8
    except pa.ArrowInvalid:
        values = [
            v if v is None else v.decode("utf-8", "surrogateescape") for v in text.cast(pa.large_binary()).to_pylist()
        ]
        return make_block({role: c.to_pylist() for role, c in columns.items() if role != "text"} | {"text": values})
    return _assemble_block(whole_column(text), columns, [None] * len(text))


def _assemble_block(text: pa.Array, columns: Mapping[str, Any], problem: list[str | None]) -> pa.Table:
    """Return a table of the schema `BLOCK`, after parsing the columns beside the text."""
    labels = _map_values(columns["label"], parse_label)
    for i, label in enumerate(labels):
        if label is not None and not label.isascii() and _SURROGATE.search(label):
            labels[i] = _SURROGATE.sub("?", label)
            problem[i] = problem[i] or ("undecodable" if text[i].is_valid else None)
    rules: dict[str, Callable[[Any], Any]] = {"split": parse_label, "group": parse_label, "time": parse_time}
    found = {
        role: _replace_surrogates(_map_values(columns[role], rule)) if role in columns else [None] * len(text)
        for role, rule in rules.items()
    }
    arrays = [text, labels, found["split"], found["group"], found["time"], problem]
    return pa.table(
        [a if isinstance(a, pa.Array) else pa.array(a, f.type) for a, f in zip(arrays, BLOCK, strict=True)],
        schema=BLOCK,
    )


def _replace_surrogates(values: list[Any]) -> list[Any]:
    return [_SURROGATE.sub("?", v) if isinstance(v, str) and not v.isascii() else v for v in values]


def _map_values(values: Any, rule: Callable[[Any], Any]) -> list[Any]:
    """Apply a rule to every value, once per distinct value."""
    if isinstance(values, pa.ChunkedArray):
        values = values.to_pylist()
    parsed: dict[tuple[type, Hashable], Any] = {}
    results = []
    for value in values:
        try:
            key = (type(value), value)
            if key not in parsed:
                parsed[key] = rule(value)
            results.append(parsed[key])
        except TypeError:  # not hashable
            results.append(rule(value))
    return results


def _make_text_array(texts: list[Any], problem: list[str | None]) -> pa.Array:
    """Return texts as an Arrow array, and enter in `problem` why a value cannot be a text."""
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
