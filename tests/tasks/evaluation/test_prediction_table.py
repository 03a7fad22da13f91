import numpy as np
import pyarrow as pa

from tasks.evaluation.prediction_table import tabulate_predictions


def test_a_prediction_is_the_class_of_the_highest_probability():
    documents = pa.table({"doc_id": [4, 7], "split": ["test", "test"], "label": ["y", "x"]})
    table = tabulate_predictions(documents, ["x", "y"], np.array([[0.25, 0.75], [0.5, 0.5]]))
    assert table.to_pylist() == [
        {"doc_id": 4, "split": "test", "label": "y", "prediction": "y", "p_x": 0.25, "p_y": 0.75},
        {"doc_id": 7, "split": "test", "label": "x", "prediction": "x", "p_x": 0.5, "p_y": 0.5},
    ]
