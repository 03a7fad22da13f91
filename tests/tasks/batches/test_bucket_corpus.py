"""The stage `bucket_corpus`, worked out by hand."""

from pathlib import Path

import numpy as np
import pytest

from pipeline_config.contracts.batches import BucketsDescription, PaddingReport, SchemePadding, Truncation
from pipeline_config.errors import InputError
from pipeline_config.settings import BucketingConfig, TokenizationConfig, VocabularyConfig
from tasks.batches.batching import SCHEMES, padding_efficiency
from tasks.batches.bucket_corpus import bucket_corpus, fill_empty, read_labels, truncate
from tasks.batches.encoded_split import load_split
from tasks.tokens.build_vocabulary import build_vocabulary
from tasks.tokens.tokenize_corpus import tokenize_corpus
from tasks.tokens.vocabulary import Vocabulary
from tests.tasks.batches.bucketed import CORPUS, bucket, documents_of, flat, nested, rows_of

IDS = {"a": 2, "b": 3, "c": 4}


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
    report = bucket(num_buckets=2, batch_size=2, scheme="quantile").read_model(PaddingReport)
    # by hand: [2, 1] and [3] are padded to 2 * 2 + 3 = 7 for 6 tokens
    by_length = SchemePadding(
        efficiency=6 / 7, batches=2, boundaries=(2, 3), batch_documents=(1, 1, 2), batch_tokens=(3, 3, 4)
    )
    assert report.scheme == "quantile"
    assert report.chosen == report.schemes["quantile"] == report.schemes["fixed_width"] == by_length
    assert report.schemes["none"].boundaries == (3,)
    assert report.truncation == Truncation(documents_cut=0, tokens_cut=0, documents_empty=1)


@pytest.mark.parametrize(("scheme", "token_budget"), [("none", None), ("token_budget", 40)])
def test_the_buckets_describe_themselves(artifacts: Path, scheme: str, token_budget: int | None) -> None:
    buckets = bucket(scheme=scheme, token_budget=token_budget, specials=("[PAD]", "[UNK]", "[CLS]"))
    vocabulary = Vocabulary(["[PAD]", "[UNK]", "[CLS]", "a", "b", "c"], specials=3, tokenizer="basic_english 1")
    assert buckets.read_model(BucketsDescription) == BucketsDescription(
        labels=("x", "y", "z"),
        vocabulary_digest=vocabulary.digest,
        tokenizer="basic_english 1",
        special_tokens=3,
        scheme=scheme,
        token_budget=token_budget,
    )


def test_one_batch_is_padded_to_its_longest_document(artifacts: Path) -> None:
    padding = bucket(scheme="none", batch_size=3).read_model(PaddingReport).chosen
    assert padding == SchemePadding(
        efficiency=6 / 9, batches=1, boundaries=(3,), batch_documents=(3, 3, 3), batch_tokens=(9, 9, 9)
    )


def test_the_report_is_of_the_batches_that_the_seed_gives(artifacts: Path) -> None:
    efficiencies = set()
    for seed in range(8):
        buckets = bucket(scheme="none", batch_size=2, seed=seed)
        split = load_split(buckets, "train")
        batches = split.plan_batches(batch_size=2, seed=seed, epoch=0)
        reported = buckets.read_model(PaddingReport).chosen.efficiency
        assert reported == padding_efficiency(split.lengths, batches)
        efficiencies.add(reported)
    assert len(efficiencies) > 1


def test_the_facts_are_those_of_the_configured_scheme(artifacts: Path) -> None:
    facts = bucket(num_buckets=2, batch_size=2).facts
    assert {name: facts[name] for name in facts if not name.startswith("padding_efficiency_")} | {"seconds": 0} == {
        "padding_efficiency": pytest.approx(6 / 7),
        "buckets": 2,
        "documents_truncated": 0,
        "tokens_truncated": 0,
        "documents_empty": 1,
        "batches": 2,
        "seconds": 0,
    }
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


def test_labels_are_read_in_the_order_of_their_ids(artifacts: Path) -> None:
    assert read_labels(bucket()) == ["x", "y", "z"]


def test_a_vocabulary_of_another_tokenizer_is_refused(artifacts: Path) -> None:
    documents = documents_of(CORPUS)
    config = TokenizationConfig()
    first, second = (
        tokenize_corpus.fn(documents, config, version) for version in ("basic_english 1", "basic_english 2")
    )
    vocabulary = build_vocabulary.fn(first, VocabularyConfig(min_freq=1, extend_from_vectors=0))
    expected = "the tokens come from the tokenizer basic_english 2, the vocabulary from basic_english 1; build"
    with pytest.raises(InputError, match=expected):
        bucket_corpus.fn(second, vocabulary, BucketingConfig(batch_size=8, max_length=9), 0)


def test_more_special_tokens_move_the_other_ids(artifacts: Path) -> None:
    buckets = bucket(specials=("[PAD]", "[UNK]", "[CLS]"))
    assert rows_of(buckets, "train")[0][4] == [3, 4, 3]
    assert rows_of(buckets, "validation")[0][4] == [3, 1]


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
