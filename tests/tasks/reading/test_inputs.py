"""Files to score: folders of texts, values that cannot be decoded, files without a field."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_config.contracts.reading import Reading
from tasks.reading.encodings import is_other_encoding
from tasks.reading.inputs import Inputs
from tasks.reading.sources import digest_files, locate_files


def read(path: Path, reading: Reading | None = None) -> list[object]:
    reading = reading or Reading()
    inputs = Inputs(locate_files([str(path)], reading), reading)
    return [block for file in inputs.files for block in inputs.read(file)]


def test_a_flat_folder_has_a_text_per_file(tmp_path: Path, artifacts: Path) -> None:
    for name, text in (("b.txt", "two\nlines"), ("a.TXT", "caf\u00e9"), ("notes.md", "no"), (".hidden.txt", "no")):
        (tmp_path / "docs" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "docs" / name).write_text(text)
    (block,) = read(tmp_path / "docs")
    assert block.table.to_pydict() == {"file": ["a.TXT", "b.txt"], "text": ["caf\u00e9", "two\nlines"]}
    assert is_other_encoding(tmp_path / "docs", "latin-1")
    files = locate_files([str(tmp_path / "docs")], Reading())
    before = digest_files(files)
    (tmp_path / "docs" / "b.txt").write_text("changed")
    assert digest_files(files) != before


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", b"text,note\nx,caf\xe9\ny,\xe9\nz,ok\n", {"note": 2}),
        ("a.csv", b"text,note\ncaf\xe9,ok\n", {}),
        ("a.jsonl", b'{"text": "x", "note": "\\ud800", "o": {"k": "\\ud800"}}\n', {"note": 1, "o": 1}),
    ],
)
def test_values_of_other_columns_that_cannot_be_decoded_are_counted(
    name: str, content: bytes, expected: dict[str, int], tmp_path: Path, artifacts: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    (block,) = read(tmp_path / name)
    assert block.undecodable == expected


def test_broken_texts_of_parquet_are_counted_and_stay(tmp_path: Path, artifacts: Path) -> None:
    broken = pa.array([b"ok", b"\xff", None], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": ["x", "y", "z"], "note": broken}), tmp_path / "a.parquet")
    (block,) = read(tmp_path / "a.parquet")
    assert block.undecodable == {"note": 1}
    assert block.table["note"].cast(pa.binary()).to_pylist() == [b"ok", b"\xff", None]


def test_json_without_any_field_keeps_its_rows(tmp_path: Path, artifacts: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{}\n[1]\n{}\n")
    (block,) = read(tmp_path / "a.jsonl")
    assert block.table.to_pydict() == {"text": [None, None]}
    assert block.rejected["reason"].to_pylist() == ["null_text", "not_a_json_object", "null_text"]


def test_names_of_fields_that_cannot_be_decoded_have_question_marks(tmp_path: Path, artifacts: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "x", "n\xb7": 1}\n{"text": "y"}\n')
    (block,) = read(tmp_path / "a.jsonl")
    assert block.table.to_pydict() == {"text": ["x", "y"], "n?": [1, None]}
