"""The columns of the answers."""

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.errors import ConfigError
from tasks.scoring.columns import AnswerColumns, check_answers, name_columns
from tasks.scoring.explanations import EXPLANATIONS

THERE = pa.array([True, False, True])
PROBABILITIES = np.array([[0.5, 0.2, 0.3], [0.1, 0.2, 0.7]])


def fill(**options: object) -> dict[str, list[object]]:
    columns = AnswerColumns(("a", "b", "c"), "m", "3", **options)  # type: ignore[arg-type]
    table = pa.table(columns.fill(THERE, PROBABILITIES), schema=pa.schema(columns.fields))
    return table.to_pydict()


def test_rows_without_an_answer_have_nulls_and_the_version() -> None:
    assert fill() == {
        "label": ["a", None, "c"],
        "score": [0.5, None, 0.7],
        "p_a": [0.5, None, 0.1],
        "p_b": [0.2, None, 0.2],
        "p_c": [0.3, None, 0.7],
        "model": ["m"] * 3,
        "version": ["3"] * 3,
    }


def test_a_threshold_marks_labels_below_it() -> None:
    assert fill(threshold=0.7)["abstained"] == [True, None, False]


def test_the_best_labels_replace_the_probabilities() -> None:
    found = fill(top_k=2)
    assert list(found) == ["label", "score", "label_2", "score_2", "model", "version"]
    assert (found["label_2"], found["score_2"]) == (["c", None, "b"], [0.3, None, 0.2])
    assert list(fill(top_k=9))[-4:-2] == ["label_3", "score_3"]


def test_explanations_stand_beside_their_answers() -> None:
    tokens = [[{"token": "goal", "weight": 1.5}], []]
    columns = AnswerColumns(("a", "b", "c"), "m", "3", threshold=0.1, explain=1)
    filled = columns.fill(THERE, PROBABILITIES, pa.array(tokens, EXPLANATIONS))
    table = pa.table(filled, schema=pa.schema(columns.fields))
    assert table.column_names[-4:] == ["abstained", "explanation", "model", "version"]
    assert table["explanation"].to_pylist() == [tokens[0], None, []]


@pytest.mark.parametrize(
    ("threshold", "top_k", "explain"),
    [
        (1.5, None, None),
        (-0.1, None, None),
        (float("nan"), None, None),
        (None, 0, None),
        (None, None, 0),
        (None, None, 101),
    ],
)
def test_options_out_of_their_range_are_refused(
    threshold: float | None, top_k: int | None, explain: int | None
) -> None:
    with pytest.raises(ConfigError, match="expected a"):
        check_answers(threshold, top_k, explain)


def test_names_that_are_taken_get_input_in_front() -> None:
    names = ["a", "label", "input_label", "a", "version"]
    assert name_columns(names, ["label", "version"]) == [
        "a",
        "input_input_label",
        "input_label",
        "input_a",
        "input_version",
    ]
