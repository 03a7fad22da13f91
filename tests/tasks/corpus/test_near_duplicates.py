"""Near-duplicates: found by the share of five-word sequences in common, whatever the blocks."""

import random

import numpy as np
import pyarrow as pa
import pytest

from tasks.corpus.near_duplicates import find_near_duplicates, sign_texts


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
def test_blocks_change_nothing(block: int) -> None:
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
