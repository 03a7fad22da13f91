"""Stop the work of a run in all threads of the process: every long loop checks here at each step."""

import threading

_stopped = threading.Event()


class WorkStopped(BaseException):
    """Raised inside a long loop after `stop_work`; not an `Exception`, so that no loop swallows it."""


def stop_work() -> None:
    """Make every loop that reports progress, in all threads of this process, end at its next step."""
    _stopped.set()


def allow_work() -> None:
    """Undo `stop_work`."""
    _stopped.clear()


def raise_if_stopped() -> None:
    """Raise `WorkStopped` after `stop_work`; also called where a step of progress takes long."""
    if _stopped.is_set():
        raise WorkStopped
