"""How many threads torch computes a request with.

Two threads that compute one short text together wait for each other at every step of the LSTM. When other work has the
processors, each wait takes as long as the other work lets it. A short request is therefore computed by one thread.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

THREADS = "GLOVEFLOW_SERVING_THREADS"  # environment variable: torch's threads for a small request
SMALL = 4096  # padded tokens; a request with fewer is small
T = TypeVar("T")


class SmallRequests:
    """Runs the work of small requests in threads of their own, for which alone torch's number of threads is lower.

    Args:
        threads: torch's threads for a small request.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "served", _limit_torch_threads, (threads,))

    def run(self, body: Callable[[], T], *, tokens: int) -> T:
        """Return the result of a function that computes with torch.

        Args:
            body: the function.
            tokens: how many padded tokens it computes with.
        """
        if tokens >= SMALL or torch.get_num_threads() <= self._threads:
            return body()
        return self._pool.submit(body).result()


def _limit_torch_threads(threads: int) -> None:
    """Set torch's threads for the calling thread alone.

    Torch takes the last number that any thread has set for threads that have not used it yet. So another thread sets
    it back to what it was.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    other = threading.Thread(target=torch.set_num_threads, args=(before,))
    other.start()
    other.join()
