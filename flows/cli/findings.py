"""What `gloveflow doctor` finds, and the locks that its repairs hold."""

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from tasks.store.locks import try_lock
from tasks.store.private_files import make_directory


class Finding(NamedTuple):
    """The result of one check.

    Attributes:
        ok: whether everything is as it should be.
        subject: what was checked, in a few words.
        text: what was found.
        remedy: what a repair would do; empty if there is nothing to mend, or nothing that a repair can mend.
        mend: does it, and returns what was done. It checks again first, because others may work on the same artifacts.
    """

    ok: bool
    subject: str
    text: str
    remedy: str = ""
    mend: Callable[[], str] | None = None


@contextlib.contextmanager
def locked_at_once(path: Path) -> Iterator[bool]:
    """Hold the lock on a file during the body, if no process holds it; yields whether that is so."""
    make_directory(path.parent)
    with path.open("a") as file:
        yield try_lock(file.fileno(), path)
