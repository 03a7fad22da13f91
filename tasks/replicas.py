"""Copies of a network that share its weights, so that each takes a part of a batch in a thread of its own.

The products of an LSTM's steps are too small for several threads: two halves of a batch side by side are faster than
one batch with two threads in every product. Touches no file.
"""

import contextlib
import copy
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import torch
from torch import Generator

from tasks.network import TextClassifier

T = TypeVar("T")
MIN_DOCUMENTS = 16  # of a batch for each copy: with fewer the products lose more than the threads gain


class Replicas:
    """A network and copies of it, one per thread, with a random generator each.

    Args:
        network: of which the copies share the weights, but not the gradients.
        batch_size: documents that are divided, at most.
    """

    def __init__(self, network: TextClassifier, batch_size: int) -> None:
        device, threads = next(network.parameters()).device, torch.get_num_threads()
        count = max(1, min(threads, batch_size // MIN_DOCUMENTS)) if device.type == "cpu" else 1
        self.networks = [network, *(_share(network) for _ in range(count - 1))]
        self._generators = [Generator(device) for _ in self.networks]
        self._threads = max(1, threads // count)
        self._pool = ThreadPoolExecutor(
            max(1, count - 1), thread_name_prefix="replica", initializer=torch.set_flush_denormal, initargs=(True,)
        )

    def seed(self, *numbers: int) -> None:
        """Let each copy draw from numbers of its own."""
        for place, generator in enumerate(self._generators):
            generator.manual_seed(int(np.random.SeedSequence([*numbers, place]).generate_state(1)[0]))

    def run(self, body: Callable[[TextClassifier, Generator, np.ndarray], T], documents: np.ndarray) -> list[T]:
        """Call a body with each copy, its generator and its part of the documents; return the results in order."""
        parts = [documents[place :: len(self.networks)] for place in range(min(len(documents), len(self.networks)))]
        calls = list(zip(self.networks, self._generators, parts, strict=False))
        with _torch_threads(self._threads if len(self.networks) > 1 else None):
            others = [self._pool.submit(body, *call) for call in calls[1:]]
            try:
                return [body(*calls[0]), *(other.result() for other in others)]
            finally:
                for other in others:
                    other.exception()  # none is still at work

    def sum_gradients(self) -> None:
        """Add the gradients of the copies to those of the network, always in the same order."""
        for other in self.networks[1:]:
            for weight, shared in zip(self.networks[0].parameters(), other.parameters(), strict=True):
                if shared.grad is not None:
                    weight.grad = shared.grad if weight.grad is None else weight.grad.add_(shared.grad)
                    shared.grad = None

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()


def _share(network: TextClassifier) -> TextClassifier:
    shared = copy.deepcopy(network)
    for weight, own in zip(network.parameters(), shared.parameters(), strict=True):
        own.data = weight.data
    return shared


@contextlib.contextmanager
def _torch_threads(count: int | None) -> Iterator[None]:
    """Let torch use so many threads in the body, in threads that begin there, too."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
