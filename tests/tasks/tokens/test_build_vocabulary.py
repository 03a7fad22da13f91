"""The stage `build_vocabulary`: which tokens of the train split get which id."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.contracts.tokens import VocabularyDescription
from pipeline_config.errors import InputError
from pipeline_config.schemas import DICTIONARY, DICTIONARY_FILE, VECTORS_FILE, VOCABULARY, VOCABULARY_FILE
from pipeline_config.settings import VocabularyConfig
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tasks.tokens.build_vocabulary import build_vocabulary, extend_vocabulary, select_vocabulary
from tasks.tokens.vocabulary import Vocabulary
from tasks.vectors.selection import vectors_table
from tests.token_tables import BASIC_ENGLISH, dictionary_table

SPECIALS = ("<pad>", "<unk>")
# token, train, validation, test occurrences, train documents
COUNTS = [
    ("rare", 1, 9, 9, 1),
    ("held out", 0, 5, 7, 0),
    ("the", 9, 0, 0, 5),
    ("b", 4, 1, 1, 2),
    ("a", 4, 0, 0, 3),
    ("<unk>", 7, 1, 0, 1),
    ("<pad>", 6, 0, 1, 1),
    ("cat", 2, 0, 0, 2),
]


def tokens_of(counts: list[tuple[object, ...]]) -> ArtifactRef:
    key = stage_key("tokenize_corpus", 1, {"counts": counts})
    table = dictionary_table(counts)

    def write(out: StageOutput) -> None:
        out.write_table(DICTIONARY_FILE, table, DICTIONARY)
        out.write_model(BASIC_ENGLISH)

    return commit_output("tokenize_corpus", key, write)[0]


def selected(counts: list[tuple[object, ...]], *, min_freq: int = 1, max_size: int | None = None) -> list[str]:
    table = select_vocabulary(dictionary_table(counts), min_freq=min_freq, max_size=max_size, specials=SPECIALS)
    assert table.schema == VOCABULARY
    assert table["token_id"].to_pylist() == list(range(len(table)))
    return table["token"].to_pylist()


def test_tokens_come_by_falling_train_count_after_the_special_ones() -> None:
    assert selected(COUNTS) == ["<pad>", "<unk>", "the", "a", "b", "cat", "rare"]


def test_counts_are_those_of_the_train_split_and_none_for_special_tokens() -> None:
    table = select_vocabulary(dictionary_table(COUNTS), min_freq=1, max_size=None, specials=SPECIALS)
    assert table["count"].to_pylist() == [0, 0, 9, 4, 4, 2, 1]
    assert table["document_count"].to_pylist() == [0, 0, 5, 3, 2, 2, 1]


@pytest.mark.parametrize(
    ("min_freq", "tokens"), [(1, "the a b cat rare"), (2, "the a b cat"), (4, "the a b"), (5, "the"), (10, "")]
)
def test_a_token_needs_its_occurrences_in_the_train_split(min_freq: int, tokens: str) -> None:
    assert selected(COUNTS, min_freq=min_freq) == ["<pad>", "<unk>", *tokens.split()]


@pytest.mark.parametrize(
    ("max_size", "tokens"), [(3, "the"), (4, "the a"), (7, "the a b cat rare"), (100, "the a b cat rare")]
)
def test_the_largest_size_counts_the_special_tokens(max_size: int, tokens: str) -> None:
    assert selected(COUNTS, max_size=max_size) == ["<pad>", "<unk>", *tokens.split()]


def test_ties_are_in_code_point_order() -> None:
    tokens = ["Z", "a", "a'", "b", "\u00e9", "\u4e00", "\uff01", "\U0001f600"]
    shuffled = random.Random(0).sample(tokens, len(tokens))
    assert selected([(token, 1, 0, 0, 1) for token in shuffled])[2:] == tokens == sorted(tokens)


@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_the_dictionary_does_not_matter(seed: int) -> None:
    shuffled = random.Random(seed).sample(COUNTS, len(COUNTS))
    assert selected(shuffled) == selected(COUNTS)


def test_the_stage_writes_the_vocabulary_and_its_share_of_the_train_tokens(artifacts: Path) -> None:
    reference = build_vocabulary.fn(
        tokens_of(COUNTS), VocabularyConfig(min_freq=4, max_size=None, extend_from_vectors=0)
    )
    table = reference.read_table(VOCABULARY_FILE)
    assert table.schema == VOCABULARY
    assert table["token"].to_pylist() == ["<pad>", "<unk>", "the", "a", "b"]
    assert reference.facts["vocabulary_size"] == 5
    assert reference.facts["train_token_coverage"] == pytest.approx(17 / 33)  # 9 + 4 + 4 of all 33


def test_the_stage_obeys_the_largest_size(artifacts: Path) -> None:
    reference = build_vocabulary.fn(tokens_of(COUNTS), VocabularyConfig(min_freq=1, max_size=3, extend_from_vectors=0))
    assert reference.read_table(VOCABULARY_FILE)["token"].to_pylist() == ["<pad>", "<unk>", "the"]


@pytest.mark.parametrize(
    ("counts", "train_tokens"),
    [(COUNTS, 33), ([("only here", 0, 2, 5, 0)], 0), ([("<unk>", 20, 0, 0, 1)], 20), ([], 0)],
)
def test_a_vocabulary_of_special_tokens_only_is_refused(
    artifacts: Path, counts: list[tuple[object, ...]], train_tokens: int
) -> None:
    with pytest.raises(InputError) as caught:
        build_vocabulary.fn(tokens_of(counts), VocabularyConfig(min_freq=10, extend_from_vectors=0))
    assert str(caught.value) == (
        f"vocabulary: no token occurs 10 times in the train split, which has {train_tokens} tokens; "
        "lower vocabulary.min_freq or use more documents"
    )
    assert not list((artifacts / "store" / "build_vocabulary").glob("[!.]*"))


def test_the_vocabulary_is_read_back_from_the_store(artifacts: Path) -> None:
    vocabulary = Vocabulary.read(
        build_vocabulary.fn(tokens_of(COUNTS), VocabularyConfig(min_freq=4, extend_from_vectors=0))
    )
    assert vocabulary.itos == ["<pad>", "<unk>", "the", "a", "b"]
    assert (vocabulary.specials, vocabulary.tokenizer, len(vocabulary)) == (2, "basic_english 1", 5)


# special tokens and tokens of the vectors


def test_special_tokens_are_those_configured(artifacts: Path) -> None:
    config = VocabularyConfig(specials=("[PAD]", "[UNK]", "cat"), min_freq=4, extend_from_vectors=0)
    reference = build_vocabulary.fn(tokens_of(COUNTS), config)
    assert reference.read_table(VOCABULARY_FILE)["token"].to_pylist() == [
        "[PAD]",
        "[UNK]",
        "cat",
        "the",
        "<unk>",
        "<pad>",
        "a",
        "b",
    ]
    expected = VocabularyDescription(specials=("[PAD]", "[UNK]", "cat"), tokenizer="basic_english 1")
    assert reference.read_model(VocabularyDescription) == expected


@pytest.mark.parametrize(
    ("tokens", "added"), [(0, []), (1, []), (3, ["Paris"]), (4, ["Paris", "i"]), (99, ["Paris", "i"])]
)
def test_the_first_tokens_of_the_vectors_can_be_added(artifacts: Path, tokens: int, added: list[str]) -> None:
    table = vectors_table(pa.array(["the", "cat", "Paris", "i"]), np.zeros((4, 2), np.float32))
    vectors, _ = commit_output("download_glove", "k", lambda out: out.write_table(VECTORS_FILE, table, table.schema))
    config = VocabularyConfig(min_freq=2, max_size=6, extend_from_vectors=tokens)
    reference = build_vocabulary.fn(tokens_of(COUNTS), config, vectors if tokens else None)
    got = reference.read_table(VOCABULARY_FILE)
    assert got["token"].to_pylist() == ["<pad>", "<unk>", "the", "a", "b", "cat", *added]
    assert got["token_id"].to_pylist() == list(range(6 + len(added)))
    assert got["count"].to_pylist() == [0, 0, 9, 4, 4, 2, *[0] * len(added)]
    assert reference.facts["added_from_vectors"] == len(added)


def test_special_tokens_are_not_added_again() -> None:
    vocabulary = select_vocabulary(dictionary_table(COUNTS), min_freq=9, max_size=None, specials=SPECIALS)
    got = extend_vocabulary(vocabulary, pa.array(["<unk>", "new", "the"]))
    assert got["token"].to_pylist() == ["<pad>", "<unk>", "the", "new"]
