import numpy as np
import pytest
from scipy.stats import binomtest

from tasks.evaluation.slices import (
    Feature,
    bound_difference,
    bound_share,
    compare_groups,
    correct_p_values,
    cut_column,
    cut_documents,
    cut_lengths,
    cut_unknown,
    cut_values,
    measure_slices,
)


def answers(right: int, count: int) -> np.ndarray:
    return np.arange(count) < right


class TestStatistics:
    @pytest.mark.parametrize(("right", "count"), [(8, 10), (0, 5), (5, 5), (700, 1000)])
    def test_the_interval_of_a_share_is_that_of_wilson(self, right, count):
        reference = binomtest(right, count).proportion_ci(method="wilson")
        got = bound_share(answers(right, count))
        assert (got.value, got.low, got.high) == pytest.approx((right / count, reference.low, reference.high), abs=1e-6)

    def test_the_interval_of_a_difference_is_the_example_of_newcombe(self):
        # Newcombe 1998, table II, column (a): 56/70 - 48/80, method 10
        got = bound_difference(answers(56, 70), answers(48, 80))
        assert (got.value, got.low, got.high) == pytest.approx((0.2, 0.0524, 0.3339), abs=5e-5)

    def test_fisher_exact_of_the_lady_tasting_tea(self):
        # three of four cups right in both groups: 2 * 17 / 70
        assert compare_groups(answers(3, 4), answers(1, 4)) == pytest.approx(34 / 70)

    def test_holm_by_hand(self):
        assert correct_p_values([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
        assert correct_p_values([0.5, 0.9]) == [1.0, 1.0]
        assert correct_p_values([]) == []


class TestFeatures:
    def test_lengths_are_cut_at_quantiles_with_readable_names(self):
        feature = cut_lengths(np.array([1, 2, 3, 4, 5, 6, 7, 8, 9, 30]))
        assert feature.values == (
            "1 to 2 tokens",
            "3 to 4 tokens",
            "5 to 6 tokens",
            "7 to 8 tokens",
            "9 and more tokens",
        )
        assert feature.parts.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]

    def test_equal_lengths_are_one_part(self):
        feature = cut_lengths(np.array([3, 3, 3]))
        assert feature.values == ("3 and more tokens",)
        assert feature.parts.tolist() == [0, 0, 0]

    def test_most_documents_of_one_length(self):
        feature = cut_lengths(np.array([5] * 8 + [6, 9]))
        assert feature.values == ("only 5 tokens", "6 and more tokens")

    def test_shares_of_unknown_tokens(self):
        feature = cut_unknown(np.array([0.0, 0.01, 0.05, 0.06, 0.2, 0.21, 1.0]))
        assert [feature.values[part] for part in feature.parts] == [
            "none", "up to 5 %", "up to 5 %", "over 5 to 10 %", "over 10 to 20 %", "over 20 %", "over 20 %",
        ]  # fmt: skip

    def test_frequent_values_and_the_others(self):
        feature = cut_values("x", ["b", "a", "b", "c", "a", "d"], most=2)
        assert feature.values == ("a", "b", "other values")
        assert feature.parts.tolist() == [1, 0, 1, 2, 0, 2]

    def test_a_column_of_texts_and_of_few_numbers_is_cut_by_value(self):
        feature = cut_column("region", ["n", None, "s", "n"])
        assert (feature.name, feature.values) == ("column region", ("n", "no value", "s", "other values"))
        assert cut_column("year", ["2001", "2002", None]).values == ("2001", "2002", "no value", "other values")

    def test_a_column_of_many_numbers_is_cut_into_ranges(self):
        feature = cut_column("price", [None, *(str(i / 2) for i in range(10)), "1000"])
        assert feature.values == (
            "0 to under 1", "1 to under 2", "2 to under 3", "3 to under 4", "4 and more", "no value",
        )  # fmt: skip
        assert feature.parts.tolist() == [5, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 4]

    def test_documents_are_cut_by_all_features(self):
        features = cut_documents(
            np.array([0, 1, 1]),
            ["a", "b"],
            input_ids=np.array([1, 5, 7, 8, 1, 1]),
            offsets=np.array([0, 2, 3, 6]),
            columns={"region": ["n", "s", "n"]},
        )
        shown = {feature.name: [feature.values[part] for part in feature.parts] for feature in features}
        assert shown == {
            "length": ["only 2 tokens", "only 1 tokens", "3 and more tokens"],
            "unknown tokens": ["over 20 %", "none", "over 20 %"],
            "class": ["a", "b", "b"],
            "column region": ["n", "s", "n"],
        }


class TestMeasureSlices:
    def test_a_planted_weak_part_is_found_with_its_figures(self):
        right = np.r_[answers(60, 100), answers(270, 300)]
        baseline = np.r_[answers(90, 100), answers(270, 300)]
        feature = Feature("x", ("weak", "strong", "empty"), np.r_[np.zeros(100, int), np.ones(300, int)])
        weak, strong = measure_slices(right, baseline, [feature])
        assert (weak.feature, weak.value, weak.documents, weak.small) == ("x", "weak", 100, False)
        assert (weak.accuracy.value, weak.baseline_accuracy) == (0.6, 0.9)
        assert weak.difference.value == pytest.approx(-0.3)
        assert weak.difference.high < 0
        # both p-values of the first family are equal, so the smaller one is doubled and the other raised to it
        assert weak.p_value == strong.p_value == pytest.approx(2 * compare_groups(right[:100], right[100:]))
        assert weak.baseline_p_value == pytest.approx(2 * 2 * 0.5**30)
        assert strong.baseline_p_value == 1.0

    def test_few_documents_are_named_as_such_and_a_whole_split_is_no_slice(self):
        right = answers(50, 60)
        few = Feature("x", ("few", "rest"), np.r_[np.zeros(5, int), np.ones(55, int)])
        slices = measure_slices(right, right, [few, Feature("all", ("all",), np.zeros(60, int))])
        assert [(part.value, part.small) for part in slices] == [("few", True), ("rest", False)]

    def test_equal_quality_is_rarely_called_different(self):
        generator = np.random.default_rng(0)
        called = 0
        for _ in range(30):
            right, baseline = generator.random((2, 300)) < 0.8
            feature = Feature("x", tuple("abcde"), generator.integers(0, 5, 300))
            called += any(part.p_value < 0.05 for part in measure_slices(right, baseline, [feature]))
        assert called <= 4  # 1.5 are expected at most, and exact tests stay below that
