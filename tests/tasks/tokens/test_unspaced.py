"""Texts without spaces between words: refused where the tokenizer left them whole, and no false alarms."""

import logging
import random

import pytest

from pipeline_config.errors import InputError
from tasks.served import languages
from tasks.served.tokenizers import tokenize_texts
from tasks.tokens.unspaced import check_segmentation, describe_long_tokens
from tests.token_tables import dictionary_table

HAN = "\u597d\u574f\u5feb\u6162\u8d35\u4fbf\u5b9c\u8d28\u91cf\u670d\u52a1"
KANA = "\u306b\u3092\u306e\u307e\u3057\u305f\u3067\u3059\u30b3\u30fc\u30d2"
THAI = "\u0e1c\u0e21\u0e23\u0e31\u0e01\u0e1b\u0e23\u0e30\u0e40\u0e17\u0e28\u0e44\u0e17\u0e22"
KHMER = "\u1781\u17d2\u1789\u17bb\u17c6\u179f\u17d2\u179a\u1798\u17b6\u1789\u17cb"
ENGLISH = [
    "the",
    "parcel",
    "is",
    "late",
    "again",
    "and",
    "nobody",
    "answers",
    "my",
    "letters",
    "about",
    "it",
    "since",
    "last",
    "week",
]


def check(texts: list[str], tokenizer: str = "basic_english") -> None:
    counts: dict[str, int] = {}
    for tokens in tokenize_texts(texts, tokenizer):
        for token in tokens:
            counts[token] = counts.get(token, 0) + 1
    check_segmentation(dictionary_table([(token, count, 0, 0, 1) for token, count in counts.items()]), tokenizer)


def drawn(letters: str, *, words: int = 60, size: int = 12, space: str = "\u3002 ") -> list[str]:
    draw = random.Random(0)
    return [space.join("".join(draw.choices(letters, k=size)) for _ in range(3)) for _ in range(words)]


@pytest.mark.parametrize("tokenizer", ["basic_english", "treebank", "whitespace"])
@pytest.mark.parametrize(
    ("letters", "language", "size"),
    [(HAN, "Chinese", 12), (HAN + KANA, "Japanese", 12), (THAI, "Thai", 30), (KHMER, "Lao, Khmer or Burmese", 30)],
)
def test_unsplit_texts_are_refused_with_a_tokenizer_that_splits_them(
    letters: str, language: str, size: int, tokenizer: str
) -> None:
    with pytest.raises(InputError) as caught:
        check(drawn(letters, size=size), tokenizer)
    message = str(caught.value)
    assert f"of the characters of the train split are {language}, which has no spaces between words" in message
    assert f"and tokens of {tokenizer} have" in message
    assert "characters" in message.partition("set tokenization.tokenizer=")[2]
    assert (f"set tokenization.tokenizer={language.lower()}" in message) is (
        language in ("Chinese", "Japanese", "Thai")
    )


@pytest.mark.parametrize("installed", [True, False])
def test_the_package_to_install_is_named_if_it_is_missing(installed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        if installed:
            return "1"
        raise languages.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(languages.metadata, "version", version)
    expected = "chinese or characters" if installed else r"chinese \(pip install rjieba first\), or characters"
    with pytest.raises(InputError, match=f"; set tokenization.tokenizer={expected}$"):
        check(drawn(HAN))


@pytest.mark.parametrize(
    ("texts", "tokenizer"),
    [
        ([" ".join(ENGLISH)] * 50, "basic_english"),
        (["Donaudampfschifffahrtsgesellschaft \u00fcbernimmt Rechtsschutzversicherungsgesellschaften"] * 50, "basic_english"),
        (["\ud0dd\ubc30\uac00 \ub610 \ub2a6\uc5c8\uc2b5\ub2c8\ub2e4 \uc544\ubb34\ub3c4 \ub300\ub2f5\ud558\uc9c0 \uc54a\uc544\uc694"] * 50, "basic_english"),
        (["@you so late \U0001f621\U0001f621\U0001f621 #fail https://example.com/aVeryLongAddressOfSomePage \u2764\ufe0f"] * 50, "basic_english"),
        (drawn(HAN, size=2, space=" "), "whitespace"),  # split before
        (drawn(THAI, size=5, space=" "), "whitespace"),
        (drawn(HAN), "characters"),
        (drawn(HAN + KANA), "unicode_words"),
        ([], "basic_english"),
    ],
)  # fmt: skip
def test_texts_with_words_pass(texts: list[str], tokenizer: str, caplog: pytest.LogCaptureFixture) -> None:
    check(texts, tokenizer)
    assert caplog.messages == []


def test_a_smaller_share_is_told_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        check([*drawn(HAN, words=20), *[" ".join(ENGLISH)] * 30])
    (message,) = caplog.messages
    assert "of the characters of the train split are Chinese" in message


def test_a_hint_about_long_tokens() -> None:
    long = dictionary_table([("x" * 30, 1, 0, 0, 1), ("y" * 20, 1, 0, 0, 1)])
    assert "Its tokens have 25 characters on average: whitespace does not split" in describe_long_tokens(
        long, "whitespace"
    )
    assert describe_long_tokens(dictionary_table([("word", 1, 0, 0, 1)]), "whitespace") == ""
    assert describe_long_tokens(dictionary_table([]), "whitespace") == ""
