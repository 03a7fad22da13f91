from typing import ClassVar

import pyarrow as pa
import pytest

from pipeline_config.contracts.json_file import JsonFile
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput

WORDS = pa.schema([pa.field("word", pa.string(), nullable=False), pa.field("count", pa.int64())])
PAIRS = pa.schema([pa.field("pair", pa.list_(pa.field("item", pa.float32(), nullable=False), 2), nullable=False)])


def test_json_is_written_sorted_in_utf8_and_the_same_every_time(tmp_path):
    output = StageOutput(tmp_path)
    output.write_json("a.json", {"b": "é", "a": [1.5, None]})
    assert (tmp_path / "a.json").read_bytes() == '{\n "a": [\n  1.5,\n  null\n ],\n "b": "é"\n}\n'.encode()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_json_without_standard_form_is_refused(tmp_path, value):
    with pytest.raises(ValueError, match="Out of range float values are not JSON compliant"):
        StageOutput(tmp_path).write_json("a.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"word": ["a", None], "count": [1, 2]}, "field 'word' with null values to non-nullable"),
        ({"word": ["a"], "count": ["many"]}, "Failed to parse string: 'many'"),
        ({"word": ["a"], "count": [1.5]}, r"Float value 1\.500000 was truncated"),
        ({"word": ["a"], "count": [[1]]}, "Unsupported cast from list"),
        ({"word": ["a"]}, "field names are not matching"),
        ({"word": ["a"], "count": [1], "extra": [1]}, "field names are not matching"),
        ({"count": [1], "word": ["a"]}, "field names are not matching"),
    ],
    ids=["null", "text for a number", "fraction", "list", "column missing", "column too many", "columns swapped"],
)
def test_table_with_another_schema_than_promised_is_refused(tmp_path, columns, reason):
    with pytest.raises(ValueError, match=rf"^words\.parquet: the table does not have the promised schema: .*{reason}"):
        StageOutput(tmp_path).write_table("words.parquet", pa.table(columns), WORDS)


def test_vectors_of_another_dimension_are_refused(tmp_path):
    table = pa.table({"pair": pa.array([[1.0, 2.0, 3.0]], pa.list_(pa.float32(), 3))})
    with pytest.raises(ValueError, match=r"^pairs\.parquet: the table does not have the promised schema: Size of"):
        StageOutput(tmp_path).write_table("pairs.parquet", table, PAIRS)


@pytest.mark.parametrize(
    ("columns", "schema", "column"),
    [({"word": ["a", None], "count": [1, 2]}, WORDS, "word"), ({"pair": [[1.0, None]]}, PAIRS, "element")],
    ids=["in a column", "in a vector"],
)
def test_nulls_are_refused_in_tables_that_are_written_piece_by_piece(tmp_path, columns, schema, column):
    table = pa.table(columns, schema=schema)
    with (
        pytest.raises(ValueError, match=f"Column '{column}' is declared non-nullable but contains nulls"),
        StageOutput(tmp_path).table_writer("pieces.parquet", schema) as writer,
    ):
        writer.write_table(table)


def test_pieces_of_another_schema_are_refused(tmp_path):
    with (
        pytest.raises(ValueError, match="Table schema does not match schema used to create file"),
        StageOutput(tmp_path).table_writer("pieces.parquet", WORDS) as writer,
    ):
        writer.write_table(pa.table({"word": [1], "count": [1]}))


class Report(JsonFile):
    """A file of the test's own."""

    file_name: ClassVar[str] = "report.json"
    shares: dict[str, float]
    labels: tuple[str, ...]


@pytest.mark.usefixtures("artifacts")
class TestModels:
    def test_what_is_written_is_read_back(self):
        report = Report(shares={"b": 0.5, "a": 1.0}, labels=("é", "x"))
        output, _ = commit_output("stage", "0" * 32, lambda out: out.write_model(report))
        assert output.read_model(Report) == report
        assert output.path("report.json").read_text("utf-8").splitlines()[1:4] == [' "labels": [', '  "é",', '  "x"']

    def test_another_field_is_an_error(self):
        output, _ = commit_output("stage", "0" * 32, lambda out: out.write_json("report.json", {"share": 1}))
        with pytest.raises(ValueError, match=r"(?s)shares.*share"):
            output.read_model(Report)
