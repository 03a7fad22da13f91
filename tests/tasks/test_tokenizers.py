"""Tokenizers: equal to torchtext's and Python's, letter for letter, and the same one text at a time."""

import random
import sys
from importlib import metadata

import pyarrow as pa
import pytest
from torchtext.data import get_tokenizer

from tasks.tokenizers import (
    COLUMNAR,
    TEXT,
    TOKEN_LISTS,
    basic_english,
    is_columnar,
    load_tokenizer,
    normalize_text,
    tokenize_texts,
    whitespace,
)

REFERENCES = {"basic_english": get_tokenizer("basic_english"), "whitespace": str.split}
LETTERS = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
ODD = [
    "",
    " ",
    "\t\n",
    '"',
    '"""',
    "'",
    "''",
    ".",
    "...",
    "a",
    " a ",
    "a  b",
    "Don't stop; can't: won't.",
    'He said: "Yes!" (twice)?',
    "<br />",
    "<br/>",
    "<BR />",
    "<br /><br />Great<br />",
    "<br  />",
    "<b'r />",
    '<br" />',
    "<br .../>",
    "3.14,15",
    "e-mail me@example.com",
    "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3",  # final sigma
    "\u03a3",
    "A\u03a3.",
    "\u03a3\u03a3 \u03a3",
    "\u0130STANBUL",
    "I\u0307",
    "STRASSE Stra\u00dfe \u1e9e",
    "\u01c5 \u01c4",
    "\u0345\u0399",
    "a\u00a0b",
    "a\u2028b\u0085c",
    "a\u200bb",
    "a\ufeffb",
    "a\x00b",
    "a\x1cb\x1fc",
    "\U0001f600\U0001f1e9\U0001f1ea",
    "\U00010400",
    "\ua7dc\ua7cb",
    "\u1c89\u1c8a",
    "cafe\u0301",
    "<unk> <pad>",
    "x" * 10_000,
]


def is_special(letter: str) -> bool:
    return letter < "\u0100" or letter.isspace() or letter.lower() != letter or letter.upper() != letter


def column(texts: list[str]) -> pa.Array:
    return pa.array(texts, TEXT)


@pytest.mark.parametrize("name", REFERENCES)
def test_every_letter_of_unicode_in_a_word_gives_the_tokens_of_the_reference(name: str) -> None:
    texts = [f"B{letter}c" for letter in LETTERS]
    got = COLUMNAR[name](column(texts))
    # one text with all of them is much faster for the reference; the space ends each letter's context
    assert pa.array(REFERENCES[name](" ".join(texts)), TEXT).equals(got.flatten())


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("template", ["{}", " {} ", "{}.", "('{}',", "\u03a3{}", "{}\u03a3{}"])
def test_every_letter_with_case_space_or_punctuation_gives_the_tokens_of_the_reference(
    name: str, template: str
) -> None:
    texts = [template.replace("{}", letter) for letter in LETTERS if is_special(letter)]
    assert COLUMNAR[name](column(texts)).to_pylist() == [REFERENCES[name](text) for text in texts]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("text", ODD)
def test_an_odd_text_gives_the_tokens_of_the_reference(name: str, text: str) -> None:
    assert COLUMNAR[name](column([text])).to_pylist() == [REFERENCES[name](text)]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("seed", range(10))
def test_random_texts_give_the_tokens_of_the_reference_text_by_text(name: str, seed: int) -> None:
    generator = random.Random(seed)
    pieces = [*ODD[:-1], *"aB.,;:!?()'\" \n", "\u0130", "\u03a3", "\u00a0"]
    texts = ["".join(generator.choices(pieces, k=generator.randrange(8))) for _ in range(200)]
    assert COLUMNAR[name](column(texts)).to_pylist() == [REFERENCES[name](text) for text in texts]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("texts", [[], [""], ["", ""], ["", "a b", " ", "c", ""]])
def test_texts_without_tokens_give_empty_lists(name: str, texts: list[str]) -> None:
    got = COLUMNAR[name](column(texts))
    got.validate(full=True)
    assert got.type == TOKEN_LISTS
    assert got.to_pylist() == [text.split() for text in texts]


@pytest.mark.parametrize("name", REFERENCES)
@pytest.mark.parametrize("start", [1, 2])
def test_a_slice_of_a_column_gives_its_own_tokens(name: str, start: int) -> None:
    texts = ["first one", "", "second \u03a3\u03a3", "third", ""]
    got = COLUMNAR[name](column(texts).slice(start, 3))
    assert got.to_pylist() == [REFERENCES[name](text) for text in texts[start : start + 3]]


def test_basic_english_splits_by_hand() -> None:
    expected = ["he", "didn", "'", "t", "like", "it", ",", "yes", "(", "really", "!", ")", ".", "great"]
    assert basic_english(column(['He didn\'t like it, "yes" (really!).<br />GREAT'])).to_pylist() == [expected]


def test_whitespace_keeps_case_and_punctuation() -> None:
    assert whitespace(column([" Don't\u00a0stop, now. "])).to_pylist() == [["Don't", "stop,", "now."]]


# by name


@pytest.mark.parametrize("name", REFERENCES)
def test_columnar_tokenizers_go_by_their_names(name: str) -> None:
    assert load_tokenizer(name) is COLUMNAR[name]
    assert is_columnar(name)


@pytest.mark.parametrize("name", ["toktok", "basic", "basic_english ", "whitespace|toktok", ""])
def test_other_names_are_not_columnar(name: str) -> None:
    assert not is_columnar(name)


def test_a_tokenizer_of_torchtext_gives_its_tokens() -> None:
    toktok = pytest.importorskip("nltk.tokenize.toktok").ToktokTokenizer()
    texts = ["Don't stop, now.", "", "Caf\u00e9 (really)?"]
    got = load_tokenizer("toktok")(column(texts))
    assert got.type == TOKEN_LISTS
    assert got.to_pylist() == [toktok.tokenize(text) for text in texts]


@pytest.mark.parametrize("name", ["nonsense", "Basic_English", "basic_english "])
def test_an_unknown_name_is_an_error_that_says_what_is_known(name: str) -> None:
    with pytest.raises(ValueError, match=f"^tokenizer {name!r}: Requested tokenizer {name}, .*"
                       "; expected basic_english, whitespace, or a tokenizer of torchtext whose package"):  # fmt: skip
        load_tokenizer(name)


@pytest.mark.skipif(
    any(distribution.name == "revtok" for distribution in metadata.distributions()), reason="revtok is installed"
)
@pytest.mark.parametrize("name", ["revtok", "subword"])
def test_a_tokenizer_whose_package_is_missing_is_an_error(name: str) -> None:
    with pytest.raises(ValueError, match=f"^tokenizer '{name}': No module named 'revtok'; expected basic_english"):
        load_tokenizer(name)


# single texts


@pytest.mark.parametrize("name", REFERENCES)
def test_single_texts_get_the_tokens_of_the_column(name: str) -> None:
    texts = [normalize_text(text) for text in ODD]
    together = COLUMNAR[name](column(texts)).to_pylist()
    assert tokenize_texts(ODD, name) == together
    assert [tokenize_texts([text], name)[0] for text in ODD] == together


def test_single_texts_are_normalized_as_the_corpus_is() -> None:
    assert tokenize_texts(["cafe\u0301"], "basic_english") == [["caf\u00e9"]]


@pytest.mark.parametrize("name", REFERENCES)
def test_no_texts_give_no_tokens(name: str) -> None:
    assert tokenize_texts([], name) == []
    assert tokenize_texts(iter(()), name) == []


@pytest.mark.parametrize(
    ("text", "normalized"), [("e\u0301", "\u00e9"), ("\u212b", "\u00c5"), ("\ufe30", "\ufe30"), ("\ufb01", "\ufb01")]
)
def test_texts_are_normalized_by_canonical_composition_only(text: str, normalized: str) -> None:
    assert normalize_text(text) == normalized
