"""Tests of a window against a reference."""

import numpy as np
import pytest
from scipy import stats

from tasks.monitoring import domain_classifier
from tasks.monitoring.domain_classifier import tell_apart
from tasks.monitoring.drift import FEWEST, LEVEL, compare_labels, compare_numbers, compare_samples
from tasks.monitoring.sample import hash_word_bits
from tests.tasks.monitoring.texts import BANK, FILMS, make_sample, write_texts


def changed(comparison) -> set[str]:
    return {shift.measure for shift in comparison.shifts if shift.changed}


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_a_tenth_of_other_texts_is_found_by_its_words(rng) -> None:
    reference = make_sample(write_texts(rng, FILMS, 1000), rng)
    texts = write_texts(rng, FILMS, 270) + write_texts(rng, BANK, 30)
    comparison = compare_samples(reference, make_sample(texts, rng))
    assert comparison.changed
    assert changed(comparison) == {"words"}
    found = comparison.words
    assert {shift.word for shift in found.words[:10]} == {hash_word_bits(word) for word in BANK}
    assert all(shift.reference == 0 and 0 < shift.window < 0.1 for shift in found.words[:10])
    rows = make_sample(texts, rng)["row"].to_numpy()
    most_unlike = rows[np.argsort(-found.scores)[:20]]
    assert (most_unlike >= 270).mean() > 0.8
    assert 0.05 < found.excess <= 0.1
    assert (reference.num_rows, 300) == (comparison.reference, comparison.window)


def test_texts_of_the_same_kind_are_not_told_apart(rng) -> None:
    comparison = compare_samples(
        make_sample(write_texts(rng, FILMS, 800), rng), make_sample(write_texts(rng, FILMS, 200), rng)
    )
    assert not comparison.changed
    assert 0.4 < comparison.words.auc < 0.6
    assert all(shift.p_value > LEVEL for shift in comparison.shifts)


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("labels", {"labels": ["good"] * 240 + ["bad"] * 60}),
        ("confidence", {"confidence": np.linspace(0.5, 0.7, 300)}),
        ("lengths", {"tokens": np.full(300, 25)}),
        ("unknown words", {"unknown": np.full(300, 5)}),
    ],
)
def test_each_change_is_found_by_the_test_of_its_name(rng, name: str, changes: dict) -> None:
    reference = make_sample(write_texts(rng, FILMS, 600), rng)
    comparison = compare_samples(reference, make_sample(write_texts(rng, FILMS, 300), rng, **changes))
    assert name in changed(comparison)
    assert changed(comparison) <= {name, "unknown words"}  # its share has the length in it


def test_p_values_are_corrected_for_the_number_of_tests(rng) -> None:
    reference = make_sample(write_texts(rng, FILMS, 600), rng)
    window = make_sample(write_texts(rng, FILMS, 300), rng, labels=["good"] * 180 + ["bad"] * 120)
    raw = compare_labels(reference["label"].to_pylist(), window["label"].to_pylist())[1]
    shifts = {shift.measure: shift for shift in compare_samples(reference, window).shifts}
    assert shifts["labels"].p_value == pytest.approx(min(1.0, 5 * raw))


def test_a_significant_trifle_is_no_change(rng) -> None:
    reference = make_sample(write_texts(rng, FILMS, 5000), rng, labels=["a"] * 2500 + ["b"] * 2500)
    window = make_sample(write_texts(rng, FILMS, 5000), rng, labels=["a"] * 2500 + ["b"] * 2390 + ["c"] * 110)
    labels = next(shift for shift in compare_samples(reference, window).shifts if shift.measure == "labels")
    assert labels.p_value < LEVEL
    assert labels.effect == pytest.approx(0.022)
    assert not labels.changed


def test_too_few_texts_and_models_without_tokens(rng) -> None:
    reference = make_sample(write_texts(rng, FILMS, 200), rng)
    assert compare_samples(reference, make_sample(write_texts(rng, BANK, FEWEST - 1), rng)) is None
    bare = make_sample(write_texts(rng, FILMS, FEWEST), rng, tokens=None, unknown=None)
    assert [shift.measure for shift in compare_samples(reference, bare).shifts] == ["words", "labels", "confidence"]


def test_labels_are_compared_as_scipy_does_and_rare_classes_together() -> None:
    one, other = ["a"] * 50 + ["b"] * 40 + ["c"] * 3 + ["d"] * 7, ["a"] * 30 + ["b"] * 60 + ["d"] * 10
    effect, p_value = compare_labels(one, other)
    assert effect == pytest.approx(0.23)
    together = stats.chi2_contingency([[50, 40, 7, 3], [30, 60, 10, 0]], correction=False).pvalue
    assert p_value == pytest.approx(together)
    assert compare_labels(["a"] * 60, ["a"] * 60) == (0.0, 1.0)


def test_numbers_are_compared_by_the_largest_difference_of_shares() -> None:
    effect, p_value = compare_numbers(np.arange(100), np.arange(100) + 30)
    assert effect == pytest.approx(0.3)
    assert p_value == pytest.approx(stats.ks_2samp(np.arange(100), np.arange(100) + 30, method="exact").pvalue)


class TestDomainClassifier:
    def test_p_values_of_quiet_windows_are_spread_evenly(self, rng, monkeypatch) -> None:
        monkeypatch.setattr(domain_classifier, "PERMUTATIONS", 99)
        monkeypatch.setattr(domain_classifier, "_ENOUGH", 100)
        sample = make_sample(write_texts(rng, FILMS, 260), rng)
        found = []
        for seed in range(60):
            order = rng.permutation(260)
            found.append(
                tell_apart(sample["words"].take(order[60:]), sample["words"].take(order[:60]), seed=seed).p_value
            )
        assert stats.kstest(found, "uniform").pvalue > 0.01
        assert min(found) >= 0.01

    def test_the_smallest_p_value_counts_the_observed_one(self, rng) -> None:
        sample = make_sample(write_texts(rng, FILMS, 150), rng)
        found = tell_apart(sample["words"], make_sample(write_texts(rng, BANK, 100), rng)["words"])
        assert found.p_value == pytest.approx(1 / 2000)
        assert found.auc > 0.99

    def test_the_result_is_the_same_for_the_same_seed(self, rng) -> None:
        samples = [make_sample(write_texts(rng, FILMS, 100), rng)["words"] for _ in range(2)]
        one, two = tell_apart(*samples, seed=4), tell_apart(*samples, seed=4)
        assert one._replace(scores=0) == two._replace(scores=0)
        assert (one.scores == two.scores).all()
        assert tell_apart(*samples, seed=5).scores.tolist() != one.scores.tolist()

    def test_texts_without_words_are_no_problem(self, rng) -> None:
        sample = make_sample([""] * 60, rng)["words"]
        found = tell_apart(sample, sample)
        assert found.words == ()
        assert found.p_value > 0.05
