"""The classes of a corpus: nearly equal names, sizes, label maps."""

import numpy as np
import pytest

from pipeline_config.contracts.corpus import Imbalance
from pipeline_config.errors import InputError
from tasks.corpus.classes import (
    check_label_map,
    describe_near_equal,
    find_imbalance,
    find_missing,
    find_near_equal,
    find_strangers,
    normalize_label_map,
)

SHIPPING = "shipping"


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ({"Billing": 5, "billing": 6}, {"Billing": "billing"}),
        ({"b": 5, "B": 5}, {"b": "B"}),
        ({"sci fi": 9, "scifi": 8, "Sci  Fi": 1}, {"scifi": "sci fi", "Sci  Fi": "sci fi"}),
        ({SHIPPING: 10, "shiping": 1}, {"shiping": SHIPPING}),
        ({SHIPPING: 10, "shippping": 1, "Shiping": 1}, {"shippping": SHIPPING, "Shiping": SHIPPING}),
        ({SHIPPING: 10, "shopping": 1}, {"shopping": SHIPPING}),
        ({SHIPPING: 10, "shiping": 1, "SHIPING": 1}, {"SHIPING": SHIPPING, "shiping": SHIPPING}),
        ({SHIPPING: 9, "shiping": 1}, {}),
        ({SHIPPING: 99, "ship": 1, "shipin": 1}, {}),
        ({"cat": 99, "car": 1}, {}),
        ({"class 1": 99, "class 2": 1, "class": 1}, {}),
        ({"1": 99, "2": 1, "10": 1}, {}),
        ({}, {}),
    ],
)
def test_nearly_equal_names_are_found(sizes: dict[str, int], found: dict[str, str]) -> None:
    assert find_near_equal(sizes) == found


def test_names_are_compared_in_time_that_grows_with_their_number() -> None:
    sizes = {f"name {i}": 100 for i in range(3_000)}
    assert find_near_equal(sizes | {"nane 7": 1}) == {"nane 7": "name 7"}


def test_the_label_map_that_joins_keeps_what_the_configuration_has() -> None:
    names = {"Billing": "billing"}
    assert describe_near_equal(names, {}) == (
        "'Billing' is nearly 'billing'; to join them, set corpus.label_map={\"Billing\": \"billing\"}"
    )
    assert describe_near_equal(names, {"1": "Billing", "2": "other"}).endswith(
        'corpus.label_map={"1": "billing", "2": "other"}'
    )


def test_a_label_map_has_the_form_of_labels() -> None:
    assert normalize_label_map({"1.0": " cafe\u0301", "TRUE": "yes"}) == {"1": "caf\u00e9", "true": "yes"}


def test_keys_of_the_label_map_must_be_labels() -> None:
    check_label_map({"1.0": "yes"}, {"0", "1"})
    with pytest.raises(InputError) as caught:
        check_label_map({"2": "no", "3": "no", "1": "yes"}, {"0", "1"})
    assert str(caught.value) == "corpus.label_map: expected labels of the corpus, got '2', '3'; the corpus has '0', '1'"


@pytest.mark.parametrize(
    ("sizes", "ratio"), [({"a": 100, "b": 10, "c": 50}, 10), ({"a": 99, "b": 10}, None), ({}, None)]
)
def test_imbalance_is_a_largest_class_of_ten_times_the_smallest(sizes: dict[str, int], ratio: int | None) -> None:
    expected = Imbalance(largest="a", largest_documents=100, smallest="b", smallest_documents=10)
    assert find_imbalance(sizes) == (expected if ratio else None)


LABELS = np.array(["a", "b", "c"], object)


def test_held_out_documents_of_a_class_that_train_lacks_are_found() -> None:
    split, classes = np.array([0, 0, 1, 1, 2, -1], np.int8), np.array([0, 1, 0, 2, 1, 2])
    assert find_strangers(split, classes, LABELS, where="c.csv").tolist() == [False, False, False, True, False, False]
    assert not find_strangers(np.array([2, 2], np.int8), np.array([0, 1]), LABELS, where="c.csv").any()


def test_a_held_out_split_without_a_class_of_train_is_refused() -> None:
    split, classes = np.array([0, 0, 2, 2], np.int8), np.array([0, 1, 2, 2])
    with pytest.raises(InputError) as caught:
        find_strangers(split, classes, LABELS, where="c.csv")
    assert str(caught.value) == (
        "c.csv: expected documents of the classes of the train split in the test split: train has 'a', 'b', test has 'c'; "
        "corpus.label_map gives labels the names of classes"
    )


def test_classes_that_a_held_out_split_lacks_are_found() -> None:
    assert find_missing({"train": {"a": 1, "b": 1}, "validation": {"a": 1, "b": 1}, "test": {"b": 2}}) == {
        "test": ["a"]
    }
