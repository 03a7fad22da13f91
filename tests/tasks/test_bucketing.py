"""The stage `bucket_corpus` and the planning and padding of batches, worked out by hand and as properties."""

from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.schemas import BUCKETS, DOCUMENTS, DOCUMENTS_FILE, PADDING_FILE, SPLITS, buckets_file
from pipeline_config.settings import BucketingConfig, TokenizationConfig, VocabularyConfig
from tasks.bucketing import (
    SCHEMES,
    EncodedSplit,
    assign_buckets,
    bucket_corpus,
    compare_schemes,
    draw_boundaries,
    fill_empty,
    load_split,
    padding_efficiency,
    plan_batches,
    read_labels,
    token_ids_of_codes,
    truncate,
)
from tasks.store import ArtifactRef, commit_output, stage_key
from tasks.tokenization import tokenize_corpus
from tasks.vocabulary import build_vocabulary

# (doc_id, text, label, split); in the train split a occurs 4 times, b twice, c once
CORPUS = [
    (3, "a b a", "y", "train"),
    (5, "a d", "x", "validation"),
    (7, "b c", "x", "train"),
    (8, '"', "z", "test"),
    (9, "a", "y", "train"),
]
IDS = {"a": 2, "b": 3, "c": 4}


def bucket(corpus: list[tuple[object, ...]] = CORPUS, *, seed: int = 0, **options: object) -> ArtifactRef:
    """Run the stage, and those before it, on a corpus."""
    columns = zip(*corpus, strict=True)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)], schema=DOCUMENTS)
    key = stage_key("ingest_corpus", 1, {"corpus": corpus})
    documents, _ = commit_output("ingest_corpus", key, lambda out: out.write_table(DOCUMENTS_FILE, table, DOCUMENTS))
    tokens = tokenize_corpus.fn(documents, TokenizationConfig(shard_documents=2))
    vocabulary = build_vocabulary.fn(tokens, VocabularyConfig(min_freq=1))
    return bucket_corpus.fn(tokens, vocabulary, BucketingConfig(**options), seed)


def rows_of(buckets: ArtifactRef, split: str) -> list[tuple[object, ...]]:
    table = buckets.read_table(buckets_file(split))
    assert table.schema == BUCKETS
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return flat ids and offsets of lists."""
    offsets = np.cumsum([0, *map(len, lists)])
    return np.array([i for ids in lists for i in ids], np.int32), offsets


def nested(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, offsets[1:-1])]


# the stage


def test_the_stage_writes_ids_lengths_and_buckets_per_split(artifacts: Path) -> None:
    buckets = bucket(num_buckets=2, batch_size=2)
    # doc_id, label_id, length, bucket, input_ids; train lengths 3, 2, 1 give the boundaries 2 and 3
    assert rows_of(buckets, "train") == [(3, 1, 3, 1, [2, 3, 2]), (7, 0, 2, 0, [3, 4]), (9, 1, 1, 0, [2])]
    assert rows_of(buckets, "validation") == [(5, 0, 2, 0, [2, 1])]
    assert rows_of(buckets, "test") == [(8, 2, 1, 0, [1])]


def test_the_report_compares_all_schemes_on_the_train_split(artifacts: Path) -> None:
    report = bucket(num_buckets=2, batch_size=2).read_json(PADDING_FILE)
    # by hand: [2, 1] and [3] are padded to 2 * 2 + 3 = 7 for 6 tokens
    by_length = {"efficiency": pytest.approx(6 / 7), "batches": 2, "boundaries": [2, 3]}
    assert report["labels"] == ["x", "y", "z"]
    assert report["boundaries"] == [2, 3]
    assert report["schemes"]["quantile"] == report["schemes"]["fixed_width"] == by_length
    assert report["schemes"]["none"]["boundaries"] == [3]


def test_one_batch_is_padded_to_its_longest_document(artifacts: Path) -> None:
    report = bucket(scheme="none", batch_size=3).read_json(PADDING_FILE)
    assert report["schemes"]["none"] == {"efficiency": pytest.approx(6 / 9), "batches": 1, "boundaries": [3]}


def test_the_facts_are_those_of_the_configured_scheme(artifacts: Path) -> None:
    facts = bucket(num_buckets=2, batch_size=2).facts
    assert facts | {"seconds": 0} == {
        "padding_efficiency": pytest.approx(6 / 7), "buckets": 2, "documents_truncated": 0, "documents_empty": 1,
        "batches": 2, "seconds": 0,
    }  # fmt: skip
    cut = bucket(scheme="none", batch_size=3, max_length=1).facts
    assert (cut["padding_efficiency"], cut["buckets"], cut["documents_truncated"], cut["batches"]) == (1.0, 1, 3, 1)


@pytest.mark.parametrize(("side", "kept"), [("head", [2, 3]), ("tail", [3, 2])])
def test_a_long_document_keeps_its_head_or_its_tail(artifacts: Path, side: str, kept: list[int]) -> None:
    assert rows_of(bucket(max_length=2, truncation=side), "train")[0][4] == kept


def test_a_document_without_tokens_is_one_unk(artifacts: Path) -> None:
    assert rows_of(bucket([*CORPUS, (10, "", "x", "train")]), "train")[-1][2:] == (1, 0, [1])


def test_a_token_of_the_held_out_splits_is_unk(artifacts: Path) -> None:
    assert rows_of(bucket(), "validation")[0][4] == [IDS["a"], 1]


def test_the_word_unk_in_a_text_is_unk(artifacts: Path) -> None:
    assert rows_of(bucket([*CORPUS, (10, "a <unk> b", "x", "train")]), "train")[-1][4] == [IDS["a"], 1, IDS["b"]]


def test_a_held_out_document_longer_than_any_goes_to_the_last_bucket(artifacts: Path) -> None:
    buckets = bucket([*CORPUS, (10, "a a a a a a", "x", "test")], num_buckets=2)
    assert rows_of(buckets, "test")[-1][2:4] == (6, 1)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_split_is_loaded_as_it_was_written(artifacts: Path, scheme: str) -> None:
    buckets = bucket(scheme=scheme)
    for name in SPLITS:
        split = load_split(buckets, name)
        loaded = zip(
            split.doc_ids.tolist(), split.label_ids.tolist(), split.lengths.tolist(), split.buckets.tolist(),
            nested(split.input_ids, split.offsets), strict=True,
        )  # fmt: skip
        assert list(loaded) == rows_of(buckets, name)
        assert len(split) == len(rows_of(buckets, name))


def test_labels_are_read_in_the_order_of_their_ids(artifacts: Path) -> None:
    assert read_labels(bucket()) == ["x", "y", "z"]


def test_a_split_without_documents_is_loaded_as_an_empty_one(artifacts: Path) -> None:
    split = load_split(bucket([row for row in CORPUS if row[3] != "test"]), "test")
    assert (len(split), split.offsets.tolist(), split.lengths.tolist()) == (0, [0], [])


# ids


def test_codes_become_ids_of_the_vocabulary_or_unk() -> None:
    dictionary = pa.table({"token": ["c", "x", "a", "<unk>"]})
    vocabulary = pa.table({"token": ["<pad>", "<unk>", "a", "b", "c"]})
    ids = token_ids_of_codes(dictionary, vocabulary)
    assert (ids.tolist(), ids.dtype) == ([4, 1, 2, 1], np.int32)


LISTS = [[1, 2, 3, 4], [], [5], [6, 7, 8], []]


@pytest.mark.parametrize(
    ("max_length", "side", "expected", "cut"),
    [
        (3, "head", [[1, 2, 3], [], [5], [6, 7, 8], []], 1),
        (3, "tail", [[2, 3, 4], [], [5], [6, 7, 8], []], 1),
        (1, "head", [[1], [], [5], [6], []], 2),
        (1, "tail", [[4], [], [5], [8], []], 2),
        (4, "head", LISTS, 0),
        (4, "tail", LISTS, 0),
    ],
)
def test_documents_are_cut_to_the_largest_length(
    max_length: int, side: str, expected: list[list[int]], cut: int
) -> None:
    ids, offsets, count = truncate(*flat(LISTS), max_length=max_length, side=side)
    assert nested(ids, offsets) == expected
    assert count == cut


def test_empty_documents_get_one_unk_and_the_others_stay() -> None:
    ids, offsets, count = fill_empty(*flat(LISTS))
    assert nested(ids, offsets) == [[1, 2, 3, 4], [1], [5], [6, 7, 8], [1]]
    assert count == 2


def test_a_corpus_of_empty_documents_is_all_unk() -> None:
    ids, offsets, count = fill_empty(*flat([[], [], []]))
    assert nested(ids, offsets) == [[1], [1], [1]]
    assert (ids.dtype, count) == (np.int32, 3)


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
    assert draw_boundaries(lengths, scheme=scheme, num_buckets=num_buckets).tolist() == expected


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("num_buckets", [1, 2, 7, 64])
@pytest.mark.parametrize("seed", range(5))
def test_boundaries_rise_to_the_longest_document_and_every_length_fits_its_bucket(
    scheme: str, num_buckets: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    lengths = generator.geometric(generator.uniform(0.01, 1.0), generator.integers(1, 400))
    boundaries = draw_boundaries(lengths, scheme=scheme, num_buckets=num_buckets)
    assert 1 <= len(boundaries) <= num_buckets
    assert (np.diff(boundaries) > 0).all()
    assert (boundaries[0] >= 1, boundaries[-1]) == (True, lengths.max())
    buckets = assign_buckets(lengths, boundaries)
    lower = np.concatenate([[0], boundaries])
    assert ((lower[buckets] < lengths) & (lengths <= boundaries[buckets])).all()


def test_a_length_goes_to_the_first_bucket_it_fits_in_and_longer_ones_to_the_last() -> None:
    assert assign_buckets(np.array([1, 2, 3, 5, 6, 99]), np.array([2, 5])).tolist() == [0, 0, 1, 1, 1, 1]


# batches


def plans(seed: int) -> Iterator[tuple[np.ndarray, int, list[np.ndarray]]]:
    """Yield buckets, batch size and plan of random corpora."""
    generator = np.random.default_rng(seed)
    for _ in range(20):
        buckets = generator.integers(0, generator.integers(1, 20), generator.integers(1, 300))
        batch_size = int(generator.integers(1, 80))
        yield buckets, batch_size, plan_batches(buckets, batch_size=batch_size, seed=seed, epoch=3)


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
    plan = as_lists(plan_batches(buckets, batch_size=8, seed=1, epoch=0))
    np.random.default_rng()  # neither fresh generators nor the global one matter
    state = np.random.get_state()[1].copy()
    assert as_lists(plan_batches(buckets, batch_size=8, seed=1, epoch=0)) == plan
    assert as_lists(plan_batches(buckets, batch_size=8, seed=1, epoch=1)) != plan
    assert as_lists(plan_batches(buckets, batch_size=8, seed=2, epoch=0)) != plan
    np.testing.assert_array_equal(np.random.get_state()[1], state)


def test_epochs_mix_documents_and_not_only_batches() -> None:
    buckets = np.zeros(64, int)
    first, second = (
        {frozenset(batch) for batch in as_lists(plan_batches(buckets, batch_size=8, seed=0, epoch=epoch))}
        for epoch in (0, 1)
    )
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
    assert as_lists(plan_batches(buckets, batch_size=4, seed=5, epoch=2)) == expected


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
    report = compare_schemes(lengths, num_buckets=10, batch_size=20, seed=0)
    assert list(report) == list(SCHEMES)
    assert {scheme: entry["batches"] for scheme, entry in report.items()} == dict.fromkeys(SCHEMES, 50)
    assert report["fixed_width"]["boundaries"] == list(range(10, 101, 10))
    assert report["quantile"]["boundaries"] == [*range(11, 92, 10), 100]
    # 50500 tokens; batches fill the buckets of fixed width without a rest, so no document gets more than 9 of padding
    assert report["fixed_width"]["efficiency"] >= 50500 / (50500 + 1000 * 9)
    assert min(report["quantile"]["efficiency"], report["fixed_width"]["efficiency"]) > report["none"]["efficiency"]


# padding


SPLIT = EncodedSplit(
    input_ids=np.array([5, 6, 7, 8, 9, 4], np.int32),
    offsets=np.array([0, 3, 4, 6]),
    label_ids=np.array([0, 1, 0], np.int32),
    buckets=np.array([1, 0, 1], np.int32),
    doc_ids=np.array([10, 11, 12]),
)


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
    ids, offsets = flat(lists)
    zeros = np.zeros(len(lists), np.int32)
    split = EncodedSplit(input_ids=ids, offsets=offsets, label_ids=zeros, buckets=zeros, doc_ids=zeros)
    for batch in plan_batches(zeros, batch_size=7, seed=seed, epoch=0):
        padded, lengths = split.pad_batch(batch)
        assert padded.shape == (len(batch), max(len(lists[i]) for i in batch))
        assert [row[:n] for row, n in zip(padded.tolist(), lengths, strict=True)] == [lists[i] for i in batch]
        assert all(not any(row[n:]) for row, n in zip(padded.tolist(), lengths, strict=True))
