"""File locks that die with their process, and the errors of a store that cannot be written.

Only standard library, because commands lock before anything heavy is imported.
"""

import contextlib
import fcntl
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline_config.errors import StoreError
from tasks.store.disk_errors import store_errors

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def file_lock(path: Path, *, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive lock on a file; it is released when the process ends, however it ends.

    Raises:
        StoreError: the file cannot be opened or its file system has no locks.
    """
    with store_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a")
    with file:
        told = False
        while not try_lock(file.fileno(), path):
            if not told:
                logger.info("waiting for %s", waiting_for)
                told = True
            time.sleep(0.1)
        yield


def try_lock(descriptor: int, path: Path) -> bool:
    """Try to lock an open file and say whether it worked.

    Raises:
        StoreError: the file system has no locks.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise StoreError(f"{path}: its file system has no file locks ({error.strerror})") from error
    return True
