"""What a request for a registered model may be: its texts, its options, its limits.

Messages name types, counts and names of columns, never texts, because they end up in logs and answers of servers.
"""

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

LIMITS = {  # environment variable: (field of `Limits`, default)
    "GLOVEFLOW_SERVING_MAX_ROWS": ("rows", 100_000),
    "GLOVEFLOW_SERVING_MAX_CHARACTERS": ("characters", 1_000_000),
    "GLOVEFLOW_SERVING_MAX_TOKENS": ("tokens", 20_000_000),
    "GLOVEFLOW_SERVING_MAX_EXPLAINED": ("explained", 100),
}
OPTIONS = ("top_k", "threshold", "explain", "on_error")
_NAMES_SHOWN = 10


class RequestError(ValueError):
    """A request that cannot be answered; the message says what was expected and what came."""


class Limits(NamedTuple):
    """How much one request may ask for.

    Attributes:
        rows: texts of a request.
        characters: characters of a text.
        tokens: tokens of all texts of a request, as far as the network reads them.
        explained: texts of a request with `explain`.
    """

    rows: int
    characters: int
    tokens: int
    explained: int


class Options(NamedTuple):
    """The `params` of a request.

    Attributes:
        top_k: how many probabilities an answer has, the highest first; None is all, in the order of the classes.
        threshold: answers with a lower probability get `abstained`; None leaves it out.
        explain: whether answers have `tokens`, the tokens of the text with their weights.
        on_error: what a value that is no text does: `request` refuses all, `row` gives the row an `error`.
    """

    top_k: int | None = None
    threshold: float | None = None
    explain: bool = False
    on_error: str = "request"


def read_number(variable: str, default: int) -> int:
    """Return the whole number in an environment variable, at least 1.

    Raises:
        ValueError: it is something else.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        return default
    if not re.fullmatch(r"[0-9]{1,18}", value) or not int(value):
        raise ValueError(f"{variable}: expected a whole number of at least 1, got {value!r}")
    return int(value)


def read_limits() -> Limits:
    """Return the limits that the environment sets, and the defaults of the others."""
    return Limits(**{field: read_number(name, default) for name, (field, default) in LIMITS.items()})


def read_options(params: Mapping[str, Any] | None) -> Options:
    """Check the `params` of a request.

    Raises:
        RequestError: one is unknown or has a value that it cannot have.
    """
    given = {name: value for name, value in (params or {}).items() if value is not None}
    if unknown := sorted(map(str, given.keys() - set(OPTIONS))):
        raise RequestError(f"params: expected {', '.join(OPTIONS)}, got {_show_names(unknown)}")
    options = Options(**given)
    if options.top_k is not None and (not _is_whole(options.top_k) or options.top_k < 1):
        raise RequestError(f"params: top_k: expected a whole number of at least 1, got {options.top_k!r:.40}")
    if options.threshold is not None:
        number = isinstance(options.threshold, int | float) and not isinstance(options.threshold, bool)
        if not number or not 0 <= options.threshold <= 1:
            raise RequestError(f"params: threshold: expected a number from 0 to 1, got {options.threshold!r:.40}")
    if not isinstance(options.explain, bool):
        raise RequestError(f"params: explain: expected true or false, got {options.explain!r:.40}")
    if options.on_error not in ("row", "request"):
        raise RequestError(f"params: on_error: expected row or request, got {options.on_error!r:.40}")
    return options


def read_values(model_input: Any, columns: Sequence[str], joiner: str) -> list[Any]:
    """Return what stands in the place of the text in each row of a request: a string, or what came instead.

    Args:
        model_input: a table, a Series, an array, a list, a dict of lists, or a text.
        columns: the text columns of the model.
        joiner: what stands between the texts of two columns.

    Raises:
        RequestError: there are no columns to read, or several and none is known.
    """
    names, values = _list_columns(model_input)
    chosen = _choose_columns(names, columns)
    lists = [values[names.index(name)] for name in chosen]
    return lists[0] if len(lists) == 1 else [_join(parts, joiner) for parts in zip(*lists, strict=True)]


def find_problem(value: Any, limits: Limits | None) -> str | None:
    """Return why a value cannot be classified, without showing it; None if it can."""
    if not isinstance(value, str):
        return f"expected a string, got {_show_kind(value)}"
    if limits and len(value) > limits.characters:
        return (
            f"expected at most {limits.characters:,} characters (GLOVEFLOW_SERVING_MAX_CHARACTERS), got {len(value):,}"
        )
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            return "expected Unicode text, got a string with a lone surrogate"
    return None


def check_size(name: str, size: int, limit: int) -> None:
    """Refuse a request that asks for more than a limit.

    Args:
        name: the field of `Limits`.
        size: what the request asks for.
        limit: the limit.

    Raises:
        RequestError: it does.
    """
    if size > limit:
        variable = next(variable for variable, (field, _) in LIMITS.items() if field == name)
        what = "texts with explain" if name == "explained" else name
        raise RequestError(f"expected at most {limit:,} {what} in a request ({variable}), got {size:,}")


def _list_columns(data: Any) -> tuple[list[Any], list[list[Any]]]:
    """Return the names and the values of the columns of a request; texts without a name have None."""
    if isinstance(data, pd.DataFrame):
        return list(data.columns), [data.iloc[:, i].tolist() for i in range(data.shape[1])]
    if isinstance(data, Mapping):
        return _list_fields(data)
    if isinstance(data, np.ndarray | pd.Series):
        data = data.tolist()
    values = data if isinstance(data, list | tuple) else [data]
    if not values:
        raise RequestError("expected at least one text, got none")
    if all(isinstance(value, Mapping) for value in values):
        names = list(dict.fromkeys(name for row in values for name in row))
        return names, [[_unpack(row.get(name)) for row in values] for name in names]
    if all(isinstance(value, list | tuple) for value in values):
        sizes = {len(value) for value in values}
        if sizes != {1}:
            raise RequestError(f"expected one text in each row, got rows of {_show_counts(sizes)} values")
        values = [value[0] for value in values]
    return [None], [[_unpack(value) for value in values]]


def _list_fields(data: Mapping[Any, Any]) -> tuple[list[Any], list[list[Any]]]:
    """Return the columns of a dict of lists, or of a dict of values, which is one row."""
    columns = []
    for value in data.values():
        value = value.tolist() if isinstance(value, np.ndarray | pd.Series) else value
        columns.append(list(value) if isinstance(value, list | tuple) else [value])
    sizes = {len(column) for column in columns}
    if len(sizes) > 1:
        raise RequestError(f"expected columns of equal length, got {_show_counts(sizes)} rows")
    return list(data), columns


def _choose_columns(names: list[Any], own: Sequence[str]) -> list[Any]:
    for wanted in (list(own), ["text"]):
        if all(name in names for name in wanted):
            repeated = [name for name in wanted if names.count(name) > 1]
            if repeated:
                raise RequestError(f"expected one column {repeated[0]!r}, got {names.count(repeated[0])}")
            return wanted
    if len(names) == 1:
        return names
    known = " and ".join(repr(name) for name in own)
    either = "" if tuple(own) == ("text",) else f"the column{'s' * (len(own) > 1)} {known}, or "
    raise RequestError(
        f"expected {either}a column 'text', or a table of one column, got "
        + (f"{len(names)} columns: {_show_names(names)}" if names else "no columns")
    )


def _join(parts: Sequence[Any], joiner: str) -> Any:
    """Return the texts of a row's columns as one, without those that are null or blank; or a part that is no text."""
    present = [part for part in parts if not _is_null(part)]
    wrong = [part for part in present if not isinstance(part, str)]
    if wrong or not present:
        return wrong[0] if wrong else None
    return joiner.join(part for part in present if part.strip())


def _unpack(value: Any) -> Any:
    return value.item() if isinstance(value, np.ndarray) and value.ndim == 0 else value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_null(value: Any) -> bool:
    return value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and value != value)


def _show_kind(value: Any) -> str:
    if _is_null(value):
        return "null"
    kinds = {bool: "a boolean", int: "a number", float: "a number", bytes: "bytes", list: "a list", dict: "an object"}
    return kinds.get(type(value), f"a value of the type {type(value).__name__}")


def _show_names(names: Sequence[Any]) -> str:
    """Return names for a message; one that may be a text, such as the first line of a CSV, is not shown."""
    shown = [repr(name) if re.fullmatch(r"[\w.:-]{1,40}", str(name)) else "(no plain name)" for name in names]
    return ", ".join(shown[:_NAMES_SHOWN]) + (", ..." if len(shown) > _NAMES_SHOWN else "")


def _show_counts(sizes: set[int]) -> str:
    return " and ".join(map(str, sorted(sizes)[:3]))
