"""Blocks of rows: how values become text, label and time."""

import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone

import numpy as np
import pyarrow as pa
import pytest

from pipeline_config.contracts.reading import Reading
from tasks.reading import blocks
from tasks.reading.blocks import BLOCK, parse_time
from tasks.reading.rows import Column, Rows

ROLES = Reading(split_column="split", group_column="group", time_column="time")


def make_block(columns: dict[str, Column]) -> pa.Table:
    """Return a block of rows with the columns that are given; the others hold nothing."""
    count = len(columns["text"])
    nothing: dict[str, Column] = dict.fromkeys(ROLES.columns, [None] * count)
    return blocks.make_block(Rows({**nothing, **columns}, {}, None, count), ROLES)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (5, 5.0),
        (2.5, 2.5),
        (np.float32(2.5), 2.5),
        ("7", 7.0),
        ("1970-01-02", 86400.0),
        ("1970-01-01T00:00:10", 10.0),
        (" 1970-01-01T02:00:00+02:00 ", 0.0),
        (date(1970, 1, 2), 86400.0),
        (datetime(1970, 1, 1, 0, 1), 60.0),
        (datetime(1970, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), 0.0),
        (datetime(1970, 1, 1, tzinfo=UTC), 0.0),
        ("yesterday", None),
        ("", None),
        (None, None),
        (float("nan"), None),
        ("inf", None),
        ([1], None),
    ],
)
def test_a_time_becomes_a_number(value: object, seconds: float | None) -> None:
    assert parse_time(value) == seconds


@pytest.fixture
def new_york(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the machine's clock be that of New York."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "America/New_York")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("new_york")
@pytest.mark.parametrize("value", ["1970-01-02", "1970-01-02T00:00", date(1970, 1, 2), datetime(1970, 1, 2)])
def test_a_time_without_a_zone_is_utc_wherever_the_machine_is(value: object) -> None:
    assert parse_time(value) == 86400.0


def test_a_block_has_a_column_for_everything() -> None:
    table = make_block({"text": ["x"], "label": [1]})
    assert table.to_pylist() == [
        {"text": "x", "label": "1", "split": None, "group": None, "time": None, "problem": None, "line": None}
    ]


def test_python_and_arrow_columns_give_the_same_block() -> None:
    columns = {
        "text": ["one", None, "caf\u00e9", ""],
        "label": [1.0, None, 2.5, float("nan")],
        "split": ["train", "dev", None, "x"],
        "group": [1, 2, None, 1],
        "time": [0, 1, None, 3],
    }
    expected = make_block(columns)
    assert expected.schema == BLOCK
    assert make_block({name: pa.chunked_array([values]) for name, values in columns.items()}) == expected
    assert expected["label"].to_pylist() == ["1", None, "2.5", None]
    assert expected["group"].to_pylist() == ["1", "2", None, "1"]


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_text_may_be_of_any_string_type(kind: pa.DataType) -> None:
    block = make_block(
        {"text": pa.chunked_array([pa.array(["x", None], kind)]), "label": pa.chunked_array([["a", "b"]])}
    )
    assert block["text"].to_pylist() == ["x", None]
    assert block["problem"].null_count == 2


@pytest.mark.parametrize(
    ("text", "shown", "problem"),
    [
        ("fine", "fine", None),
        (None, None, None),
        (float("nan"), None, None),
        (5, "5", "text_is_no_string"),
        (b"bytes", "b'bytes'", "text_is_no_string"),
        (["x"], "['x']", "text_is_no_string"),
        ("half \ud83d", "half ?", "undecodable"),
    ],
)
def test_a_value_that_is_not_a_text_is_shown_with_its_problem(
    text: object, shown: str | None, problem: str | None
) -> None:
    block = make_block({"text": ["good", text], "label": ["a", "b"]})
    assert block.select(["text", "problem"]).to_pylist()[1] == {"text": shown, "problem": problem}
    assert block["problem"][0].as_py() is None
