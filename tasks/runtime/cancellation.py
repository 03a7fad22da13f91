"""Stop the work of a run in all threads of the process: every long loop asks here, at each of its steps."""

import threading

_stopped = threading.Event()


class WorkStopped(BaseException):
    """Raised inside a long loop after `stop_work`."""


def stop_work() -> None:
    """End every loop that reports progress, in all threads of this process, at its next step."""
    _stopped.set()


def allow_work() -> None:
    """Undo `stop_work`."""
    _stopped.clear()


def raise_if_stopped() -> None:
    """End here after `stop_work`, in work too long between two steps of progress."""
    if _stopped.is_set():
        raise WorkStopped
