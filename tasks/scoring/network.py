"""A registered model on whole columns of texts: tokenized in slices, the network run in batches of similar length.

Takes the loaded object of a model's code, with its own tokenizer, network and linear model; returns arrays. Every batch
is computed by one thread, and several threads take batches. So the numbers do not depend on how many threads there are,
and threads never wait for each other inside a layer, which is what makes a busy machine slow.
"""

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from tasks.runtime.cancellation import raise_if_stopped
from tasks.runtime.parallel import THREADS, map_ahead
from tasks.scoring.explanations import explain_labels

BATCH_TOKENS = 4096  # padded tokens of a batch at most, unless a text is longer
BATCH_TEXTS = 512
Forward = Callable[[torch.Tensor, torch.Tensor], np.ndarray]  # ids, lengths -> probabilities float64[B, C]
T = TypeVar("T")
R = TypeVar("R")
_LEAST = 1e-300  # of a probability
_SLICE_BYTES = 1 << 20  # of text, tokenized at once; the tokenizer needs some ten times as much


class Encoded(NamedTuple):
    """Texts as token ids.

    Attributes:
        ids: int32, the ids of the tokens of all texts, joined; a text without tokens has the unknown token.
        offsets: int64[N + 1], where each text begins in `ids`.
        lengths: int64[N], number of tokens of each text, 0 included.
        unknown: int64[N], how many of them are not in the vocabulary.
        added: float64[N, C], what the linear model adds to the logits; None without one.
    """

    ids: np.ndarray
    offsets: np.ndarray
    lengths: np.ndarray
    unknown: np.ndarray
    added: np.ndarray | None = None


class NetworkClassifier:
    """Classifies texts with the network of a registered model; used as a context, it has threads.

    Args:
        served: the loaded object of the model's code, with `labels`, `text`, `token_ids`, `tokenizers` and `network`.
        threads: how many compute at the same time; None is one per processor, or what `OMP_NUM_THREADS` says.
        forward: computes a batch; None has torch do it.
    """

    def __init__(self, served: Any, threads: int | None = None, forward: Forward | None = None) -> None:
        self._served, self._options = served, served.text
        network = served.network
        self._forward = forward or (None if network is None else _use_torch(network, read_temperature(served)))
        self._linear = getattr(served, "linear", None)  # models of older releases have none
        name = self._options["tokenizer"]
        self._tokenize = served.tokenizers.load_tokenizer(name)
        self._tokenizing = None if served.tokenizers.is_columnar(name) else threading.Lock()
        self._words = pa.array(list(served.token_ids), pa.large_string())
        self._ids = np.array([*served.token_ids.values(), self._options["unk_idx"]], np.int32)
        self._threads = threads or min(THREADS, torch.get_num_threads())

    def __enter__(self) -> Self:
        """Start the threads; torch computes with one in each of them."""
        self._before = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(max(1, self._threads - 1), "score", torch.set_num_threads, (1,))
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(self._before)

    def prepare(self, texts: pa.Array) -> Encoded:
        """Return texts (large_string, normalized, no nulls) as token ids."""
        parts = [self._encode_slice(texts.slice(start, size)) for start, size in _slice_texts(texts)]
        if not parts:
            return Encoded(np.zeros(0, np.int32), np.zeros(1, np.int64), *[np.zeros(0, np.int64)] * 2)
        ends = np.cumsum([0, *(len(part.ids) for part in parts)])
        offsets = [part.offsets[:-1] + end for part, end in zip(parts, ends[:-1], strict=True)]
        added = [part.added for part in parts if part.added is not None]
        return Encoded(
            np.concatenate([part.ids for part in parts]),
            np.concatenate([*offsets, ends[-1:]]),
            np.concatenate([part.lengths for part in parts]),
            np.concatenate([part.unknown for part in parts]),
            np.concatenate(added) if added else None,
        )

    def classify(self, prepared: Encoded) -> np.ndarray:
        """Return the probabilities float64[N, C] of texts, in their order."""
        probabilities, forward = np.ones((len(prepared.lengths), len(self._served.labels))), self._forward
        sizes = np.minimum(np.diff(prepared.offsets), self._options["max_length"])

        def run(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            raise_if_stopped()
            return rows, forward(*self.pad(prepared, rows, sizes[rows]))  # type: ignore[misc]

        for rows, answers in self.run_all(run, plan_batches(sizes)) if forward else ():
            probabilities[rows] = answers
        return probabilities if prepared.added is None else _add_logits(probabilities, prepared.added)

    def explain(self, texts: pa.Array, targets: np.ndarray, count: int) -> pa.Array:
        """Return the tokens of texts that weighed most, see `explain_labels`."""
        return explain_labels(self._served, self._split(texts).to_pylist(), targets, count)

    def run_all(self, run: Callable[[T], R], batches: Iterable[T]) -> Iterator[R]:
        """Yield the results of batches, which the threads compute, in order."""
        return map(run, batches) if self._threads == 1 else map_ahead(self._pool, run, batches)

    def pad(self, prepared: Encoded, rows: np.ndarray, sizes: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Return padded int64[B, T] token ids and int64[B] lengths of some texts, cut as in training."""
        longest = self._options["max_length"]
        head = {"head": longest, "tail": 0, "head_tail": (longest + 1) // 2}[self._options["truncation"]]
        whole = np.diff(prepared.offsets)[rows]
        places = np.arange(sizes.max())
        left_out = np.where(places[None, :] >= head, np.maximum(whole - longest, 0)[:, None], 0)
        real = places[None, :] < sizes[:, None]
        at = np.where(real, prepared.offsets[rows][:, None] + places + left_out, 0)
        ids = np.where(real, prepared.ids[at], self._options["padding_idx"]).astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(sizes.astype(np.int64))

    def _split(self, texts: pa.Array) -> pa.Array:
        """Return the tokens of each text."""
        with self._tokenizing or contextlib.nullcontext():
            return self._tokenize(texts)

    def _encode_slice(self, texts: pa.Array) -> Encoded:
        tokens = self._split(texts)
        found = pc.index_in(tokens.flatten(), value_set=self._words)
        known = found.fill_null(len(self._words)).to_numpy()
        ends = tokens.offsets.to_numpy()
        ends = ends - ends[0]
        lengths = np.diff(ends)
        before = np.concatenate([[0], np.cumsum(known == len(self._words))])
        ids, empty = self._ids[known], lengths == 0
        if empty.any():
            ids = np.insert(ids, ends[:-1][empty], self._options["unk_idx"])
            ends = ends + np.concatenate([[0], np.cumsum(empty)])
        unknown = np.diff(before[tokens.offsets.to_numpy() - tokens.offsets[0].as_py()])
        added = None if self._linear is None else self._served.answer_linear(tokens)
        return Encoded(ids, ends, lengths, unknown, added)


def read_temperature(served: Any) -> float:
    """Return what divides the logits of a model; versions of older releases have no such number."""
    return float(getattr(served, "temperature", 1.0))


def _add_logits(probabilities: np.ndarray, added: np.ndarray) -> np.ndarray:
    """Return the softmax of logits, given as probabilities float64[N, C], with others added to them."""
    logits = np.log(np.maximum(probabilities, _LEAST)) + added
    powers = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return found


def _use_torch(network: Any, temperature: float) -> Forward:
    def run(ids: torch.Tensor, lengths: torch.Tensor) -> np.ndarray:
        with torch.inference_mode():
            logits = network(ids, lengths).double() / temperature
            probabilities: np.ndarray = logits.softmax(dim=1).numpy()
            return probabilities

    return run


def plan_batches(sizes: np.ndarray) -> Iterator[np.ndarray]:
    """Yield batches of texts of similar length, the longest first, as positions in `sizes`.

    The short ones come last, so that no thread has much left to do when there is nothing more.
    """
    order = np.argsort(-sizes, kind="stable")
    start = 0
    while start < len(order):
        count = max(1, min(BATCH_TEXTS, BATCH_TOKENS // int(sizes[order[start]])))
        yield order[start : start + count]
        start += count


def _slice_texts(texts: pa.Array) -> Iterator[tuple[int, int]]:
    """Yield start and number of the texts of slices of about `_SLICE_BYTES`."""
    ends = np.cumsum(pc.binary_length(texts).to_numpy(zero_copy_only=False))
    start = 0
    while start < len(texts):
        limit = (ends[start - 1] if start else 0) + _SLICE_BYTES
        stop = max(start + 1, int(np.searchsorted(ends, limit, side="right")))
        yield start, stop - start
        start = stop
