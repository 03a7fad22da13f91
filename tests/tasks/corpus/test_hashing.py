"""Hashes of texts and words: equal for copies, and the same on every machine."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.corpus.hashing import hash_texts, hash_word, mix_hashes


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("A b", "a  B\n", True),
        ("stra\u00dfe", "STRASSE", True),
        ("\u00c9t\u00e9", "\u00e9T\u00c9", True),
        ("a\u00a0b", "a b", True),
        ("a", "b", False),
        ("a.", "a", False),
        ("\u00e9", "e", False),
    ],
)
def test_texts_that_differ_only_in_case_and_white_space_have_equal_hashes(one: str, other: str, same: bool) -> None:
    keys = hash_texts(pa.array([one, other, "", one], pa.large_string()))
    assert (keys[0] == keys[1]) == same
    assert keys[0] == keys[3] != keys[2]
    assert {len(key) for key in keys} == {16}
    assert hash_texts(pa.array(["zero", one, other], pa.large_string()).slice(1)) == keys[:2]


def test_mixing_is_splitmix64() -> None:
    # first outputs of the published generator from the states 0 and 1234567
    assert mix_hashes(np.array([0], np.uint64), 0)[0] == 0xE220A8397B1DCDAF
    assert mix_hashes(np.array([1234567], np.uint64), 0)[0] == 6457827717110365317


def test_a_word_hashes_to_its_blake2b_digest() -> None:
    # `printf abc | b2sum --length 64` prints d8bb14d833d59559
    assert hash_word("abc") == int.from_bytes(bytes.fromhex("d8bb14d833d59559"), "little")
