"""File locks between processes. The kernel releases a lock when its process ends.

Imports only the standard library, because commands lock files before they import anything heavy.
"""

import contextlib
import fcntl
import logging
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline_config.errors import StoreError
from tasks.store.disk_errors import store_errors
from tasks.store.private_files import make_directory

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def file_lock(path: Path, *, waiting_for: str) -> Iterator[None]:
    """Hold an exclusive lock on a file during the body. The lock also ends with the process, even after SIGKILL.

    The time of the file says when it was last locked (`last_use`).

    Args:
        path: the file to lock; it and its directories are created.
        waiting_for: what to log, once, if another process holds the lock.

    Raises:
        StoreError: the file cannot be opened, or its file system has no locks.
    """
    logged = False
    while True:
        with store_errors(path):
            make_directory(path.parent)
            file = path.open("a")
        with file:
            while not try_lock(file.fileno(), path):
                if not logged:
                    logger.info("waiting for %s", waiting_for)
                    logged = True
                time.sleep(0.1)
            if not _is_named(file.fileno(), path):
                continue  # whoever held it has removed the file
            with contextlib.suppress(OSError):
                os.utime(file.fileno())
            yield
            return


@contextlib.contextmanager
def locked_at_once(path: Path) -> Iterator[bool]:
    """Hold the lock on a file during the body, if no process holds it; yields whether that is so.

    During the body the file may be removed: whoever waits for the lock sees that and makes a new file. A file that was
    missing gets the time 0, since nobody has used it.
    """
    make_directory(path.parent)
    if not path.exists() and (made := _make_locked(path)) is not None:
        try:
            yield True
        finally:
            os.close(made)
        return
    with path.open("a") as file:
        yield try_lock(file.fileno(), path) and _is_named(file.fileno(), path)


def last_use(path: Path) -> float:
    """Return when `file_lock` last locked a file, in seconds since 1970; 0 if the file is missing."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _make_locked(path: Path) -> int | None:
    """Make a file that is locked before it gets its name; None if another process was first."""
    unnamed = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.new")
    descriptor = os.open(unnamed, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        try_lock(descriptor, path)
        os.utime(descriptor, (0, 0))
        os.link(unnamed, path)
    except FileExistsError:
        os.close(descriptor)
        return None
    finally:
        unnamed.unlink()
    return descriptor


def _is_named(descriptor: int, path: Path) -> bool:
    """Return whether a path still leads to an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def try_lock(descriptor: int, path: Path) -> bool:
    """Try to lock an open file; return whether it worked. `path` is for the message.

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


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock on a file. The file is not created; one that is missing is not held."""
    try:
        with path.open("rb") as file:
            return not try_lock(file.fileno(), path)
    except FileNotFoundError:
        return False


def lock_before_naming(path: Path) -> int:
    """Make a lock file that is locked before it gets its name, so that nobody ever finds it unlocked.

    Returns:
        The file descriptor that holds the lock, until it is closed or the process ends.

    Raises:
        StoreError: the file cannot be made, or its file system has no locks.
    """
    unnamed = path.with_suffix(".new")
    with store_errors(path):
        make_directory(path.parent)
        descriptor = os.open(unnamed, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try_lock(descriptor, path)
        unnamed.rename(path)
    return descriptor
