"""Word boundaries of Unicode: the rules by hand, and random texts against an oracle that reads them one by one."""

import pytest

from tasks.served.text import TOKEN_LISTS
from tasks.served.tokenizers import characters, unicode_words
from tests.campaigns import word_breaks
from tests.tasks.served.texts import ODD, column


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Don't stop; it's HERE.", ["don't", "stop", ";", "it's", "here", "."]),
        ("L'eau d\u2019hier", ["l'eau", "d\u2019hier"]),
        ("3.14 1,000 5, x_1", ["3.14", "1,000", "5", ",", "x_1"]),
        ("Stra\u00dfe, \u00dcber-uns", ["stra\u00dfe", ",", "\u00fcber", "-", "uns"]),
        ("e\u0301te\u0301", ["e\u0301te\u0301"]),
        ("\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", ["\u043f\u0440\u0438\u0432\u0435\u0442", ",", "\u043c\u0438\u0440", "!"]),
        ("\u0627\u0644\u0633\u0644\u0627\u0645 \u0639\u0644\u064a\u0643\u0645\u061f", ["\u0627\u0644\u0633\u0644\u0627\u0645", "\u0639\u0644\u064a\u0643\u0645", "\u061f"]),
        ("\u05e6\u05d4\"\u05dc \u05d2\u05f3", ["\u05e6\u05d4\"\u05dc", "\u05d2\u05f3"]),  # a quote stays inside a Hebrew word
        ("\ud55c\uad6d\uc5b4 \ub9d0", ["\ud55c\uad6d\uc5b4", "\ub9d0"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        ("\u597d\u574f\u30ab\u30bf\u3072", ["\u597d", "\u574f", "\u30ab\u30bf", "\u3072"]),
        ("\U0001f468\u200d\U0001f469 \U0001f44d\U0001f3fd\U0001f600", ["\U0001f468\u200d\U0001f469", "\U0001f44d\U0001f3fd", "\U0001f600"]),
        ("\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7", ["\U0001f1e9\U0001f1ea", "\U0001f1eb\U0001f1f7"]),
        (" \u200d\U0001f600\u200b\ufeff", ["\U0001f600"]),
        ("a\u00a0b\u3000c\u2028d\x00e\r\nf", list("abcdef")),
        ("", []),
        (" \n\u00a0", []),
    ],
)  # fmt: skip
def test_words_by_hand(text: str, tokens: list[str]) -> None:
    assert unicode_words(column([text])).to_pylist() == [tokens]
    assert unicode_words(column(["x", text, "", text, "x"])).to_pylist() == [["x"], tokens, [], tokens, ["x"]]
    assert unicode_words(column(["x", text, "y"]).slice(1, 1)).to_pylist() == [tokens]


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("\u597d \u574fAb", ["\u597d", "\u574f", "a", "b"]),
        ("e\u0301\U0001f44d\U0001f3fd\n", ["e\u0301", "\U0001f44d\U0001f3fd"]),
        ("\u0e17\u0e35\u0e48", ["\u0e17\u0e35\u0e48"]),  # a Thai letter with a vowel and a tone
        ("\u3000", []),
    ],
)
def test_characters_by_hand(text: str, tokens: list[str]) -> None:
    got = characters(column(["", text, "x"]))
    assert got.type == TOKEN_LISTS
    assert got.to_pylist() == [[], tokens, ["x"]]


@pytest.mark.parametrize("split", [unicode_words, characters])
def test_every_visible_letter_is_in_a_token(split: object) -> None:
    for text, tokens in zip(ODD, split(column(ODD)).to_pylist(), strict=True):
        visible = [letter for letter in text.lower() if not word_breaks.is_invisible(letter)]
        assert [letter for token in tokens for letter in token if not word_breaks.is_invisible(letter)] == visible


def test_random_texts_are_split_as_the_rules_say() -> None:
    assert word_breaks.run_campaign(600, seed=100) == 600
