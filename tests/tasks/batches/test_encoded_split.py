"""An encoded split: loaded as it was written, padded batches, and a data set for torch's `DataLoader`."""

from pathlib import Path

import numpy as np
import pytest

from pipeline_config.schemas import SPLITS
from tasks.batches.batching import SCHEMES, BatchSampler, plan_batches
from tasks.batches.encoded_split import EncodedSplit, load_split
from tests.tasks.batches.bucketed import CORPUS, bucket, nested, rows_of
from tests.token_tables import make_split


def test_a_loaded_split_plans_with_the_configured_scheme_and_budget(artifacts: Path) -> None:
    buckets = bucket(scheme="token_budget", num_buckets=1, token_budget=6)
    split = load_split(buckets, "train")
    assert (split.scheme, split.token_budget) == ("token_budget", 6)
    # three documents in one bucket, the longest has 3 tokens: two of them fit a batch, and three without a budget
    assert sorted(len(batch) for batch in split.plan_batches(batch_size=64, seed=0, epoch=0)) == [1, 2]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_split_is_loaded_as_it_was_written(artifacts: Path, scheme: str) -> None:
    buckets = bucket(scheme=scheme)
    for name in SPLITS:
        split = load_split(buckets, name)
        loaded = zip(
            split.doc_ids.tolist(),
            split.label_ids.tolist(),
            split.lengths.tolist(),
            split.buckets.tolist(),
            nested(split.input_ids, split.offsets),
            strict=True,
        )
        assert list(loaded) == rows_of(buckets, name)
        assert len(split) == len(rows_of(buckets, name))


def test_token_ids_are_mapped_from_the_file(artifacts: Path) -> None:
    split = load_split(bucket(), "train")
    assert not split.input_ids.flags.writeable
    assert not split.input_ids.flags.owndata


def test_a_split_without_documents_is_loaded_as_an_empty_one(artifacts: Path) -> None:
    split = load_split(bucket([row for row in CORPUS if row[3] != "test"]), "test")
    assert (len(split), split.offsets.tolist(), split.lengths.tolist()) == (0, [0], [])


SPLIT = make_split([[5, 6, 7], [8], [9, 4]], buckets=[1, 0, 1])


@pytest.mark.parametrize(
    ("documents", "ids", "lengths"),
    [
        ([0, 1, 2], [[5, 6, 7], [8, 0, 0], [9, 4, 0]], [3, 1, 2]),
        ([2, 1], [[9, 4], [8, 0]], [2, 1]),
        ([1], [[8]], [1]),
        ([0, 0], [[5, 6, 7], [5, 6, 7]], [3, 3]),
    ],
)
def test_a_batch_is_padded_at_the_end_to_its_longest_document(
    documents: list[int], ids: list[list[int]], lengths: list[int]
) -> None:
    got_ids, got_lengths = SPLIT.pad_batch(np.array(documents))
    assert (got_ids.tolist(), got_lengths.tolist()) == (ids, lengths)
    assert (got_ids.dtype, got_lengths.dtype) == (np.int64, np.int64)


@pytest.mark.parametrize("seed", range(5))
def test_padded_batches_hold_every_token_of_every_document(seed: int) -> None:
    generator = np.random.default_rng(seed)
    lists = [generator.integers(1, 100, generator.integers(1, 30)).tolist() for _ in range(60)]
    split = make_split(lists)
    for batch in split.plan_batches(batch_size=7, seed=seed, epoch=0):
        padded, lengths = split.pad_batch(batch)
        assert padded.shape == (len(batch), max(len(lists[i]) for i in batch))
        assert [row[:n] for row, n in zip(padded.tolist(), lengths, strict=True)] == [lists[i] for i in batch]
        assert all(not any(row[n:]) for row, n in zip(padded.tolist(), lengths, strict=True))


def random_split(documents: int, *, scheme: str = "optimal", seed: int = 0) -> EncodedSplit:
    generator = np.random.default_rng(seed)
    lists = [generator.integers(1, 100, generator.integers(1, 30)).tolist() for _ in range(documents)]
    return make_split(lists, label_ids=range(documents), buckets=[len(ids) // 8 for ids in lists], scheme=scheme)


@pytest.mark.parametrize(("scheme", "workers"), [*((scheme, 0) for scheme in SCHEMES), ("optimal", 1)])
def test_a_plain_data_loader_takes_the_split_and_the_sampler(scheme: str, workers: int) -> None:
    from torch.utils.data import DataLoader

    split = random_split(50, scheme=scheme)
    sampler = BatchSampler(lambda **when: split.plan_batches(batch_size=7, **when), seed=0)
    start = "spawn" if workers else None
    loader = DataLoader(split, batch_size=None, sampler=sampler, num_workers=workers, multiprocessing_context=start)
    seen = []
    for padded, lengths, labels in loader:
        for row, length, label in zip(padded.tolist(), lengths.tolist(), labels.tolist(), strict=True):
            begin, end = split.offsets[label], split.offsets[label + 1]
            assert row == split.input_ids[begin:end].tolist() + [0] * (padded.shape[1] - length)
            seen.append(label)
    assert sorted(seen) == list(range(50))


def test_a_split_plans_its_batches_by_its_scheme() -> None:
    split = random_split(50)
    plan = split.plan_batches(batch_size=7, seed=3, epoch=2)
    expected = plan_batches(
        split.buckets, lengths=split.lengths, scheme="optimal", batch_size=7, token_budget=None, seed=3, epoch=2
    )
    assert [batch.tolist() for batch in plan] == [batch.tolist() for batch in expected]
