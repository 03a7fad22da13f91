"""Turn errors of writing to a disk into messages that a user can act on. Imports only the standard library."""

import contextlib
import errno
import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from pipeline_config.errors import GloveflowError, StoreError

OPEN_FILES = 1024
NEEDED_FILES = 256  # a run has some 40 open, and its server 30
_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_HANDLES = {errno.EMFILE, errno.ENFILE}
_EXHAUSTED = {*_FULL, *_NO_HANDLES, errno.EFBIG}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_ADVICE = {
    **dict.fromkeys(_FULL, "free some space and run again"),
    **dict.fromkeys(_FORBIDDEN, "set GLOVEFLOW_ARTIFACTS to a writable directory"),
    **dict.fromkeys(_NO_HANDLES, "allow more open files (`ulimit -n 1024`) and run again"),
    errno.EFBIG: "allow larger files (`ulimit -f unlimited`) and run again",
    errno.EIO: "see whether the disk is full or broken, and run again",
}
_OF_SQLITE = {  # SQLite's primary result code -> the number of the system's error that it stands for
    3: errno.EACCES,
    8: errno.EROFS,
    10: errno.EIO,
    13: errno.ENOSPC,
    14: errno.EACCES,
}


@contextlib.contextmanager
def store_errors(path: Path, *, only_exhausted: bool = False) -> Iterator[None]:
    """Raise `StoreError` in place of the body's errors that are about writing to `path`: of the system, and of SQLite.

    With `only_exhausted`, only the errors of a full disk, an exceeded quota, and too many open files are replaced.

    Raises:
        StoreError: the body could not write.
    """
    try:
        yield
    except GloveflowError:
        raise
    except Exception as error:
        number = next((number for cause in _chain(error) if (number := _number(cause)) is not None), None)
        if only_exhausted and number not in _EXHAUSTED:
            raise
        found = find_store_error(error, path)
        if found is None and isinstance(error, OSError):
            found = _describe(path, error.errno, str(error.strerror))
        if found is None:
            raise
        raise found from error


def find_store_error(error: BaseException, path: Path) -> StoreError | None:
    """Return the error to raise if an error, or one that it was raised from, is that a disk cannot be written.

    Libraries hide such errors behind their own. Full disks, directories and databases that may not be written, and a
    process with too many open files are recognised.

    Args:
        error: any error.
        path: the place to name if the error names none.
    """
    for cause in _chain(error):
        number = _number(cause)
        if number is not None:
            name = getattr(cause, "filename", None)
            place = Path(os.fsdecode(name)) if isinstance(name, str | bytes) else path
            if number in _FORBIDDEN and not place.is_relative_to(path):
                return None  # a file of the user's that cannot be read
            return _describe(place, number, os.strerror(number) if isinstance(cause, OSError) else str(cause))
    return None


def require_handles(error: OSError, path: Path) -> None:
    """Raise `StoreError` if a file could not be opened because too many are open: that says nothing about the file.

    Raises:
        StoreError: too many files are open, in this process or on this machine.
    """
    if error.errno in _NO_HANDLES:
        raise _describe(path, error.errno, str(error.strerror)) from error


def allow_open_files() -> None:
    """Let this process and its children open `OPEN_FILES` files at once, or as many as the system lets it.

    Raises:
        StoreError: the system allows less than `NEEDED_FILES`, which a library may wait for without end.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= OPEN_FILES:
        return
    soft = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft < NEEDED_FILES:
        raise StoreError(
            f"this process may have {soft} files open at once, expected at least {NEEDED_FILES}: "
            f"{_ADVICE[errno.EMFILE]}, nothing was lost"
        )


def _describe(path: Path, number: int | None, reason: str) -> StoreError:
    advice = _ADVICE.get(number or 0, _ADVICE[errno.EACCES])
    space = _describe_space(path) if number in _FULL | {errno.EIO} else ""
    what = "opened" if number in _NO_HANDLES else "written"
    return StoreError(f"{path}: cannot be {what}: {reason}{space}; {advice}, nothing was lost")


def _describe_space(path: Path) -> str:
    for place in (path, *path.parents):
        with contextlib.suppress(OSError):
            return f" ({shutil.disk_usage(place).free / 2**20:,.1f} MiB are free)"
    return ""


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error, the error that it was raised from, and so on."""
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        yield following
        seen.add(id(following))
        following = following.__cause__ or following.__context__


def _number(error: BaseException) -> int | None:
    """Return the system's number of an error of the disk, or None for any other error."""
    if isinstance(error, OSError):
        return error.errno if error.errno in _ADVICE else None
    code = getattr(error, "sqlite_errorcode", None)
    return None if code is None else _OF_SQLITE.get(code & 0xFF)
