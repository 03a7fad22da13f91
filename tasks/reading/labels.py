"""The one rule that makes a class name of a value, in training, held-out and scored data of every format."""

import math
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_config.errors import InputError

_UNSEEN = re.compile("[\u200b\u2060\ufeff]")  # zero-width space, word joiner, byte order mark
_WHOLE = re.compile(r"(-?)(0|[1-9][0-9]*)(?:\.0*)?")
_FLAG_LETTERS = range(0xE0020, 0xE0080)  # the ends of flags such as those of Scotland and Wales
_SHOWN = 80  # characters of a value in a message


def parse_label(value: Any) -> str | None:
    """Return a label as text, or None for no label.

    Whole numbers are "1" in any form (`1`, `1.0`, `"1"`, `"1.0"`), other numbers have their shortest form, true and
    false are lower case. Texts are in Unicode normalization form C, without invisible characters at their ends. A list
    stands for its only element. Null, NaN, blank texts and empty lists are no label.

    Raises:
        InputError: the value is a list of several values, or an object.
    """
    if isinstance(value, list | tuple | np.ndarray):
        if len(value) > 1:
            raise InputError(f"expected one value, got a list of {len(value)} values: {_show(value)}")
        return parse_label(value[0]) if len(value) else None
    if isinstance(value, dict):
        raise InputError(f"expected one value, got an object: {_show(value)}")
    if value is None or (not isinstance(value, str | bytes) and value != value):
        return None
    if isinstance(value, float | np.floating) and math.isfinite(value) and value == int(value):
        value = int(value)
    return _clean(value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else str(value))


def parse_named(value: Any, names: Sequence[str]) -> str | None:
    """Return a label of a column whose numbers stand for class names; -1 is no label.

    Raises:
        InputError: there is no class with this number, or the value is a list of several values or an object.
    """
    label = parse_label(value)
    if label is None or label == "-1":
        return None
    if not label.isdecimal():
        return label
    if int(label) >= len(names):
        raise InputError(f"expected a class number below {len(names)}, as the file's metadata has it, got {label}")
    return parse_label(names[int(label)])


def list_values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as Python has them; those of 32 and 16 bits keep their precision."""
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    narrow = {pa.float32(): np.float32, pa.float16(): np.float16}
    if kind in narrow:
        return [None if value is None else narrow[kind](value) for value in column.to_pylist()]
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and kind.value_type in narrow:
        number = narrow[kind.value_type]
        return [None if v is None else [None if x is None else number(x) for x in v] for v in column.to_pylist()]
    values: list[Any] = column.to_pylist()
    return values


def _clean(text: str) -> str | None:
    text = unicodedata.normalize("NFC", text if text.isascii() else _UNSEEN.sub("", text))
    start, end = 0, len(text)
    while start < end and _is_invisible(text[start]):
        start += 1
    while end > start and _is_invisible(text[end - 1]):
        end -= 1
    text = text[start:end]
    if text.lower() in ("true", "false"):
        return text.lower()
    whole = _WHOLE.fullmatch(text)
    if whole:
        return whole[2] if whole[2] == "0" else whole[1] + whole[2]
    return text or None


def _is_invisible(letter: str) -> bool:
    return letter.isspace() or (unicodedata.category(letter) == "Cf" and ord(letter) not in _FLAG_LETTERS)


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
