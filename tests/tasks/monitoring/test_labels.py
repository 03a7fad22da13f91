"""Labels that arrive later."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_config.errors import InputError
from tasks.monitoring.labels import join_answers, measure_answers, read_labels


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        lines = [",".join(rows[0]), *(",".join("" if v is None else str(v) for v in row.values()) for row in rows)]
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_labels_as_a_spreadsheet_writes_them_are_read(tmp_path: Path, encoding: str, separator: str) -> None:
    path = tmp_path / "labels.csv"
    rows = [["ticket", "queue"], ["A-7", "größer"], ["A-8", '"zu, teuer; sehr"'], ["A-9", ""], ["A-10", "größer"]]
    path.write_bytes("".join(f"{separator.join(row)}\r\n" for row in rows).encode(encoding))
    assert read_labels(path, "ticket", "queue") == {"A-7": "größer", "A-8": "zu, teuer; sehr", "A-10": "größer"}


def test_labels_that_are_not_utf8_are_refused_and_not_changed(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes("id;label\n1;größer\n2;a\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"labels\.csv: 1 rows have bytes that are not UTF-8"):
        read_labels(path, "id", "label")


@pytest.mark.parametrize(("names", "missing"), [(("id", "label"), "id"), (("number", "truth"), "truth")])
def test_a_column_that_a_table_of_text_lacks_is_named(tmp_path: Path, names: tuple[str, str], missing: str) -> None:
    path = write(tmp_path / "labels.csv", [{"number": "x", "label": "a"}])
    with pytest.raises(InputError, match=rf"labels\.csv: expected a column '{missing}', got columns 'number', 'label'"):
        read_labels(path, *names)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_ids_are_texts_in_every_form(tmp_path: Path, suffix: str) -> None:
    rows = [{"id": 7, "truth": "a"}, {"id": 8, "truth": None}, {"id": 9, "truth": "b"}, {"id": 9, "truth": "b"}]
    assert read_labels(write(tmp_path / f"labels{suffix}", rows), "id", "truth") == {"7": "a", "9": "b"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"id": "x", "label": "a"}, {"id": "x", "label": "b"}],
            "expected one label for each id, got 'a' and 'b' for 'x'",
        ),
        ([{"number": "x", "label": "a"}], "expected the column 'id', got number, label; set --id or --label"),
        (
            [{"id": "x", "label": None}, {"id": None, "label": "a"}],
            "no row has both a value in 'id' and one in 'label'",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told(tmp_path: Path, rows: list[dict], message: str) -> None:
    path = write(tmp_path / "labels.parquet", rows)
    with pytest.raises(InputError, match=message):
        read_labels(path, "id", "label")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a\nb\n")
    (tmp_path / "labels.parquet").write_text("id,label\n")
    with pytest.raises(InputError, match=r"labels\.txt: "):
        read_labels(tmp_path / "labels.txt", "id", "label")
    with pytest.raises(InputError, match=r"labels\.parquet: cannot be read"):
        read_labels(tmp_path / "labels.parquet", "id", "label")
    with pytest.raises(InputError, match=r"labels\.csv: no such file"):
        read_labels(tmp_path / "labels.csv", "id", "label")


def test_answers_are_joined_by_id_and_the_last_one_counts(tmp_path: Path) -> None:
    old = [
        {"id": 1, "label": "a", "score": 0.9},
        {"id": 2, "label": "a", "score": 0.6},
        {"id": 3, "label": None, "score": None},
    ]
    new = [{"id": 2, "label": "b", "score": 0.8}, {"id": 4, "label": "b", "score": 0.7}]
    other = [{"name": "x", "label": "b", "score": 0.7}]
    outputs = [
        write(tmp_path / "old.parquet", old),
        write(tmp_path / "other.parquet", other),
        write(tmp_path / "new.csv", new),
    ]
    labels = {"1": "a", "2": "a", "3": "a", "4": "b", "5": "b"}
    joined = join_answers(labels, outputs, "id")
    assert sorted(joined.to_pylist(), key=str) == sorted(
        [
            {"truth": "a", "answer": "a", "score": 0.9},
            {"truth": "a", "answer": "b", "score": 0.8},
            {"truth": "b", "answer": "b", "score": 0.7},
        ],
        key=str,
    )
    found = measure_answers(joined, len(labels))
    assert (found.labelled, found.unmatched, found.confusions) == (3, 2, (("a", "b", 1),))
    assert found.accuracy == pytest.approx(2 / 3)
    assert found.macro_f1 == pytest.approx(2 / 3)  # precision 1 and 1/2, recall 1/2 and 1
    assert found.confidence == pytest.approx(0.8)
    assert (found.low, found.high) == pytest.approx((0.2077, 0.9385), abs=1e-4)  # Wilson, worked out by hand
    assert len(join_answers({"9": "a"}, outputs, "id")) == 0
