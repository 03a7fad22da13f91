"""End with the process that started this one: a flow run must not outlive the service that watches it."""

import os
import signal
import threading
import time

PARENT_VARIABLE = "GLOVEFLOW_PARENT_PID"
POLL_SECONDS = 0.5
GRACE_SECONDS = 10.0


def end_with_parent() -> None:
    """End this process when the one that `GLOVEFLOW_PARENT_PID` names is gone. Without the variable, do nothing.

    The process gets SIGTERM, so that a training saves a checkpoint, and SIGKILL after `GRACE_SECONDS`. A thread polls;
    the signal that Linux can send at the end of a parent would also come at the end of a mere thread of it.
    """
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    if parent and parent != os.getpid():
        threading.Thread(target=_watch, args=(parent,), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
