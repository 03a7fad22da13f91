"""What `gloveflow doctor` finds."""

from collections.abc import Callable
from typing import NamedTuple


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
