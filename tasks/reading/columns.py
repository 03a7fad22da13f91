"""Find the columns of a file by name, and fields inside objects by dotted names."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline_config.errors import InputError

ABSENT = object()
_LONGEST_NAME = 40
_MOST_NAMES = 20
_OPTIONS = {"text": "--text", "label": "--label"}  # of the columns that have these names if nothing is set


def find_column(header: Sequence[str], name: str, path: Path) -> int:
    """Return the place of a column.

    Raises:
        InputError: there is no such column, or there are several.
    """
    if name not in header:
        raise InputError(describe_missing(path, name, show_columns(header)))
    places = [place for place, other in enumerate(header, 1) if other == name]
    if len(places) > 1:
        raise InputError(
            f"{path}: expected one column {name!r}, got {len(places)}, at the positions "
            f"{', '.join(map(str, places[:-1]))} and {places[-1]}; give them different names"
        )
    return places[0] - 1


def describe_missing(path: Path, name: str, found: str) -> str:
    """Return the message about a column that a file lacks.

    Args:
        path: the file.
        name: the column.
        found: what is there, in words.
    """
    option = _OPTIONS.get(name)
    return f"{path}: expected a column {name!r}, got {found}" + (f"; {option} NAME gives its name" if option else "")


def find_field(values: Mapping[str, Any], name: str) -> Any:
    """Return a field of an object, or of an object inside it by a dotted name, or `ABSENT`.

    A field whose own name has the dots comes first.
    """
    if name in values:
        return values[name]
    inner: Any = values
    for part in name.split("."):
        if not isinstance(inner, Mapping) or part not in inner:
            return ABSENT
        inner = inner[part]
    return inner


def list_fields(values: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Return the names of the fields of an object, those inside objects as dotted names."""
    names: list[str] = []
    for name, value in values.items():
        names += (
            list_fields(value, f"{prefix}{name}.")
            if isinstance(value, Mapping) and value and prefix.count(".") < 5
            else [prefix + name]
        )
    return names


def show_columns(names: Sequence[str]) -> str:
    """Return the names of columns for a message, shortened."""
    if not names:
        return "no header"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"columns {', '.join(show_value(name) for name in names[:_MOST_NAMES])}{more}"


def show_value(value: str) -> str:
    """Return a value of a file for a message: quoted, and not longer than a name is."""
    return repr(value if len(value) <= _LONGEST_NAME else value[: _LONGEST_NAME - 3] + "...")
