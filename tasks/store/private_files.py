"""Directories and files that only their owner can read. Imports only the standard library.

Only what is missing is made: the mode of a directory or file that exists is not changed.
"""

import os
from pathlib import Path
from typing import BinaryIO


def make_directory(path: Path) -> None:
    """Make a directory and its missing parents with mode 0700."""
    missing = []
    while not path.is_dir():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o700, exist_ok=True)  # another process may have been first


def open_to_append(path: Path) -> BinaryIO:
    """Open a file to append to it; if it is missing, make it with mode 0600, and its directories with mode 0700."""
    make_directory(path.parent)
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600), "ab")
