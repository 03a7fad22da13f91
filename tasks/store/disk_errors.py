"""Errors of a disk that cannot be written, as messages that a user can act on. Only standard library."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from pipeline_config.errors import StoreError


@contextlib.contextmanager
def store_errors(path: Path, *, only_full: bool = False) -> Iterator[None]:
    """Turn the body's errors of writing to `path` into a `StoreError`; with `only_full` those of a full disk."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if only_full and not full:
            raise
        advice = "free some space and run again" if full else "set GLOVEFLOW_ARTIFACTS to a writable directory"
        raise StoreError(f"{path}: cannot be written: {error.strerror}; {advice}, nothing was lost") from error
