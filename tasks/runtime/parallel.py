"""Work on many items in threads, with results in order and bounded memory.

For functions that release the interpreter lock, as Arrow's and NumPy's do. Touches no file.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")
R = TypeVar("R")
THREADS = min(8, len(os.sched_getaffinity(0)))  # results do not depend on it; memory use grows with it
HELPERS = max(1, THREADS - 1)  # size of a pool for `map_ahead`; the thread that iterates works too


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], *, ahead: int = THREADS
) -> Iterator[R]:
    """Yield the results in order, with up to `ahead` more items submitted to the pool.

    While the next result is not ready, the thread that iterates works on the first item that no thread has started.
    """
    waiting: deque[tuple[T, Future[R]]] = deque()

    def take_first() -> R:
        while not waiting[0][1].done() and _work_on_first(waiting, function):
            pass
        return waiting.popleft()[1].result()

    for item in items:
        waiting.append((item, pool.submit(function, item)))
        if len(waiting) > ahead:
            yield take_first()
    while waiting:
        yield take_first()


def _work_on_first(waiting: deque[tuple[T, Future[R]]], function: Callable[[T], R]) -> bool:
    """Work on the first item that no thread has started; return whether there was one."""
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


def read_ahead(items: Iterator[T]) -> Iterator[T]:
    """Yield items that a thread takes from an iterator, one ahead of what is used."""
    with ThreadPoolExecutor(1, "read-ahead") as pool:
        end = object()
        following = pool.submit(next, items, end)
        while (item := following.result()) is not end:
            following = pool.submit(next, items, end)
            yield cast("T", item)
