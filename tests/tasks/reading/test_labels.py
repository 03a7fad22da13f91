"""Labels: one rule for the values of every format."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading.formats import read_blocks
from tasks.reading.labels import parse_label, parse_named
from tasks.reading.tables import find_class_names

SCOTLAND = "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f"


@pytest.mark.parametrize(
    ("value", "label"),
    [
        (1, "1"),
        (1.0, "1"),
        ("1", "1"),
        ("1.0", "1"),
        ("1.", "1"),
        (" -3.00 ", "-3"),
        (np.float32(3), "3"),
        (Decimal("4.00"), "4"),
        (-0.0, "0"),
        ("-0.0", "0"),
        (2**60 + 1, "1152921504606846977"),
        ("007", "007"),
        ("1.10", "1.10"),
        ("1e3", "1e3"),
        (0.5, "0.5"),
        (np.float32(4.2), "4.2"),
        (np.float16(4.2), "4.2"),
        (True, "true"),
        ("TRUE", "true"),
        ("False ", "false"),
        (False, "false"),
        (" pos ", "pos"),
        ("null", "null"),
        (b"caf\xc3\xa9", "caf\u00e9"),
        ("cafe\u0301", "caf\u00e9"),
        ("e\u200b\u0301", "\u00e9"),
        ("\ufefftea", "tea"),
        ("te\u200ba\u2060", "tea"),
        ("\u200etea\u00a0\u00ad", "tea"),
        ("\x0btea\x1f", "tea"),
        ("\U0001f468\u200d\U0001f469", "\U0001f468\u200d\U0001f469"),
        (SCOTLAND, SCOTLAND),
        (["billing"], "billing"),
        (("1.0",), "1"),
        (np.array([2.0]), "2"),
        ([], None),
        ([None], None),
        ("", None),
        (" \u200b\u00ad ", None),
        (None, None),
        (float("nan"), None),
        (np.float32("nan"), None),
        (Decimal("NaN"), None),
        (float("inf"), "inf"),
    ],
)
def test_a_value_becomes_a_label(value: object, label: str | None) -> None:
    assert parse_label(value) == label
    if label is not None:
        assert parse_label(label) == label


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (["a", "b"], "expected one value, got a list of 2 values: ['a', 'b']"),
        ({"name": "a"}, "expected one value, got an object: {'name': 'a'}"),
        ([{"name": "a" * 100}], "expected one value, got an object: {'name': '" + "a" * 70 + "..."),
    ],
)
def test_lists_of_several_values_and_objects_are_refused(value: object, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_label(value)
    assert str(caught.value) == message


@pytest.mark.parametrize(("value", "label"), [(0, "no"), (1.0, "yes"), ([1], "yes"), (-1, None), ("yes", "yes")])
def test_numbers_of_classes_become_their_names(value: object, label: str | None) -> None:
    assert parse_named(value, [" no", "yes"]) == label


def test_a_number_without_a_class_is_refused() -> None:
    with pytest.raises(InputError, match="expected a class number below 2, as the file's metadata has it, got 2"):
        parse_named(2, ["no", "yes"])


# in files


def labels_of(path: Path, table: pa.Table | None = None) -> list[str | None]:
    """Return the labels of a file, after writing it if it is a table."""
    if table is not None:
        pq.write_table(table, path)
    kind = path.suffix.removeprefix(".")
    return [label for block in read_blocks(path, kind, Reading()) for label in block["label"].to_pylist()]


def refused(path: Path, table: pa.Table | None = None) -> str:
    with pytest.raises(InputError) as caught:
        labels_of(path, table)
    return str(caught.value)


def named(feature: object) -> dict[str, str]:
    return {"huggingface": json.dumps({"info": {"features": {"label": feature}}})}


@pytest.mark.parametrize(
    ("column", "labels"),
    [
        (pa.array([4.2, 0.5, 3.0, None], pa.float32()), ["4.2", "0.5", "3", None]),
        (pa.array([4.2, 0.5, 3.0, None], pa.float64()), ["4.2", "0.5", "3", None]),
        (pa.array(np.array([4.2, 0.5, 3.0, 1.0], np.float16)), ["4.2", "0.5", "3", "1"]),
        (pa.array([[4.2], [0.5], [], None], pa.list_(pa.float32())), ["4.2", "0.5", None, None]),
        (pa.array([True, False, None, True]), ["true", "false", None, "true"]),
        (pa.array(["a ", "a", "a\u200b", "1.0"]).dictionary_encode(), ["a", "a", "a", "1"]),
        (pa.array([b"a", b"\xc3\xa9", b"\xff", None]), ["a", "\u00e9", "?", None]),
    ],
)
def test_every_type_of_column_has_labels(tmp_path: Path, column: pa.Array, labels: list[str | None]) -> None:
    assert labels_of(tmp_path / "c.parquet", pa.table({"text": ["x"] * 4, "label": column})) == labels


@pytest.mark.parametrize(
    ("feature", "column"),
    [
        ({"names": ["no", "yes"], "_type": "ClassLabel"}, [0, 1, -1]),
        ({"feature": {"names": ["no", "yes"], "_type": "ClassLabel"}, "_type": "Sequence"}, [[0], [1], [-1]]),
        ([{"names": ["no", "yes"], "_type": "ClassLabel"}], [[0], [1], []]),
    ],
)
def test_names_in_the_metadata_are_the_labels(tmp_path: Path, feature: object, column: list[object]) -> None:
    table = pa.table({"text": ["x"] * 3, "label": column}).replace_schema_metadata(named(feature))
    assert labels_of(tmp_path / "c.parquet", table) == ["no", "yes", None]


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"huggingface": "{"},
        {"huggingface": "[]"},
        named({"dtype": "int64", "_type": "Value"}),
        named([]),
        named(None),
        named({"names": "no"}),
    ],
)
def test_metadata_without_names_is_passed_over(metadata: dict[str, str] | None) -> None:
    schema = pa.schema({"label": pa.int64()}, metadata=metadata)
    assert find_class_names(schema, "label") == find_class_names(schema, None) == ()


def test_the_message_about_a_label_names_file_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_text('{"text": "x", "label": "a"}\n\n{"text": "y", "label": ["a", "b"]}\n')
    assert refused(path) == f"{path}:3: column 'label': expected one value, got a list of 2 values: ['a', 'b']"
    table = pa.table({"text": ["x", "y"], "label": [{"a": 1}, {"a": 2}]})
    path = tmp_path / "c.parquet"
    assert refused(path, table) == f"{path}:1: column 'label': expected one value, got an object: {{'a': 1}}"
    table = pa.table({"text": ["x", "y"], "label": [0, 5]}).replace_schema_metadata(named({"names": ["no", "yes"]}))
    assert refused(path, table).startswith(f"{path}:2: column 'label': expected a class number below 2")
