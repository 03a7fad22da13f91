"""The stage `bucket_corpus` and the planning and padding of batches, worked out by hand and as properties."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.errors import InputError
from pipeline_config.schemas import BUCKETS, DOCUMENTS, DOCUMENTS_FILE, PADDING_FILE, SPLITS, buckets_file
from pipeline_config.settings import BucketingConfig, TokenizationConfig, VocabularyConfig
from tasks.batches.batching import SCHEMES, BatchSampler, plan_batches
from tasks.batches.bucket_corpus import bucket_corpus, fill_empty, read_labels, truncate
from tasks.batches.encoded_split import EncodedSplit, load_split
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.commit import commit_output
from tasks.tokens.build_vocabulary import build_vocabulary
from tasks.tokens.tokenize_corpus import tokenize_corpus

# (doc_id, text, label, split); in the train split a occurs 4 times, b twice, c once
CORPUS = [
    (3, "a b a", "y", "train"),
    (5, "a d", "x", "validation"),
    (7, "b c", "x", "train"),
    (8, '"', "z", "test"),
    (9, "a", "y", "train"),
]
IDS = {"a": 2, "b": 3, "c": 4}


def documents_of(corpus: list[tuple[object, ...]]) -> ArtifactRef:
    columns = zip(*corpus, strict=True)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)], schema=DOCUMENTS)
    key = stage_key("ingest_corpus", 1, {"corpus": corpus})
    return commit_output("ingest_corpus", key, lambda out: out.write_table(DOCUMENTS_FILE, table, DOCUMENTS))[0]


def bucket(
    corpus: list[tuple[object, ...]] = CORPUS, *, seed: int = 0, specials: tuple[str, ...] = ("<pad>", "<unk>"),
    **options: object,
) -> ArtifactRef:  # fmt: skip
    """Run the stage, and those before it, on a corpus."""
    documents = documents_of(corpus)
    tokens = tokenize_corpus.fn(documents, TokenizationConfig(shard_documents=2), "basic_english 1")
    vocabulary = build_vocabulary.fn(tokens, VocabularyConfig(min_freq=1, specials=specials))
    return bucket_corpus.fn(tokens, vocabulary, BucketingConfig(**options), seed)


def rows_of(buckets: ArtifactRef, split: str) -> list[tuple[object, ...]]:
    with pa.ipc.open_file(buckets.path(buckets_file(split))) as file:
        table = file.read_all()
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
    buckets = bucket(num_buckets=2, batch_size=2, scheme="quantile")
    # doc_id, label_id, length, bucket, input_ids; train lengths 3, 2, 1 give the boundaries 2 and 3
    assert rows_of(buckets, "train") == [(3, 1, 3, 1, [2, 3, 2]), (7, 0, 2, 0, [3, 4]), (9, 1, 1, 0, [2])]
    assert rows_of(buckets, "validation") == [(5, 0, 2, 0, [2, 1])]
    assert rows_of(buckets, "test") == [(8, 2, 1, 0, [1])]
    assert {path.suffix for path in buckets.directory.iterdir()} == {
        ".arrow",
        ".json",
    }  # nothing of the writing is left


def test_the_report_compares_all_schemes_on_the_train_split(artifacts: Path) -> None:
    report = bucket(num_buckets=2, batch_size=2, scheme="quantile").read_json(PADDING_FILE)
    # by hand: [2, 1] and [3] are padded to 2 * 2 + 3 = 7 for 6 tokens
    by_length = {
        "efficiency": pytest.approx(6 / 7), "batches": 2, "boundaries": [2, 3], "batch_documents": [1, 1, 2],
        "batch_tokens": [3, 3, 4],
    }  # fmt: skip
    assert report["labels"] == ["x", "y", "z"]
    assert report["boundaries"] == [2, 3]
    assert report["schemes"]["quantile"] == report["schemes"]["fixed_width"] == by_length
    assert report["schemes"]["none"]["boundaries"] == [3]
    assert report["truncation"] == {"documents_cut": 0, "tokens_cut": 0, "documents_empty": 1}


def test_one_batch_is_padded_to_its_longest_document(artifacts: Path) -> None:
    report = bucket(scheme="none", batch_size=3).read_json(PADDING_FILE)["schemes"]["none"]
    assert report == {"efficiency": pytest.approx(6 / 9), "batches": 1, "boundaries": [3], "batch_documents": [3] * 3,
                      "batch_tokens": [9] * 3}  # fmt: skip


def test_the_facts_are_those_of_the_configured_scheme(artifacts: Path) -> None:
    facts = bucket(num_buckets=2, batch_size=2).facts
    assert {name: facts[name] for name in facts if not name.startswith("padding_efficiency_")} | {"seconds": 0} == {
        "padding_efficiency": pytest.approx(6 / 7), "buckets": 2, "documents_truncated": 0, "tokens_truncated": 0,
        "documents_empty": 1, "batches": 2, "seconds": 0,
    }  # fmt: skip
    assert {name.removeprefix("padding_efficiency_") for name in facts if name.startswith("padding_efficiency_")} == {
        *SCHEMES
    }
    cut = bucket(scheme="none", batch_size=3, max_length=1).facts
    assert (cut["padding_efficiency"], cut["buckets"], cut["documents_truncated"], cut["batches"]) == (1.0, 1, 3, 1)
    assert cut["tokens_truncated"] == 4


@pytest.mark.parametrize(("side", "kept"), [("head", [2, 3]), ("tail", [3, 2]), ("head_tail", [2, 2])])
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


def test_a_vocabulary_of_another_tokenizer_is_refused(artifacts: Path) -> None:
    documents = documents_of(CORPUS)
    config = TokenizationConfig()
    first, second = (
        tokenize_corpus.fn(documents, config, version) for version in ("basic_english 1", "basic_english 2")
    )
    vocabulary = build_vocabulary.fn(first, VocabularyConfig(min_freq=1))
    expected = "tokens are of basic_english 2, the vocabulary is of basic_english 1$"
    with pytest.raises(InputError, match=expected):
        bucket_corpus.fn(second, vocabulary, BucketingConfig(), 0)


def test_more_special_tokens_move_the_other_ids(artifacts: Path) -> None:
    buckets = bucket(specials=("[PAD]", "[UNK]", "[CLS]"))
    assert rows_of(buckets, "train")[0][4] == [3, 4, 3]
    assert rows_of(buckets, "validation")[0][4] == [3, 1]


def test_token_ids_are_mapped_from_the_file(artifacts: Path) -> None:
    split = load_split(bucket(), "train")
    assert not split.input_ids.flags.writeable
    assert not split.input_ids.flags.owndata


def test_a_split_without_documents_is_loaded_as_an_empty_one(artifacts: Path) -> None:
    split = load_split(bucket([row for row in CORPUS if row[3] != "test"]), "test")
    assert (len(split), split.offsets.tolist(), split.lengths.tolist()) == (0, [0], [])


# ids


LISTS = [[1, 2, 3, 4], [], [5], [6, 7, 8], []]


@pytest.mark.parametrize(
    ("max_length", "side", "expected", "cut"),
    [
        (3, "head", [[1, 2, 3], [], [5], [6, 7, 8], []], 1),
        (3, "tail", [[2, 3, 4], [], [5], [6, 7, 8], []], 1),
        (3, "head_tail", [[1, 2, 4], [], [5], [6, 7, 8], []], 1),
        (2, "head_tail", [[1, 4], [], [5], [6, 8], []], 2),
        (1, "head_tail", [[1], [], [5], [6], []], 2),
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


def random_split(documents: int, *, scheme: str = "optimal", seed: int = 0) -> EncodedSplit:
    generator = np.random.default_rng(seed)
    lists = [generator.integers(1, 100, generator.integers(1, 30)).tolist() for _ in range(documents)]
    ids, offsets = flat(lists)
    positions = np.arange(documents)
    buckets = np.diff(offsets) // 8
    return EncodedSplit(input_ids=ids, offsets=offsets, label_ids=positions.astype(np.int32), buckets=buckets,
                        doc_ids=positions, scheme=scheme)  # fmt: skip


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


def test_the_split_plans_as_the_functions_do() -> None:
    split = random_split(50)
    plan = split.plan_batches(batch_size=7, seed=3, epoch=2)
    expected = plan_batches(split.buckets, batch_size=7, seed=3, epoch=2, lengths=split.lengths, scheme="optimal")
    assert [batch.tolist() for batch in plan] == [batch.tolist() for batch in expected]
