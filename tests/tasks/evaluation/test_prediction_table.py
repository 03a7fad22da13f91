import numpy as np
import pyarrow as pa

from tasks.evaluation.prediction_table import find_confident_errors, tabulate_predictions
from tests.made_predictions import LABELS, PREDICTIONS, make_predictions


def test_a_prediction_is_the_class_of_the_highest_probability():
    documents = pa.table({"doc_id": [4, 7], "split": ["test", "test"], "label": ["y", "x"]})
    table = tabulate_predictions(documents, ["x", "y"], np.array([[0.25, 0.75], [0.5, 0.5]]))
    assert table.to_pylist() == [
        {"doc_id": 4, "split": "test", "label": "y", "prediction": "y", "p_x": 0.25, "p_y": 0.75},
        {"doc_id": 7, "split": "test", "label": "x", "prediction": "x", "p_x": 0.5, "p_y": 0.5},
    ]


class TestConfidentErrors:
    DOCUMENTS = pa.table({"doc_id": [5, 4, 3, 2, 1], "text": ["five", "four", "three", "two", "one"]})

    def test_wrong_test_predictions_come_with_text_most_confident_first(self):
        assert find_confident_errors(PREDICTIONS, LABELS, self.DOCUMENTS) == [
            ("two", "a", "b", 0.8),
            ("four", "c", "a", 0.6),
        ]

    def test_no_more_come_than_asked_for(self):
        errors = find_confident_errors(PREDICTIONS, LABELS, self.DOCUMENTS, most=1)
        assert [error.text for error in errors] == ["two"]

    def test_equally_confident_ones_come_in_the_order_of_the_documents(self):
        rows = [(number, "test", "a", [0.1, 0.9, 0.0]) for number in (3, 1, 2)]
        errors = find_confident_errors(make_predictions(rows), LABELS, self.DOCUMENTS)
        assert [error.text for error in errors] == ["one", "two", "three"]

    def test_a_flawless_model_has_none(self):
        flawless = make_predictions([(1, "test", "a", [1.0, 0.0, 0.0])])
        assert find_confident_errors(flawless, LABELS, self.DOCUMENTS) == []
