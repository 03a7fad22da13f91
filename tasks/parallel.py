"""Work on many items side by side in threads, in order and in bounded memory.

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


def map_ahead(
    pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], *, ahead: int = THREADS
) -> Iterator[R]:
    """Yield the results in order, while up to `ahead` more items are under way."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
