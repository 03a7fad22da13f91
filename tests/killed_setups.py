"""Kill the set-up of a database at sizes of its files, in forks of one process that has imported the library."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path


def kill_at_size(start: Callable[[], object], directory: Path, size: int) -> bool:
    """Start in a fork, and kill it once the files of the directory have a size in bytes; return whether it got there."""
    child = os.fork()
    if child == 0:
        start()
        os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if _size(directory) >= size:
            os.kill(child, signal.SIGKILL)
            return os.waitpid(child, 0)[1] == signal.SIGKILL
        time.sleep(0.0005)
    return False


def _size(directory: Path) -> int:
    total = 0
    for path in directory.iterdir():
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # a journal comes and goes
            continue
    return total
