"""Dividing documents: fractions, what must stay together, and what the order of rows and the growth of a corpus change."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from tasks.corpus.hashing import mix_hashes
from tasks.corpus.splitting import (
    NOT_GIVEN,
    TEST,
    TRAIN,
    VALIDATION,
    DocumentIndex,
    draw_splits,
    find_crossing,
    find_pairs,
)

SPLITTERS = ("stratified", "hash", "time", "group")


def index_of(
    texts: list[int],
    *,
    labels: list[int] | None = None,
    given: list[int] | None = None,
    groups: list[int] | None = None,
    times: list[float] | None = None,
) -> DocumentIndex:
    """Return an index of documents by the numbers of their texts, whose hashes depend on these numbers alone."""
    count = len(texts)
    distinct, codes = np.unique(texts, return_inverse=True)
    return DocumentIndex(
        doc_ids=np.arange(count),
        texts=codes.astype(np.int32),
        hashes=mix_hashes(distinct.astype(np.uint64), 99)[codes],
        labels=np.array(labels or [0] * count, np.int32),
        given=np.array(given or [NOT_GIVEN] * count, np.int8),
        groups=np.array(groups or [-1] * count, np.int32),
        times=np.array(times or range(count), np.float64),
    )


def draw(index: DocumentIndex, splitter: str = "stratified", *, seed: int = 0, **options: object) -> list[int]:
    settings = {"validation_fraction": 0.1, "test_fraction": 0.1, **options}
    return draw_splits(index, splitter=splitter, seed=seed, **settings).tolist()


def sizes(split: list[int]) -> tuple[int, int, int]:
    return split.count(TRAIN), split.count(VALIDATION), split.count(TEST)


def test_each_class_is_divided_by_the_fractions() -> None:
    labels = [0] * 100 + [1] * 30 + [2] * 10
    split = draw(index_of(list(range(140)), labels=labels), test_fraction=0.2)
    assert Counter(zip(labels, split, strict=True)) == {
        (0, TEST): 20,
        (0, VALIDATION): 10,
        (0, TRAIN): 70,
        (1, TEST): 6,
        (1, VALIDATION): 3,
        (1, TRAIN): 21,
        (2, TEST): 2,
        (2, VALIDATION): 1,
        (2, TRAIN): 7,
    }


def test_the_fractions_are_those_of_the_distinct_texts() -> None:
    assert sizes(draw(index_of([i // 4 for i in range(80)]), test_fraction=0.2)) == (14 * 4, 2 * 4, 4 * 4)


@pytest.mark.parametrize(
    ("count", "validation", "test", "expected"),
    [
        (3, 0.1, 0.1, (1, 1, 1)),
        (4, 0.1, 0.1, (2, 1, 1)),
        (3, 0.3, 0.6, (1, 1, 1)),
        (10, 0.49, 0.5, (1, 4, 5)),
        (10, 0.6, 0.39, (1, 5, 4)),
    ],
)
def test_every_split_gets_a_document_of_every_class(
    count: int, validation: float, test: float, expected: tuple[int, int, int]
) -> None:
    split = draw(index_of(list(range(count))), validation_fraction=validation, test_fraction=test)
    assert sizes(split) == expected


@pytest.mark.parametrize("splitter", ["stratified", "hash", "group"])
def test_the_seed_decides_and_the_order_of_the_rows_does_not(splitter: str) -> None:
    texts = list(range(200))
    shuffled = np.random.default_rng(0).permutation(texts).tolist()
    labels = [text % 2 for text in texts]
    split = dict(zip(texts, draw(index_of(texts, labels=labels), splitter), strict=True))
    again = draw(index_of(shuffled, labels=[text % 2 for text in shuffled]), splitter)
    assert dict(zip(shuffled, again, strict=True)) == split
    assert draw(index_of(texts, labels=labels), splitter, seed=1) != list(split.values())


@pytest.mark.parametrize("added", range(5))
def test_one_more_document_moves_at_most_one_other_across_each_border_of_its_class(added: int) -> None:
    labels = [0] * 50 + [1] * 50
    before = draw(index_of(list(range(100)), labels=labels))
    after = draw(index_of([*range(100), 1000 + added], labels=[*labels, 0]))
    moved = [i for i in range(100) if before[i] != after[i]]
    assert len(moved) <= 2
    assert all(labels[i] == 0 for i in moved)


def test_by_hash_no_document_ever_moves_as_the_corpus_grows() -> None:
    texts = np.random.default_rng(1).permutation(3000).tolist()
    whole = draw(index_of(texts), "hash", validation_fraction=0.2)
    for count in (1, 10, 500, 2999):
        assert draw(index_of(texts[:count]), "hash", validation_fraction=0.2) == whole[:count]
    train, validation, test = sizes(whole)
    # four standard deviations of 3000 draws
    assert abs(test - 300) < 4 * (3000 * 0.1 * 0.9) ** 0.5
    assert abs(validation - 600) < 4 * (3000 * 0.2 * 0.8) ** 0.5
    assert train == 3000 - validation - test


def test_by_time_the_newest_are_the_test_and_the_next_the_validation() -> None:
    times = [5.0, 1.0, 9.0, 3.0, 7.0, 2.0, 8.0, 0.0, 6.0, 4.0]
    split = draw(index_of(list(range(10)), times=times), "time", test_fraction=0.2, validation_fraction=0.3)
    assert [name for _, name in sorted(zip(times, split, strict=True))] == [TRAIN] * 5 + [VALIDATION] * 3 + [TEST] * 2


def test_by_time_copies_go_to_the_split_of_the_oldest() -> None:
    texts = [*range(9), 0]
    split = draw(index_of(texts, times=list(range(10))), "time", test_fraction=0.2, validation_fraction=0.2)
    assert split[0] == split[9] == TRAIN
    assert split[8] == TEST


@pytest.mark.parametrize("seed", range(5))
def test_groups_and_copies_stay_together(seed: int) -> None:
    generator = np.random.default_rng(seed)
    groups = generator.integers(0, 40, 300)
    texts = generator.integers(0, 5, 300) + 10 * groups  # copies within a group
    texts[:3] = texts[297:]  # and a few that link two groups
    split = draw(index_of(texts.tolist(), groups=groups.tolist()), "group", seed=seed, test_fraction=0.2)
    for key in (groups, texts):
        assert all(len({split[i] for i in np.flatnonzero(key == value)}) == 1 for value in set(key.tolist()))
    # the unit that crosses the border goes in whole: one group, or two or three that share a text
    assert 60 <= sizes(split)[2] < 60 + 3 * int(np.bincount(groups).max())


def test_each_document_without_a_group_is_drawn_alone() -> None:
    split = draw(index_of(list(range(100))), "group")
    assert sizes(split) == (80, 10, 10)


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_near_duplicates_stay_together(splitter: str) -> None:
    pairs = np.array([[i, i + 50] for i in range(50)] + [[0, 1], [1, 2]])
    split = draw_splits(
        index_of(list(range(100))),
        splitter=splitter,
        validation_fraction=0.2,
        test_fraction=0.2,
        seed=0,
        near_duplicates=pairs,
    )
    assert all(split[a] == split[b] for a, b in pairs)
    assert set(split.tolist()) == {TRAIN, VALIDATION, TEST}


@pytest.mark.parametrize("splitter", SPLITTERS)
def test_given_splits_are_kept_and_the_missing_one_is_drawn_from_train(splitter: str) -> None:
    given = [TRAIN, TEST] * 50
    split = draw(index_of(list(range(100)), given=given), splitter, validation_fraction=0.2)
    assert [name == TEST for name in split] == [name == TEST for name in given]
    assert 3 <= sizes(split)[1] <= 18
    only_train = draw(index_of(list(range(100)), given=[TRAIN] * 100), splitter, validation_fraction=0.2)
    assert set(only_train) == {TRAIN, VALIDATION, TEST}
    everything = [TRAIN, VALIDATION, TEST, TRAIN]
    assert draw(index_of([0, 0, 0, 1], given=everything), splitter) == everything


def test_a_copy_of_a_given_held_out_text_is_not_drawn() -> None:
    given = [TEST] * 5 + [TRAIN] * 45
    texts = [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, *range(10, 50)]
    split = draw(index_of(texts, given=given), validation_fraction=0.8)
    assert split[5:10] == [TRAIN] * 5


def test_the_last_train_documents_of_a_class_stay_in_the_train_split() -> None:
    assert draw(index_of(list(range(11)), labels=[0, *[1] * 10], given=[TRAIN] * 11))[0] == TRAIN


def test_the_copy_in_the_earlier_split_is_the_one_to_reject() -> None:
    texts = np.array([0, 0, 1, 1, 2, 2, 2, 3, 3])
    split = np.array([TRAIN, TEST, TRAIN, VALIDATION, TRAIN, VALIDATION, TEST, TRAIN, TRAIN], np.int8)
    assert find_crossing(texts, split).tolist() == [TEST, -1, VALIDATION, -1, TEST, TEST, -1, -1, -1]
    assert find_crossing(np.zeros(0, int), np.zeros(0, np.int8)).tolist() == []


@pytest.mark.parametrize("count", [0, 1, 200])
def test_the_pairs_of_texts_and_labels_are_those_of_a_set(count: int) -> None:
    draw_numbers = np.random.default_rng(count)
    texts, labels = (draw_numbers.integers(0, most, count, np.int32) for most in (120, 3))
    pairs = list(zip(*(found.tolist() for found in find_pairs(texts, labels)), strict=True))
    assert sorted(pairs) == sorted(set(zip(texts.tolist(), labels.tolist(), strict=True)))


def test_units_may_have_numbers_with_gaps_between_them() -> None:
    index = index_of([3, 9, 3, 20, 9, 4] * 10)
    gaps = replace(index, texts=index.texts * 7 + 2)
    for splitter in SPLITTERS:
        assert draw(gaps, splitter) == draw(index, splitter)
