"""Find the columns of a file by name."""

from pathlib import Path

from pipeline_config.errors import InputError


def find_column(header: list[str], name: str, path: Path) -> int:
    """Return the place of a column, or raise an InputError that names the columns of the file."""
    if name not in header:
        found = f"columns {', '.join(map(repr, header))}" if header else "no header"
        raise InputError(f"{path}: expected a column {name!r}, got {found}")
    return header.index(name)
