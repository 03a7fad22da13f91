"""Near-duplicates: found by the share of five-word sequences in common, whatever the block size."""

import hashlib
import random
from collections import defaultdict
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest

from tasks.corpus.near_duplicates import find_candidates, find_near_duplicates, find_similar, sign_texts


def find(texts: list[str], threshold: float = 0.8, *, block: int = 1000) -> set[tuple[int, int]]:
    column = pa.array(texts, pa.large_string())
    blocks = [column.slice(start, block) for start in range(0, len(texts), block)]
    return {(int(a), int(b)) for a, b in find_near_duplicates(blocks, threshold=threshold)}


def text_of(seed: int, words: int = 200) -> list[str]:
    return [f"w{number}" for number in random.Random(seed).choices(range(5000), k=words)]


def similarity(one: str, other: str) -> float:
    """Return the share of five-word sequences in common."""
    sets = [{tuple(words[i : i + 5]) for i in range(len(words) - 4)} for words in (one.split(), other.split())]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


def test_a_text_with_a_few_changes_is_found_and_a_different_one_is_not() -> None:
    words = text_of(0)
    changed = [*words[:50], "new", *words[51:150], "other", *words[150:]]
    texts = [" ".join(words), " ".join(text_of(1)), " ".join(changed).upper(), " ".join(words[:100] + text_of(2, 100))]
    assert similarity(texts[0], texts[2].lower()) > 0.9
    assert find(texts) == {(0, 2)}


@pytest.mark.parametrize("block", [1, 2, 3, 100])
def test_the_block_size_changes_nothing(block: int) -> None:
    words = text_of(0)
    texts = [" ".join(words), "", "short one", " ".join(text_of(3)), " ".join([*words, "end"]), "Short  ONE"]
    assert find(texts, block=block) == {(0, 4), (2, 5)}


@pytest.mark.parametrize("kept", [10, 20, 40])
def test_the_estimate_is_close_to_the_similarity(kept: int) -> None:
    errors = []
    for seed in range(20):
        words = text_of(seed)
        other = words[: 200 - kept] + text_of(1000 + seed, kept)
        one, two = " ".join(words), " ".join(other)
        signatures = sign_texts(pa.array([one, two], pa.large_string()))
        errors.append((signatures[0] == signatures[1]).mean() - similarity(one, two))
    # a standard error of 1 / 16 at most for one estimate; four of the mean of 20
    assert abs(np.mean(errors)) < 4 / 16 / 20**0.5


def test_copies_are_connected_to_each_other() -> None:
    texts = ["the same few words again and again"] * 6
    pairs = find(texts, 1.0)
    reached = {0}
    for _ in range(6):
        reached |= {b for a, b in pairs if a in reached} | {a for a, b in pairs if b in reached}
    assert reached == set(range(6))


@pytest.mark.parametrize("texts", [[], [""], ["", " "], ["one"], ["one", "two", ""]])
def test_texts_without_anything_in_common_have_no_pairs(texts: list[str]) -> None:
    assert find(texts, 0.5) == set()


# signatures: 64 values, in 16 bands of 4


def signatures_with(equal: list[int]) -> np.ndarray:
    """Return two signatures that are equal in these columns alone."""
    signatures = np.arange(1, 129, dtype=np.uint32).reshape(2, 64)
    signatures[1, equal] = signatures[0, equal]
    return signatures


@pytest.mark.parametrize("band", range(16))
def test_two_signatures_with_one_equal_band_of_four_values_are_candidates(band: int) -> None:
    assert find_candidates(signatures_with([4 * band + row for row in range(4)])).tolist() == [[0, 1]]


@pytest.mark.parametrize("band", range(16))
@pytest.mark.parametrize("odd", range(4))
def test_three_of_the_four_values_of_a_band_make_no_candidates(band: int, odd: int) -> None:
    assert find_candidates(signatures_with([4 * band + row for row in range(4) if row != odd])).tolist() == []


def test_four_neighbouring_values_across_two_bands_make_no_candidates() -> None:
    for start in (1, 2, 3, 57):
        assert find_candidates(signatures_with(list(range(start, start + 4)))).tolist() == []
    three_of_every_band = [column for column in range(64) if column % 4]
    assert find_candidates(signatures_with(three_of_every_band)).tolist() == []


@pytest.mark.parametrize("seed", range(5))
def test_candidates_are_those_of_a_comparison_of_all_bands(seed: int) -> None:
    signatures = np.random.default_rng(seed).integers(1, 4, (60, 64)).astype(np.uint32)
    signatures[[5, 17]] = 0  # texts without words
    expected = set()
    for band in range(16):
        members = defaultdict(list)
        for number, signature in enumerate(signatures.tolist()):
            if any(signature):
                members[tuple(signature[4 * band : 4 * band + 4])].append(number)
        for numbers in members.values():
            expected |= {(numbers[0], other) for other in numbers[1:]} | set(pairwise(numbers))
    assert {tuple(pair) for pair in find_candidates(signatures).tolist()} == expected


@pytest.mark.parametrize("equal", range(4, 65))
def test_the_threshold_is_the_smallest_share_of_equal_values(equal: int) -> None:
    signatures = signatures_with(list(range(equal)))
    assert find_similar(signatures, threshold=equal / 64).tolist() == [[0, 1]]
    assert find_similar(signatures, threshold=np.nextafter(equal / 64, 2)).tolist() == []


WORD = 1 << 64


def mix(number: int) -> int:
    """Return the next output of SplitMix64 from this state."""
    z = (number + 0x9E3779B97F4A7C15) % WORD
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 % WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB % WORD
    return z ^ (z >> 31)


def sign(text: str) -> list[int]:
    """Return the signature of a text, worked out word by word."""
    words = [int.from_bytes(hashlib.blake2b(w.encode(), digest_size=8).digest(), "little") for w in text.split()]
    if not words:
        return [0] * 64
    words += [0] * (5 - len(words))
    hashes = []
    for start in range(len(words) - 4):
        rolled = 0
        for word in words[start : start + 5]:
            rolled = (rolled * 0x9E3779B97F4A7C15 + word) % WORD
        hashes.append(mix(rolled))
    return [max(1, min(number * (mix(column) | 1) % WORD >> 32 for number in hashes)) for column in range(64)]


def test_a_signature_has_the_64_smallest_hashes_of_all_five_word_sequences() -> None:
    texts = ["one", "", "a b c d e", "a b c d e f", " ".join(text_of(0, 30)), "e d c b a", "a b c d"]
    signatures = sign_texts(pa.array(texts, pa.large_string()))
    assert signatures.dtype == np.uint32
    assert signatures.tolist() == [sign(text) for text in texts]
