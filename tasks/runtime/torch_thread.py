"""The thread in which torch computes, one piece of work at a time, with a fixed number of CPU threads."""

import contextvars
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from typing import TypeVar

import torch

from tasks.runtime.cancellation import WorkStopped, raise_if_stopped

T = TypeVar("T")
_torch_thread = ThreadPoolExecutor(
    1, thread_name_prefix="torch", initializer=torch.set_flush_denormal, initargs=(True,)
)


def run_in_torch_thread(body: Callable[[], T], *, threads: int | None) -> T:
    """Run a body in the thread of this process that is for torch, one body at a time; nothing else changes its numbers.

    The number of torch's threads belongs to the process and changes the bits of results. Denormal numbers, which
    gradients through long texts end in and which processors are slow at, are taken as zero; that is a property of a
    thread and of the OpenMP threads that it starts. These stay with the thread, and OpenMP waits asleep where a process
    has more of them than processors, which halves the speed of a training: hence one thread for all.

    Args:
        body: what to run.
        threads: torch's threads; None is the number it has.
    """
    future = _torch_thread.submit(contextvars.copy_context().run, _fix_and_run, body, threads)
    while not wait([future], timeout=0.1).done:
        try:
            raise_if_stopped()
        except WorkStopped:
            if future.cancel():  # a body that has begun ends by itself
                raise
    return future.result()


def _fix_and_run(body: Callable[[], T], threads: int | None) -> T:
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    try:
        return body()
    finally:
        torch.set_num_threads(before)
