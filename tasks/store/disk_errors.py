"""Turn errors of writing to a disk into messages that a user can act on. Imports only the standard library."""

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from pipeline_config.errors import StoreError


@contextlib.contextmanager
def store_errors(path: Path, *, only_full: bool = False) -> Iterator[None]:
    """Raise `StoreError` in place of the body's `OSError`s, which are about writing to `path`.

    With `only_full`, only the error of a full disk or an exceeded quota is replaced.

    Raises:
        StoreError: the body could not write.
    """
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        if only_full and not full:
            raise
        advice = "free some space and run again" if full else "set GLOVEFLOW_ARTIFACTS to a writable directory"
        raise StoreError(f"{path}: cannot be written: {error.strerror}; {advice}, nothing was lost") from error
