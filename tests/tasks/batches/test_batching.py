"""Boundaries, plans and padding of batches, worked out by hand and as properties."""

from collections.abc import Iterator
from itertools import combinations, islice, pairwise

import numpy as np
import pytest

from pipeline_config.contracts.batches import BatchingScheme
from tasks.batches.batching import (
    POOL_BATCHES,
    SCHEMES,
    BatchSampler,
    assign_buckets,
    choose_boundaries,
    compare_schemes,
    padding_efficiency,
    plan_batches,
)

# boundaries


@pytest.mark.parametrize(
    ("scheme", "num_buckets", "expected"),
    [
        ("none", 4, [20]),
        ("fixed_width", 4, [5, 10, 15, 20]),
        ("fixed_width", 3, [7, 14, 20]),  # 6.67, 13.3 and 20, rounded up
        ("fixed_width", 1, [20]),
        ("quantile", 2, [2, 20]),  # half of the eight lengths are at most 2
        ("quantile", 4, [1, 2, 4, 20]),
        ("quantile", 1, [20]),
        ("quantile", 100, [1, 2, 3, 4, 20]),
    ],
)
def test_boundaries_by_hand(scheme: str, num_buckets: int, expected: list[int]) -> None:
    lengths = np.array([20, 1, 3, 1, 2, 4, 2, 1])
    # sorted 1 1 1 2 2 3 4 20; a quantile q is the length at or above position q * 7
    assert choose_boundaries(lengths, scheme=scheme, num_buckets=num_buckets).tolist() == expected


def cost(lengths: np.ndarray, boundaries: np.ndarray) -> int:
    """Return the padded tokens when every document is padded to the boundary of its bucket."""
    return int(boundaries[assign_buckets(lengths, boundaries)].sum())


@pytest.mark.parametrize("seed", range(20))
def test_optimal_boundaries_cost_the_least_of_all(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.integers(1, 12, generator.integers(1, 40))
    distinct = np.unique(lengths)
    for num_buckets in range(1, 6):
        got = choose_boundaries(lengths, scheme="optimal", num_buckets=num_buckets)
        choices = (
            np.array([*others, distinct[-1]])
            for size in range(min(num_buckets, len(distinct)))
            for others in combinations(distinct[:-1], size)
        )
        assert cost(lengths, got) == min(cost(lengths, choice) for choice in choices)
        assert len(got) <= num_buckets


def test_optimal_boundaries_are_close_to_the_best_when_there_are_very_many_lengths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lengths = np.random.default_rng(0).geometric(0.005, 3000)
    exact = cost(lengths, choose_boundaries(lengths, scheme="optimal", num_buckets=8))
    monkeypatch.setattr("tasks.batches.batching.MOST_CANDIDATES", 200)
    thinned = choose_boundaries(lengths, scheme="optimal", num_buckets=8)
    assert exact <= cost(lengths, thinned) <= 1.02 * exact
    assert thinned[-1] == lengths.max()


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("num_buckets", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(5))
def test_boundaries_rise_to_the_longest_document_and_every_length_fits_its_bucket(
    scheme: str, num_buckets: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.geometric(generator.uniform(0.01, 1.0), generator.integers(1, 400))
    boundaries = choose_boundaries(lengths, scheme=scheme, num_buckets=num_buckets)
    assert 1 <= len(boundaries) <= num_buckets
    assert (np.diff(boundaries) > 0).all()
    assert (boundaries[0] >= 1, boundaries[-1]) == (True, lengths.max())
    buckets = assign_buckets(lengths, boundaries)
    lower = np.concatenate([[0], boundaries])
    assert ((lower[buckets] < lengths) & (lengths <= boundaries[buckets])).all()


def test_a_length_goes_to_the_first_bucket_it_fits_in_and_longer_ones_to_the_last() -> None:
    assert assign_buckets(np.array([1, 2, 3, 5, 6, 99]), np.array([2, 5])).tolist() == [0, 0, 1, 1, 1, 1]


# batches


def plan(
    buckets: np.ndarray,
    *,
    lengths: np.ndarray | None = None,
    scheme: BatchingScheme = "optimal",
    batch_size: int = 8,
    token_budget: int | None = None,
    seed: int = 0,
    epoch: int = 0,
) -> list[np.ndarray]:
    """Plan an epoch; without lengths, all documents have one token."""
    lengths = np.ones(len(buckets), np.int64) if lengths is None else lengths
    return plan_batches(
        buckets,
        lengths=lengths,
        scheme=scheme,
        batch_size=batch_size,
        token_budget=token_budget,
        seed=seed,
        epoch=epoch,
    )


def plans(seed: int) -> Iterator[tuple[np.ndarray, int, list[np.ndarray]]]:
    """Yield buckets, batch size and plan of random corpora."""
    generator = np.random.default_rng(seed)
    for _ in range(20):
        buckets = generator.integers(0, generator.integers(1, 20), generator.integers(1, 300))
        batch_size = int(generator.integers(1, 80))
        yield buckets, batch_size, plan(buckets, batch_size=batch_size, seed=seed, epoch=3)


def planned(
    lengths: np.ndarray, scheme: str, *, epoch: int = 0, batch_size: int = 8, **options: object
) -> list[np.ndarray]:
    buckets = assign_buckets(lengths, choose_boundaries(lengths, scheme=scheme, num_buckets=6))
    return plan(buckets, batch_size=batch_size, epoch=epoch, lengths=lengths, scheme=scheme, **options)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("documents", [0, 1, 7, 8, 9, 500, 1700])
def test_every_scheme_has_every_document_once_and_other_batches_each_epoch(scheme: str, documents: int) -> None:
    lengths = np.random.default_rng(documents).integers(1, 20, documents)
    if not documents:
        assert plan(lengths, lengths=lengths, scheme=scheme) == []
        return
    epochs = [planned(lengths, scheme, epoch=epoch) for epoch in range(2)]
    for batches in epochs:
        assert sorted(np.concatenate(batches).tolist()) == list(range(documents))
    if documents >= 500:
        first, second = ({frozenset(batch.tolist()) for batch in batches} for batches in epochs)
        assert len(first & second) <= 2  # only what is left over in a bucket


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("budget", [1, 50, 400, None])
def test_a_batch_keeps_to_the_token_budget(seed: int, budget: int | None) -> None:
    lengths = np.random.default_rng(seed).integers(1, 60, 300)
    batches = planned(lengths, "token_budget", token_budget=budget)
    most = budget or 8 * lengths.mean()
    buckets = assign_buckets(lengths, choose_boundaries(lengths, scheme="token_budget", num_buckets=6))
    for batch in batches:
        assert len(batch) == 1 or len(batch) * lengths[batch].max() <= most
        assert len(set(buckets[batch].tolist())) == 1


def test_sorted_pools_have_the_meaning_of_torchtexts_bucket_iterator() -> None:
    from torchtext.data import iterator

    lengths = np.random.default_rng(0).integers(1, 50, 1900)
    draws = np.random.PCG64([0, 4])
    order = np.argsort(draws.random_raw(len(lengths)), kind="stable")
    of_batches = draws.random_raw(238)
    number = 0

    def shuffle(batches: list[list[int]]) -> list[list[int]]:
        nonlocal number
        ranks = of_batches[number : number + len(batches)]
        number += len(batches)
        return [batches[i] for i in np.argsort(ranks, kind="stable")]

    pools = iterator.pool(
        order.tolist(), 8, lambda i: lengths[i], random_shuffler=shuffle, shuffle=True, sort_within_batch=True
    )
    expected = list(pools)
    assert POOL_BATCHES == 100
    assert as_lists(planned(lengths, "sorted_pool", epoch=4)) == expected


# the sampler


def sampler_of(documents: int = 100, **options: int) -> BatchSampler:
    lengths = np.random.default_rng(1).integers(1, 30, documents)
    return BatchSampler(lambda *, seed, epoch: planned(lengths, "optimal", epoch=epoch + 10 * seed), seed=2, **options)


def test_the_sampler_goes_by_epochs() -> None:
    sampler = sampler_of()
    first = list(sampler)
    assert list(sampler) == first
    assert len(sampler) == len(first) == 13
    sampler.set_epoch(1)
    assert list(sampler) != first
    sampler.set_epoch(0)
    assert list(sampler) == first


@pytest.mark.parametrize("start", [0, 1, 12, 13])
def test_the_sampler_resumes_at_any_batch(start: int) -> None:
    sampler = sampler_of()
    sampler.set_epoch(5)
    whole = list(sampler)
    other = sampler_of()
    other.set_epoch(5, start)
    assert list(other) == whole[start:]
    assert len(other) == len(whole) - start


@pytest.mark.parametrize("world_size", [1, 2, 3, 13, 20])
def test_ranks_share_no_document_and_lose_none(world_size: int) -> None:
    ranks = [list(sampler_of(rank=rank, world_size=world_size)) for rank in range(world_size)]
    assert sorted(i for batches in ranks for batch in batches for i in batch) == list(range(100))
    sizes = [len(batches) for batches in ranks]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("rank", [-1, 2])
def test_a_rank_outside_the_world_size_is_refused(rank: int) -> None:
    with pytest.raises(ValueError, match=f"^rank: got {rank}, expected 0 to 1$"):
        sampler_of(rank=rank, world_size=2)


@pytest.mark.parametrize("seed", range(10))
def test_every_document_is_in_exactly_one_batch(seed: int) -> None:
    for buckets, batch_size, batches in plans(seed):
        assert sorted(np.concatenate(batches).tolist()) == list(range(len(buckets)))
        sizes = sorted(map(len, batches), reverse=True)
        assert sizes[:-1] == [batch_size] * (len(buckets) // batch_size + (len(buckets) % batch_size > 0) - 1)
        assert 1 <= sizes[-1] <= batch_size


@pytest.mark.parametrize("seed", range(10))
def test_batch_mates_come_from_one_bucket_or_adjacent_ones(seed: int) -> None:
    for buckets, _, batches in plans(seed):
        spans = sorted((int(buckets[batch].min()), int(buckets[batch].max())) for batch in batches)
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


def as_lists(batches: list[np.ndarray]) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def test_a_plan_depends_on_seed_and_epoch_alone() -> None:
    buckets = np.arange(200) % 3
    first = as_lists(plan(buckets, seed=1, epoch=0))
    np.random.default_rng()  # neither fresh generators nor the global one matter
    state = np.random.get_state()[1].copy()
    assert as_lists(plan(buckets, seed=1, epoch=0)) == first
    assert as_lists(plan(buckets, seed=1, epoch=1)) != first
    assert as_lists(plan(buckets, seed=2, epoch=0)) != first
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_epochs_mix_documents_and_not_only_batches() -> None:
    buckets = np.zeros(64, int)
    first, second = ({frozenset(batch) for batch in as_lists(plan(buckets, epoch=epoch))} for epoch in (0, 1))
    assert not first & second


def pcg64(seed: list[int]) -> Iterator[int]:
    """Yield the 64-bit draws of PCG XSL RR 128/64 (O'Neill 2014, section 6.3.3)."""
    start = np.random.PCG64(seed).state["state"]
    state = start["state"]
    while True:
        state = (state * 0x2360ED051FC65DA44385DF649FCCF645 + start["inc"]) % 2**128
        folded, turn = (state >> 64) ^ (state % 2**64), state >> 122
        yield (folded >> turn | folded << (64 - turn)) % 2**64


def test_a_plan_follows_the_fixed_stream_of_pcg64() -> None:
    buckets = np.array([1, 0, 1, 0, 2, 1, 0, 0, 2, 1])
    draws = pcg64([5, 2])
    of_documents = list(islice(draws, 10))
    order = sorted(range(10), key=lambda i: (buckets[i], of_documents[i]))
    batches = [order[0:4], order[4:8], order[8:10]]
    of_batches = list(islice(draws, 3))
    expected = [batches[i] for i in sorted(range(3), key=of_batches.__getitem__)]
    assert as_lists(plan(buckets, batch_size=4, seed=5, epoch=2)) == expected


@pytest.mark.parametrize(
    ("batches", "efficiency"),
    [
        ([[0, 1], [2, 3]], 10 / 12),  # 1 and 2 padded to 2 * 2, 3 and 4 to 2 * 4
        ([[0, 3], [1, 2]], 10 / 14),  # 2 * 4 and 2 * 3
        ([[0], [1], [2], [3]], 1.0),
        ([[0, 1, 2, 3]], 10 / 16),
    ],
)
def test_padding_efficiency_is_real_tokens_by_padded_tokens(batches: list[list[int]], efficiency: float) -> None:
    lengths = np.array([1, 2, 3, 4])
    assert padding_efficiency(lengths, [np.array(batch) for batch in batches]) == pytest.approx(efficiency)


def test_nothing_is_padded_when_there_is_nothing() -> None:
    assert padding_efficiency(np.zeros(0, int), []) == 1.0


def test_bucketing_saves_padding_on_mixed_lengths() -> None:
    lengths = np.tile(np.arange(1, 101), 10)
    report = compare_schemes(lengths, num_buckets=10, batch_size=20, token_budget=None, seed=0)
    assert list(report) == list(SCHEMES)
    assert {scheme: padding.batches for scheme, padding in report.items()} == dict.fromkeys(SCHEMES, 50) | {
        "token_budget": 60
    }
    assert report["fixed_width"].boundaries == tuple(range(10, 101, 10))
    assert report["quantile"].boundaries == (*range(11, 92, 10), 100)
    # 50500 tokens; batches fill the buckets of fixed width without a rest, so no document gets more than 9 of padding
    assert report["fixed_width"].efficiency >= 50500 / (50500 + 1000 * 9)
    assert min(report["quantile"].efficiency, report["fixed_width"].efficiency) > report["none"].efficiency
