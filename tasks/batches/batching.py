"""Batches of documents of similar length: bucket boundaries, plans of an epoch, a sampler, the cost of padding.

The functions take lengths and buckets of documents and return positions. They depend only on their arguments, seed and
epoch included, and use neither torch nor files.
"""

from collections.abc import Iterator
from typing import Any, get_args

import numpy as np

from pipeline_config.contracts.batches import BatchingScheme, SchemePadding

SCHEMES: tuple[BatchingScheme, ...] = get_args(BatchingScheme)
POOL_BATCHES = 100  # batches per pool of sorted_pool, as in torchtext's BucketIterator
MOST_CANDIDATES = 2048  # lengths that the optimal scheme considers as boundaries


class BatchSampler:
    """Batches of positions, as the `sampler` or `batch_sampler` of torch's `DataLoader`.

    The batches depend only on `seed` and epoch. Rank r of w processes takes every w-th batch, beginning with batch r.
    So each document goes to exactly one rank, and the numbers of batches differ by one at most.

    Args:
        plan: returns the batches of an epoch when called with `seed` and `epoch`, such as
            `EncodedSplit.plan_batches` with a batch size.
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
        """Go to the batch `start` of this rank in an epoch; both are counted from 0."""
        self.epoch, self.start = epoch, start
        self._batches: list[np.ndarray] = self.plan(seed=self.seed, epoch=epoch)[self.rank :: self.world_size]

    def __len__(self) -> int:
        return len(self._batches) - self.start

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._batches[self.start :]:
            yield batch.tolist()


def choose_boundaries(lengths: np.ndarray, *, scheme: BatchingScheme, num_buckets: int) -> np.ndarray:
    """Return the largest length of each bucket, rising, int64; the last one is the length of the longest document.

    `token_budget` uses the buckets of `optimal`; `sorted_pool` and `none` use a single bucket.
    """
    longest = int(lengths.max())
    if scheme in ("none", "sorted_pool"):
        return np.array([longest])
    if scheme == "fixed_width":
        return np.unique(np.ceil(np.linspace(0, longest, num_buckets + 1)[1:]).astype(np.int64))
    if scheme == "quantile":
        ranks = np.linspace(0, 1, num_buckets + 1)[1:]
        return np.unique(np.quantile(lengths, ranks, method="higher").astype(np.int64))
    return _choose_optimal(lengths, num_buckets)


def assign_buckets(lengths: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Return int64[N]: the first bucket that each length fits in, or the last bucket if it fits in none."""
    return np.minimum(np.searchsorted(boundaries, lengths), len(boundaries) - 1)


def plan_batches(
    buckets: np.ndarray,
    *,
    lengths: np.ndarray,
    scheme: BatchingScheme,
    batch_size: int,
    token_budget: int | None,
    seed: int,
    epoch: int,
) -> list[np.ndarray]:
    """Plan an epoch: every document in exactly one batch.

    Most schemes shuffle the documents within their buckets, cut them into batches, whose documents come from one bucket
    or adjacent ones, and shuffle the batches. `sorted_pool` shuffles all documents, sorts pools of 100 batches by
    length, and shuffles the batches of each pool. `token_budget` fills each batch with documents of one bucket until
    the budget is used up. Shuffling sorts by raw draws of PCG64 (O'Neill 2014), whose stream never changes, so the
    plan depends only on the arguments.

    Args:
        buckets: int[N], the bucket of each document.
        lengths: int[N], tokens of each document.
        scheme: how documents are grouped.
        batch_size: documents per batch.
        token_budget: padded tokens per batch at most; None is `batch_size` times the mean length.
        seed: of the shuffling, with `epoch`.
        epoch: of the shuffling, with `seed`.

    Returns:
        int64 arrays of positions in `buckets`.
    """
    bits = np.random.PCG64([seed, epoch])
    draws = bits.random_raw(len(buckets))
    if scheme == "sorted_pool":
        order = np.argsort(draws, kind="stable")
        pool = np.arange(len(order)) // (batch_size * POOL_BATCHES)
        order = order[np.lexsort((lengths[order], pool))]
        cuts = np.arange(batch_size, len(order), batch_size)
        pools = np.arange(len(cuts) + 1) // POOL_BATCHES
    else:
        order = np.lexsort((draws, buckets))
        cuts = np.arange(batch_size, len(order), batch_size)
        if scheme == "token_budget" and len(order):
            budget = token_budget or batch_size * float(lengths.mean())
            cuts = _cut_by_budget(buckets[order], lengths[order], budget)
        pools = np.zeros(len(cuts) + 1, np.int64)
    batches = np.split(order, cuts) if len(order) else []
    return [batches[i] for i in np.lexsort((bits.random_raw(len(batches)), pools[: len(batches)]))]


def padding_efficiency(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    """Return the number of tokens divided by the number of tokens and padding together."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return float(lengths.sum() / padded) if padded else 1.0


def compare_schemes(
    lengths: np.ndarray, *, num_buckets: int, batch_size: int, token_budget: int | None, seed: int
) -> dict[BatchingScheme, SchemePadding]:
    """Return the padding and the sizes of the batches of the first epoch under each scheme."""
    report = {}
    optimal = choose_boundaries(lengths, scheme="optimal", num_buckets=num_buckets)
    for scheme in SCHEMES:
        is_optimal = scheme in ("optimal", "token_budget")
        boundaries = optimal if is_optimal else choose_boundaries(lengths, scheme=scheme, num_buckets=num_buckets)
        batches = plan_batches(
            assign_buckets(lengths, boundaries),
            lengths=lengths,
            scheme=scheme,
            batch_size=batch_size,
            token_budget=token_budget,
            seed=seed,
            epoch=0,
        )
        sizes = np.array([len(batch) for batch in batches])
        padded = sizes * np.array([lengths[batch].max() for batch in batches])
        report[scheme] = SchemePadding(
            efficiency=padding_efficiency(lengths, batches),
            batches=len(batches),
            batch_tokens=tuple(np.percentile(padded, (5, 50, 95), method="nearest").tolist()),
            batch_documents=tuple(np.percentile(sizes, (5, 50, 95), method="nearest").tolist()),
            boundaries=tuple(boundaries.tolist()),
        )
    return report


def _cut_by_budget(buckets: np.ndarray, lengths: np.ndarray, budget: float) -> np.ndarray:
    """Return the positions at which batches end.

    A batch stays in one bucket and holds as many documents as fit the budget when all are padded to the longest
    document of the bucket.
    """
    starts = np.flatnonzero(np.diff(buckets, prepend=buckets[0] - 1))
    longest = np.maximum.reduceat(lengths, starts)
    ends = np.append(starts[1:], len(buckets))
    cuts = [
        np.arange(start, end, max(1, int(budget // size)))
        for start, end, size in zip(starts, ends, longest, strict=True)
    ]
    return np.concatenate(cuts)[1:]


def _choose_optimal(lengths: np.ndarray, num_buckets: int) -> np.ndarray:
    """Return the boundaries with the least padding when each document is padded to the boundary of its bucket.

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
