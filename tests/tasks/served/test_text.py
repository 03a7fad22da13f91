"""Texts in Arrow columns: normalization as of single texts, and their bytes."""

import pytest

from tasks.served.text import largest_bytes, normalize_text, normalize_texts
from tests.tasks.served.texts import LETTERS, ODD, column


def test_columns_are_normalized_as_single_texts_are() -> None:
    texts = [*ODD, "e\u0301", "\u1100\u1161", "\u0344", "\u2126", "\u0374", "\u00e9", ""]
    got = normalize_texts(column(texts))
    assert got.to_pylist() == [normalize_text(text) for text in texts]
    assert normalize_texts(column(texts).slice(3, 9)).to_pylist() == got.slice(3, 9).to_pylist()


def test_every_letter_that_normalization_changes_begins_with_a_byte_from_cc_on() -> None:
    assert all(letter.encode()[0] >= 0xCC for letter in LETTERS if normalize_text(letter) != letter)
    assert chr(0x300).encode()[0] == 0xCC  # the first combining letter
    assert all(normalize_text("a" + letter) == "a" + letter for letter in LETTERS[:0x300])


def test_a_column_that_is_in_normal_form_is_not_copied() -> None:
    texts = column(["plain", "caf\u00e9", ""])
    assert normalize_texts(texts) is texts


@pytest.mark.parametrize("start", [0, 1, 3])
def test_the_largest_byte_of_each_text(start: int) -> None:
    texts = ["a", "", "z~", "\u00e9", "", "b"]
    assert largest_bytes(column(texts).slice(start)).tolist() == [
        max(text.encode(), default=0) for text in texts[start:]
    ]
    assert largest_bytes(column([])).tolist() == []


@pytest.mark.parametrize(
    ("text", "normalized"), [("e\u0301", "\u00e9"), ("\u212b", "\u00c5"), ("\ufe30", "\ufe30"), ("\ufb01", "\ufb01")]
)
def test_texts_are_normalized_by_canonical_composition_only(text: str, normalized: str) -> None:
    assert normalize_text(text) == normalized
