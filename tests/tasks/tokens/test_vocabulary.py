"""The vocabulary in memory: look-ups as in torchtext, encoding, and its digest."""

from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from torchtext.vocab import Vocab

from pipeline_config.errors import InputError
from tasks.tokens.vocabulary import Vocabulary, check_vocabulary

TOKENS = ["<pad>", "<unk>", "the", "cat"]


@pytest.fixture
def vocabulary() -> Vocabulary:
    return Vocabulary(TOKENS, specials=2)


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
def test_an_id_outside_the_vocabulary_is_an_error(vocabulary: Vocabulary, token_id: int) -> None:
    with pytest.raises(IndexError, match=f"^token id {token_id}: expected 0 to 3$"):
        vocabulary.lookup_token(token_id)


def test_look_ups_are_those_of_torchtexts_vocab() -> None:
    reference = Vocab(Counter({"the": 9, "a": 4, "b": 4, "cat": 2}))
    ours = Vocabulary(["<pad>", "<unk>", "the", "a", "b", "cat"], specials=2)
    # torchtext has <unk> before <pad>; the order of the others is the same
    assert reference.itos == ["<unk>", "<pad>", *ours.itos[2:]]
    for token in (*ours.itos[2:], "never seen"):
        assert ours.lookup_token(ours[token]) == reference.itos[reference.stoi[token]]


def test_words_of_a_text_are_never_special_tokens(vocabulary: Vocabulary) -> None:
    ids = vocabulary.encode(pa.array(["cat", "x", "<pad>", "<unk>", "the"]))
    assert (ids.tolist(), ids.dtype) == ([3, 1, 1, 1, 2], np.int32)


def test_further_special_tokens_are_unknown_in_texts_too() -> None:
    vocabulary = Vocabulary(["<pad>", "<unk>", "<cls>", "the"], specials=3)
    assert vocabulary.encode(pa.array(["<cls>", "the", "x"])).tolist() == [1, 3, 1]


@pytest.mark.parametrize(
    "other",
    [
        Vocabulary(["<pad>", "<unk>", "cat", "the"], specials=2),
        Vocabulary(["<pad>", "<unk>", "the"], specials=2),
        Vocabulary(TOKENS, specials=3),
        Vocabulary(TOKENS, specials=2, tokenizer="treebank 1"),
        Vocabulary(["<pad>", "<unk>", "thec", "at"], specials=2),
    ],
)
def test_an_output_for_another_vocabulary_is_refused(vocabulary: Vocabulary, other: Vocabulary) -> None:
    same = Vocabulary(list(vocabulary.itos), specials=2)
    check_vocabulary(vocabulary, same.digest, where="matrix")
    with pytest.raises(
        InputError, match=f"^matrix: was made for the vocabulary {other.digest[:12]}, got {same.digest[:12]}, in which"
    ):
        check_vocabulary(vocabulary, other.digest, where="matrix")
