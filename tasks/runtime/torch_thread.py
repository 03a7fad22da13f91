"""The thread in which torch computes, one piece of work at a time, with a fixed number of CPU threads."""

import contextvars
import functools
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from tasks.runtime.cancellation import WorkStopped, raise_if_stopped

T = TypeVar("T")
_creation = threading.Lock()


def run_in_torch_thread(body: Callable[[], T], *, threads: int | None) -> T:
    """Run a function in the torch thread of this process, one at a time, so that nothing else changes its numbers.

    The number of torch's CPU threads is a setting of the process, and it changes the bits of results. Denormal numbers
    are flushed to zero: gradients through long texts become denormal, and processors are slow with them. That is a
    setting of a thread and of the OpenMP threads that it starts.

    There is one torch thread for all work because OpenMP's threads belong to the thread that started them. When a
    process has more OpenMP threads than processors, idle ones sleep instead of spinning, and waking them makes a
    training two to three times slower.

    Args:
        body: the function to run.
        threads: number of torch's CPU threads; None leaves it as it is.
    """
    future = _open_torch_thread().submit(contextvars.copy_context().run, _fix_and_run, body, threads)
    while not wait([future], timeout=0.1).done:
        try:
            raise_if_stopped()
        except WorkStopped:
            if future.cancel():  # a body that is already running stops by itself
                raise
    return future.result()


def _open_torch_thread() -> ThreadPoolExecutor:
    with _creation:  # functools.cache alone would let two threads create one each
        return _create_torch_thread()


@functools.cache
def _create_torch_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="torch", initializer=torch.set_flush_denormal, initargs=(True,))


def _fix_and_run(body: Callable[[], T], threads: int | None) -> T:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return body()
    finally:
        torch.set_num_threads(before)
