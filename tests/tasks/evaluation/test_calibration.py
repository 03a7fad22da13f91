import numpy as np
import pytest

from pipeline_config.contracts.analysis import KeptShare
from tasks.evaluation.calibration import (
    ClassAnswers,
    Reliability,
    choose_temperature,
    describe_calibration,
    find_class_threshold,
    find_kept_shares,
    fit_temperature,
    log_losses,
    soften,
)


def draw(count: int, *, temperature: float = 1.0, seed: int = 0, classes: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Logits that are right after a division by `temperature`, and labels drawn from their probabilities."""
    generator = np.random.Generator(np.random.PCG64(seed))
    right = 2 * generator.standard_normal((count, classes))
    draws = generator.random((count, 1))
    labels = (draws > soften(right, 1.0).cumsum(axis=1)).sum(axis=1)
    return right * temperature, np.minimum(labels, classes - 1)


class TestTemperature:
    @pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
    def test_the_temperature_of_the_labels_is_found(self, temperature):
        assert fit_temperature(*draw(20_000, temperature=temperature)) == pytest.approx(temperature, rel=0.03)

    def test_it_has_the_smallest_log_loss(self):
        logits, labels = draw(500, temperature=2.0)
        found = fit_temperature(logits, labels)
        least = min(log_losses(logits, labels, other).mean() for other in np.geomspace(0.05, 20, 400))
        assert log_losses(logits, labels, found).mean() - least < 1e-4

    def test_without_a_mistake_it_leaves_the_doubt_of_a_few_documents(self):
        logits = np.tile([8.0, 0.0, 0.0], (50, 1))
        found = fit_temperature(logits, np.zeros(50, int))
        assert found == pytest.approx(8 / np.log(51), rel=1e-3)
        assert soften(logits[:1], found)[0].tolist() == pytest.approx([51 / 53, 1 / 53, 1 / 53], rel=1e-3)

    def test_it_is_used_where_the_validation_split_shows_a_gain(self):
        logits, labels = draw(500, temperature=2.0)
        assert choose_temperature(logits, labels) == fit_temperature(logits, labels)

    def test_right_probabilities_stay_as_they_are(self):
        assert choose_temperature(*draw(400)) == 1.0

    @pytest.mark.parametrize("count", [1, 2, 5, 9, 10, 40])
    def test_few_documents_are_enough_to_run(self, count):
        assert 0.05 <= choose_temperature(*draw(count)) <= 20

    def test_it_rarely_raises_the_log_loss_of_other_documents(self):
        worse = 0
        for seed in range(40):
            logits, labels = draw(150, seed=seed)
            chosen = choose_temperature(logits, labels)
            others = draw(2000, seed=1000 + seed)
            worse += log_losses(*others, chosen).mean() > log_losses(*others, 1.0).mean() + 1e-12
        assert worse <= 4

    def test_answers_that_are_all_right_give_the_lowest_temperature_without_an_overflow(self):
        logits = np.tile([800.0, -800.0], (50, 1))
        assert choose_temperature(logits, np.zeros(50, int)) == 1.0
        assert soften(logits, 0.05).tolist() == [[1.0, 0.0]] * 50

    def test_log_losses_are_those_of_the_probabilities(self):
        logits, labels = draw(50)
        expected = -np.log(soften(logits, 1.7)[np.arange(50), labels])
        np.testing.assert_allclose(log_losses(logits, labels, 1.7), expected, atol=1e-12)

    def test_the_description_has_both_sides(self):
        logits, labels = draw(3000, temperature=2.0)
        found = describe_calibration(logits, labels, 2.0)
        assert found.ece.value < 0.03 < found.ece_before
        assert found.log_loss < found.log_loss_before
        assert found.ece.low <= found.ece.value <= found.ece.high
        assert sum(part.documents for part in found.bins) == 3000


class TestReliability:
    def test_error_and_bins_by_hand(self):
        # two bins of 20: confidence 0.6, of which 15 are right, and 0.9, of which 12 are right
        probabilities = np.array([[0.6, 0.4]] * 20 + [[0.1, 0.9]] * 20)
        labels = np.array([0] * 15 + [1] * 5 + [1] * 12 + [0] * 8)
        found = Reliability.of(labels, probabilities)
        assert found.error == pytest.approx((20 * 0.15 + 20 * 0.3) / 40)
        assert [tuple(dict(part).values()) for part in found.tabulate()] == [
            pytest.approx((20, 0.6, 0.75)),
            pytest.approx((20, 0.9, 0.6)),
        ]

    def test_equal_confidences_share_a_bin_whatever_the_order(self):
        probabilities = np.array([[0.7, 0.3]] * 100)
        labels = np.array([0] * 70 + [1] * 30)
        (part,) = Reliability.of(labels, probabilities).tabulate()
        assert tuple(dict(part).values()) == pytest.approx((100, 0.7, 0.7))

    @pytest.mark.parametrize(("count", "bins"), [(1, 1), (39, 1), (40, 2), (299, 14), (300, 15), (9000, 15)])
    def test_bins_have_equal_numbers_of_documents(self, count, bins):
        logits, labels = draw(count)
        sizes = [part.documents for part in Reliability.of(labels, soften(logits, 1.0)).tabulate()]
        assert len(sizes) == bins
        assert max(sizes) - min(sizes) <= 1


class TestKeptShares:
    def test_share_and_accuracy_by_hand(self):
        probabilities = np.array([[0.55, 0.45], [0.2, 0.8], [0.97, 0.03], [0.97, 0.03]])
        shares = {part.threshold: part for part in find_kept_shares(np.array([1, 1, 0, 1]), probabilities)}
        assert shares[0.0] == KeptShare(threshold=0.0, kept=1.0, accuracy=0.5)
        assert shares[0.6] == KeptShare(threshold=0.6, kept=0.75, accuracy=2 / 3)
        assert shares[0.95] == KeptShare(threshold=0.95, kept=0.5, accuracy=0.5)
        assert max(shares) == 0.95


def answers(confidence: list[float], correct: list[int], support: int = 20) -> ClassAnswers:
    return ClassAnswers(np.array(confidence), np.array(correct, bool), support)


class TestClassThreshold:
    TWELVE = answers([0.9] * 10 + [0.8, 0.7], [1] * 9 + [0, 1, 0])

    def test_it_is_the_smallest_confidence_with_the_precision(self):
        # of 10 answers 9 are right, of 11 10, of 12 10
        assert self.TWELVE.find_threshold(0.9) == 0.8
        assert self.TWELVE.find_threshold(10 / 12) == 0.0
        assert self.TWELVE.find_threshold(0.95) is None

    def test_less_than_ten_answers_say_nothing(self):
        assert answers([0.9] * 9, [1] * 9).find_threshold(0.5) is None
        assert answers([], []).find_threshold(0.5) is None

    def test_answers_of_equal_confidence_are_kept_together(self):
        assert answers([0.8] * 20, [1] * 15 + [0] * 5).find_threshold(0.9) is None

    def test_precision_and_recall_are_those_of_the_other_documents(self):
        tested = answers([0.95, 0.8, 0.8, 0.79], [1, 1, 0, 1], support=4)
        found = find_class_threshold("a", self.TWELVE, tested, wanted=0.9)
        assert (found.threshold, found.precision, found.recall) == (0.8, pytest.approx(2 / 3), 0.5)
        assert (found.label, found.wanted_precision) == ("a", 0.9)

    def test_without_a_threshold_there_is_no_precision(self):
        found = find_class_threshold("a", answers([], []), self.TWELVE, wanted=0.9)
        assert (found.threshold, found.precision, found.recall) == (None, None, None)

    def test_the_answers_of_a_class_are_those_that_name_it(self):
        probabilities = np.array([[0.9, 0.1], [0.4, 0.6], [0.7, 0.3]])
        found = ClassAnswers.of(0, np.array([0, 0, 1]), probabilities)
        assert (found.confidence.tolist(), found.correct.tolist(), found.support) == ([0.9, 0.7], [True, False], 2)
