import math

import numpy as np
import pytest

from pipeline_config.contracts.evaluation import SCORE_NAMES, ClassScores
from tasks.evaluation.metrics import measure, score_predictions
from tests.made_predictions import LABELS, PREDICTIONS, make_predictions


class TestScorePredictions:
    def test_numbers_by_hand(self):
        label_ids = np.array([0, 0, 1, 2])
        probabilities = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.2, 0.5, 0.3], [0.25, 0.25, 0.5]])
        # predicted 0, 1, 1, 2; class 0: precision 1, recall 1/2; class 1: precision 1/2, recall 1; class 2: both 1
        expected = {
            "accuracy": 3 / 4,
            "macro_f1": (2 / 3 + 2 / 3 + 1) / 3,
            "log_loss": -(math.log(0.7) + math.log(0.1) + math.log(0.5) + math.log(0.5)) / 4,
        }
        assert score_predictions(label_ids, probabilities) == pytest.approx(expected, abs=1e-12)

    def test_a_class_that_is_never_predicted_counts_zero(self):
        label_ids = np.array([0, 1, 2, 2])
        probabilities = np.array([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.6, 0.3, 0.1], [0.3, 0.5, 0.2]])
        # predicted 0, 1, 0, 1: classes 0 and 1 have precision 1/2 and recall 1
        assert score_predictions(label_ids, probabilities)["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)

    def test_a_class_without_documents_does_not_count(self):
        scored = score_predictions(np.array([0, 1]), np.array([[0.8, 0.1, 0.1], [0.1, 0.8, 0.1]]))
        assert scored == pytest.approx({"accuracy": 1.0, "macro_f1": 1.0, "log_loss": -math.log(0.8)})

    def test_one_document_is_scored(self):
        scored = score_predictions(np.array([1]), np.array([[0.75, 0.25]]))
        assert scored == pytest.approx({"accuracy": 0.0, "macro_f1": 0.0, "log_loss": -math.log(0.25)})

    def test_a_certain_mistake_has_a_large_but_finite_log_loss(self):
        assert 30 < score_predictions(np.array([1, 0]), np.array([[1.0, 0.0], [1.0, 0.0]]))["log_loss"] * 2 < 40

    def test_of_equal_probabilities_the_first_class_wins(self):
        assert score_predictions(np.array([0]), np.array([[0.5, 0.5]]))["accuracy"] == 1.0


class TestMeasure:
    def test_scores_of_a_split_by_hand(self):
        scores = measure(PREDICTIONS, LABELS, "test")
        # predicted a, b, b, a for the truth a, a, b, c
        assert scores.documents == 4
        assert scores.accuracy == 0.5
        assert scores.macro_f1 == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
        assert scores.log_loss == pytest.approx(-(math.log(0.7) + math.log(0.1) + math.log(0.5) + math.log(0.1)) / 4)

    def test_confusion_has_the_truth_in_its_rows(self):
        assert measure(PREDICTIONS, LABELS, "test").confusion == ((1, 1, 0), (0, 1, 0), (1, 0, 0))

    def test_classes_have_their_own_scores_and_a_class_never_predicted_has_zeros(self):
        classes = measure(PREDICTIONS, LABELS, "test").classes
        names = ("precision", "recall", "f1", "support", "predicted")
        rows = {label: tuple(getattr(part, name) for name in names) for label, part in classes.items()}
        assert rows["a"] == pytest.approx((1 / 2, 1 / 2, 1 / 2, 2, 2))
        assert rows["b"] == pytest.approx((1 / 2, 1, 2 / 3, 1, 2))
        assert rows["c"] == (0, 0, 0, 1, 0)

    def test_areas_of_a_class_against_the_rest_by_hand(self):
        part = measure(PREDICTIONS, LABELS, "test").classes["a"]
        # the documents of a have 0.7 and 0.1, the others 0.2 and 0.6: of four pairs two are in the right order
        assert part.roc_auc == 2 / 4
        assert part.pr_auc == pytest.approx((1 + 2 / 4) / 2)

    def test_only_the_documents_of_the_split_count(self):
        scores = measure(PREDICTIONS, LABELS, "validation")
        assert (scores.documents, scores.accuracy) == (1, 1.0)
        assert scores.confusion == ((0, 0, 0), (0, 0, 0), (0, 0, 1))

    def test_classes_without_documents_are_named_and_have_no_scores(self):
        scores = measure(PREDICTIONS, LABELS, "validation")
        assert scores.absent_classes == ("a", "b")
        assert scores.macro_f1 == 1.0
        assert scores.classes["a"] == ClassScores.absent()
        assert (scores.roc_auc, scores.pr_auc) == (None, None)
        assert scores.intervals.keys() == set(SCORE_NAMES) - {"roc_auc", "pr_auc"}
        assert measure(PREDICTIONS, LABELS, "test").absent_classes == ()

    def test_a_document_predicted_as_an_absent_class_costs_its_own_class(self):
        predictions = make_predictions([(1, "test", "a", [0.2, 0.8]), (2, "test", "a", [0.9, 0.1])], ["a", "b"])
        assert measure(predictions, ["a", "b"], "test").macro_f1 == pytest.approx(2 / 3)

    def test_columns_are_found_by_name_not_by_position(self):
        mirrored = make_predictions([(1, "test", "a", [0.1, 0.9])], ["b", "a"])
        assert measure(mirrored, ["a", "b"], "test").confusion == ((1, 0), (0, 0))
