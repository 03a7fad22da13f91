"""Batches of documents of similar length: bucket boundaries, plans of an epoch, a sampler, what padding costs.

Takes lengths and buckets of documents, returns positions. Pure functions of their arguments, seed and epoch
included; nothing here knows torch or files.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

SCHEMES = ("quantile", "fixed_width", "optimal", "sorted_pool", "token_budget", "none")
POOL_BATCHES = 100  # batches per pool of sorted_pool, as in torchtext's BucketIterator
MOST_CANDIDATES = 2048  # lengths that the optimal scheme considers as boundaries


class BatchSampler:
    """Batches of positions, as the `sampler` or `batch_sampler` of torch's `DataLoader`.

    What it yields is a pure function of `seed` and epoch. Rank r of w takes every w-th batch, from the r-th on,
    so that ranks neither share nor lose a document; their numbers of batches differ by one at most.

    Args:
        plan: the batches of an epoch, such as `EncodedSplit.plan_batches`, called with `seed` and `epoch`.
        seed: of the order of documents.
        rank: which of the processes this is.
        world_size: how many processes share an epoch.
    """

    def __init__(self, plan: Any, *, seed: int, rank: int = 0, world_size: int = 1) -> None:
        if not 0 <= rank < world_size:
            raise ValueError(f"rank: got {rank}, expected 0 to {world_size - 1}")
        self.plan, self.seed, self.rank, self.world_size = plan, seed, rank, world_size
        self.set_epoch(0)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Go to an epoch, and there to the batch `start` (of this rank), from 0."""
        self.epoch, self.start = epoch, start
        self._batches: list[np.ndarray] = self.plan(seed=self.seed, epoch=epoch)[self.rank :: self.world_size]

    def __len__(self) -> int:
        return len(self._batches) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches[self.start :]:
            yield batch.tolist()


def draw_boundaries(lengths: np.ndarray, *, scheme: str, num_buckets: int) -> np.ndarray:
    """Return the largest length of each bucket, rising, int64; the last one is the longest document.

    `token_budget` has the buckets of `optimal`; `sorted_pool` and `none` have one.
    """
    longest = int(lengths.max())
    if scheme in ("none", "sorted_pool"):
        return np.array([longest])
    if scheme == "fixed_width":
        return np.unique(np.ceil(np.linspace(0, longest, num_buckets + 1)[1:]).astype(np.int64))
    if scheme == "quantile":
        ranks = np.linspace(0, 1, num_buckets + 1)[1:]
        return np.unique(np.quantile(lengths, ranks, method="higher").astype(np.int64))
    return _draw_optimal(lengths, num_buckets)


def assign_buckets(lengths: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Return int64[N]: the first bucket that a length fits in; longer ones go to the last."""
    return np.minimum(np.searchsorted(boundaries, lengths), len(boundaries) - 1)


def plan_batches(
    buckets: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    epoch: int,
    lengths: np.ndarray | None = None,
    scheme: str = "quantile",
    token_budget: int | None = None,
) -> list[np.ndarray]:
    """Plan an epoch: every document in exactly one batch.

    Documents are shuffled within their buckets and cut into batches (batch-mates come from one bucket or adjacent
    ones), and the batches are shuffled. `sorted_pool` shuffles all documents, sorts pools of 100 batches by
    length, and shuffles the batches of each pool. With `token_budget` a batch holds documents of one bucket, as
    many as the budget has room for. A pure function of its arguments: all shuffling is by raw PCG64 draws (O'Neill
    2014), whose stream is fixed.

    Args:
        buckets: int[N], the bucket of each document.
        batch_size: documents per batch.
        seed: of the shuffling.
        epoch: of the shuffling, too.
        lengths: int[N], needed by `sorted_pool` and `token_budget`.
        scheme: one of `SCHEMES`.
        token_budget: padded tokens per batch at most; None is `batch_size` times the mean length.

    Returns:
        int64 arrays of positions in `buckets`.
    """
    bits = np.random.PCG64([seed, epoch])
    draws = bits.random_raw(len(buckets))
    if scheme == "sorted_pool" and lengths is not None:
        order = np.argsort(draws, kind="stable")
        pool = np.arange(len(order)) // (batch_size * POOL_BATCHES)
        order = order[np.lexsort((lengths[order], pool))]
        cuts = np.arange(batch_size, len(order), batch_size)
        pools = np.arange(len(cuts) + 1) // POOL_BATCHES
    else:
        order = np.lexsort((draws, buckets))
        cuts = np.arange(batch_size, len(order), batch_size)
        if scheme == "token_budget" and lengths is not None and len(order):
            cuts = _cut_by_budget(buckets[order], lengths[order], token_budget or batch_size * float(lengths.mean()))
        pools = np.zeros(len(cuts) + 1, np.int64)
    batches = np.split(order, cuts) if len(order) else []
    return [batches[i] for i in np.lexsort((bits.random_raw(len(batches)), pools[: len(batches)]))]


def padding_efficiency(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    """Return real tokens divided by tokens with padding."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return float(lengths.sum() / padded) if padded else 1.0


def compare_schemes(
    lengths: np.ndarray, *, num_buckets: int, batch_size: int, seed: int, token_budget: int | None = None
) -> dict[str, dict[str, Any]]:
    """Return what each scheme makes of the first epoch: efficiency, batches and how they are distributed.

    `batch_tokens` and `batch_documents` are the 5th, 50th and 95th percentile of a batch's padded tokens and of its
    documents; `boundaries` those of the buckets.
    """
    report = {}
    optimal = draw_boundaries(lengths, scheme="optimal", num_buckets=num_buckets)
    for scheme in SCHEMES:
        is_optimal = scheme in ("optimal", "token_budget")
        boundaries = optimal if is_optimal else draw_boundaries(lengths, scheme=scheme, num_buckets=num_buckets)
        batches = plan_batches(
            assign_buckets(lengths, boundaries), batch_size=batch_size, seed=seed, epoch=0, lengths=lengths,
            scheme=scheme, token_budget=token_budget,
        )  # fmt: skip
        sizes = np.array([len(batch) for batch in batches])
        padded = sizes * np.array([lengths[batch].max() for batch in batches])
        report[scheme] = {
            "efficiency": padding_efficiency(lengths, batches),
            "batches": len(batches),
            "batch_tokens": np.percentile(padded, (5, 50, 95), method="nearest").tolist(),
            "batch_documents": np.percentile(sizes, (5, 50, 95), method="nearest").tolist(),
            "boundaries": boundaries.tolist(),
        }
    return report


def _cut_by_budget(buckets: np.ndarray, lengths: np.ndarray, budget: float) -> np.ndarray:
    """Return where batches end: each in one bucket, as many documents as fit when all have its longest length."""
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
    longest = np.maximum.reduceat(lengths, starts)
    ends = np.append(starts[1:], len(buckets))
    cuts = [
        np.arange(start, end, max(1, int(budget // size)))
        for start, end, size in zip(starts, ends, longest, strict=True)
    ]
    return np.concatenate(cuts)[1:]


def _draw_optimal(lengths: np.ndarray, num_buckets: int) -> np.ndarray:
    """Return the boundaries with the least padding when each document is padded to its bucket's.

    Dynamic programming over the distinct lengths d with C documents up to each: the cost of k buckets that end at
    d[j] is the least over i < j of cost[k - 1][i] + d[j] * (C[j] - C[i]).
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    below = np.cumsum(counts)
    if len(distinct) > MOST_CANDIDATES:
        chosen = np.unique(np.linspace(0, len(distinct) - 1, MOST_CANDIDATES).round().astype(np.int64))
        distinct, below = distinct[chosen], below[chosen]
    d, c = distinct.astype(np.float64), below.astype(np.float64)
    earlier = np.tri(len(d), k=-1, dtype=bool)  # [j, i]: i < j
    gain = np.where(earlier, -d[:, None] * c[None, :], np.inf)
    cost, choices = d * c, []
    for _ in range(min(num_buckets, len(d)) - 1):
        total = gain + cost[None, :]
        with_one_more = d * c + total.min(axis=1)
        better = with_one_more < cost
        choices.append(np.where(better, total.argmin(axis=1), -1))
        cost = np.where(better, with_one_more, cost)
    boundaries, last = [], len(d) - 1
    for choice in reversed(choices):
        if choice[last] >= 0:
            boundaries.append(last)
            last = int(choice[last])
    return distinct[sorted([*boundaries, last])].astype(np.int64)
