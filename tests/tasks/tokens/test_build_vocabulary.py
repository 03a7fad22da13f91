"""The stage `build_vocabulary`: which tokens of the train split get which id."""

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.errors import InputError
from pipeline_config.schemas import (
    DICTIONARY,
    DICTIONARY_FILE,
    SPECIALS_FILE,
    TOKENIZER_FILE,
    VECTORS_FILE,
    VOCABULARY,
    VOCABULARY_FILE,
)
from pipeline_config.settings import VocabularyConfig
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tasks.tokens.build_vocabulary import build_vocabulary, extend_vocabulary, select_vocabulary
from tasks.tokens.vocabulary import Vocabulary, check_vocabulary
from tasks.vectors.selection import vectors_table

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


def dictionary_of(counts: list[tuple[object, ...]]) -> pa.Table:
    columns = [range(len(counts)), *zip(*counts, strict=True)] if counts else [[]] * len(DICTIONARY)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, DICTIONARY, strict=True)], schema=DICTIONARY)


def tokens_of(counts: list[tuple[object, ...]]) -> ArtifactRef:
    key = stage_key("tokenize_corpus", 1, {"counts": counts})
    table = dictionary_of(counts)

    def write(out: StageOutput) -> None:
        out.write_table(DICTIONARY_FILE, table, DICTIONARY)
        out.write_json(TOKENIZER_FILE, {"name": "basic_english", "version": "basic_english 1"})

    return commit_output("tokenize_corpus", key, write)[0]


def selected(counts: list[tuple[object, ...]], *, min_freq: int = 1, max_size: int | None = None) -> list[str]:
    table = select_vocabulary(dictionary_of(counts), min_freq=min_freq, max_size=max_size)
    assert table.schema == VOCABULARY
    assert table["token_id"].to_pylist() == list(range(len(table)))
    return table["token"].to_pylist()


def test_tokens_come_by_falling_train_count_after_the_special_ones() -> None:
    assert selected(COUNTS) == ["<pad>", "<unk>", "the", "a", "b", "cat", "rare"]


def test_counts_are_those_of_the_train_split_and_none_for_special_tokens() -> None:
    table = select_vocabulary(dictionary_of(COUNTS), min_freq=1, max_size=None)
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
    reference = build_vocabulary.fn(tokens_of(COUNTS), VocabularyConfig(min_freq=4, max_size=None))
    table = reference.read_table(VOCABULARY_FILE)
    assert table.schema == VOCABULARY
    assert table["token"].to_pylist() == ["<pad>", "<unk>", "the", "a", "b"]
    assert reference.facts["vocabulary_size"] == 5
    assert reference.facts["train_token_coverage"] == pytest.approx(17 / 33)  # 9 + 4 + 4 of all 33


def test_the_stage_obeys_the_largest_size(artifacts: Path) -> None:
    reference = build_vocabulary.fn(tokens_of(COUNTS), VocabularyConfig(min_freq=1, max_size=3))
    assert reference.read_table(VOCABULARY_FILE)["token"].to_pylist() == ["<pad>", "<unk>", "the"]


@pytest.mark.parametrize(
    ("counts", "train_tokens"),
    [(COUNTS, 33), ([("only here", 0, 2, 5, 0)], 0), ([("<unk>", 20, 0, 0, 1)], 20), ([], 0)],
)
def test_a_vocabulary_of_special_tokens_only_is_refused(
    artifacts: Path, counts: list[tuple[object, ...]], train_tokens: int
) -> None:
    with pytest.raises(InputError) as caught:
        build_vocabulary.fn(tokens_of(counts), VocabularyConfig(min_freq=10))
    assert str(caught.value) == (
        f"vocabulary: no token occurs 10 times in the train split (vocabulary.min_freq); it has {train_tokens} tokens"
    )
    assert not list((artifacts / "store" / "build_vocabulary").glob("[!.]*"))


# special tokens and tokens of the vectors


def test_special_tokens_are_those_configured(artifacts: Path) -> None:
    config = VocabularyConfig(specials=("[PAD]", "[UNK]", "cat"), min_freq=4)
    reference = build_vocabulary.fn(tokens_of(COUNTS), config)
    assert reference.read_table(VOCABULARY_FILE)["token"].to_pylist() == [
        "[PAD]", "[UNK]", "cat", "the", "<unk>", "<pad>", "a", "b",
    ]  # fmt: skip
    assert reference.read_json(SPECIALS_FILE) == {"specials": ["[PAD]", "[UNK]", "cat"], "tokenizer": "basic_english 1"}


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
    vocabulary = select_vocabulary(dictionary_of(COUNTS), min_freq=9, max_size=None)
    got = extend_vocabulary(vocabulary, pa.array(["<unk>", "new", "the"]))
    assert got["token"].to_pylist() == ["<pad>", "<unk>", "the", "new"]


# looking up


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(["<pad>", "<unk>", "the", "cat"])


def test_the_vocabulary_is_read_back_from_the_store(artifacts: Path) -> None:
    vocabulary = Vocabulary.read(build_vocabulary.fn(tokens_of(COUNTS), VocabularyConfig(min_freq=4)))
    assert vocabulary.itos == ["<pad>", "<unk>", "the", "a", "b"]
    assert (vocabulary.specials, vocabulary.tokenizer, len(vocabulary)) == (2, "basic_english 1", 5)


def test_looking_up_reads_as_in_torchtext(vocabulary: Vocabulary) -> None:
    assert vocabulary["cat"] == vocabulary.stoi["cat"] == vocabulary.get_stoi()["cat"] == 3
    assert vocabulary["dog"] == 1
    assert vocabulary.lookup_indices(["the", "dog"]) == [2, 1]
    assert vocabulary.lookup_tokens([3, 0]) == ["cat", "<pad>"]
    assert vocabulary.lookup_token(2) == vocabulary.get_itos()[2] == "the"
    assert "cat" in vocabulary
    assert "dog" not in vocabulary


def test_the_default_index_can_be_another_or_none(vocabulary: Vocabulary) -> None:
    assert vocabulary.get_default_index() == 1
    vocabulary.set_default_index(3)
    assert vocabulary["dog"] == 3
    vocabulary.set_default_index(None)
    with pytest.raises(KeyError, match="dog"):
        vocabulary["dog"]


@pytest.mark.parametrize("token_id", [-1, 4])
def test_an_id_that_there_is_not_is_an_error(vocabulary: Vocabulary, token_id: int) -> None:
    with pytest.raises(IndexError, match=f"^token id {token_id}: expected 0 to 3$"):
        vocabulary.lookup_token(token_id)


def test_look_ups_are_those_of_torchtexts_vocab() -> None:
    from collections import Counter as Occurrences

    from torchtext.vocab import Vocab

    reference = Vocab(Occurrences({token: count for token, count, *_ in COUNTS if count and "<" not in token}))
    ours = Vocabulary(select_vocabulary(dictionary_of(COUNTS), min_freq=1, max_size=None)["token"].to_pylist())
    assert sorted(reference.itos) == sorted(ours.itos)
    # torchtext has <unk> before <pad>; the order of the others is the same
    assert reference.itos[2:] == ours.itos[2:]
    for token in (*ours.itos[2:], "never seen"):
        assert ours.lookup_token(ours[token]) == reference.itos[reference.stoi[token]]


def test_words_of_a_text_are_never_special_tokens(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode(pa.array(["cat", "x", "<pad>", "<unk>", "the"]))
    assert (ids.tolist(), ids.dtype) == ([3, 1, 1, 1, 2], np.int32)


# what belongs together


@pytest.mark.parametrize(
    "other",
    [
        Vocabulary(["<pad>", "<unk>", "cat", "the"]),
        Vocabulary(["<pad>", "<unk>", "the"]),
        Vocabulary(["<pad>", "<unk>", "the", "cat"], specials=3),
        Vocabulary(["<pad>", "<unk>", "the", "cat"], tokenizer="treebank 1"),
        Vocabulary(["<pad>", "<unk>", "thec", "at"]),
    ],
)
def test_what_was_made_for_another_vocabulary_is_refused(vocabulary: Vocabulary, other: Vocabulary) -> None:
    same = Vocabulary(list(vocabulary.itos))
    check_vocabulary(vocabulary, same.digest, where="matrix")
    with pytest.raises(
        InputError, match=f"^matrix: was made for the vocabulary {other.digest[:12]}, got {same.digest[:12]}"
    ):
        check_vocabulary(vocabulary, other.digest, where="matrix")
