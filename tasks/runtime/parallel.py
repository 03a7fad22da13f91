"""Work on many items side by side in threads, in order and in bounded memory, and memory that is used again.

For functions that release the interpreter lock, as Arrow's and NumPy's do. Touches no file.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")
THREADS = min(8, len(os.sched_getaffinity(0)))  # results do not depend on it; memory grows with it
HELPERS = max(1, THREADS - 1)  # threads of a pool for `map_ahead`, beside the one that iterates


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], *, ahead: int = THREADS
) -> Iterator[R]:
    """Yield the results in order, while up to `ahead` more items are under way.

    Instead of waiting, the thread that iterates takes the next item that nobody has begun.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()

    def first() -> R:
        while not waiting[0][1].done() and _help(waiting, function):
            pass
        return waiting.popleft()[1].result()

    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > ahead:
            yield first()
    while waiting:
        yield first()


def _help(waiting: deque[tuple[T, Future[R]]], function: Callable[[T], R]) -> bool:
    """Do the first item that is not begun; tell whether there was one."""
    for place, (item, future) in enumerate(waiting):
        if future.cancel():
            done: Future[R] = Future()
            try:
                done.set_result(function(item))
            except Exception as error:
                done.set_exception(error)
            waiting[place] = item, done
            return True
    return False
