"""JSON arrays, read as a stream, and fields inside objects."""

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.reading.byte_stream
from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig
from tasks.reading.formats import read_blocks
from tasks.reading.sources import locate_corpus

Writer = Callable[[str, bytes], Path]


@pytest.fixture(params=[5, 64, 8 << 20], ids=["tiny blocks", "small blocks", "one block"], autouse=True)
def block_bytes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", request.param)


def read(path: Path, **options: object) -> list[tuple[object, ...]]:
    """Return text, label, problem and line of every row."""
    config = CorpusConfig(source=str(path), **options)
    (file,) = locate_corpus(config).files
    return [
        tuple(row[name] for name in ("text", "label", "problem", "line"))
        for block in read_blocks(Path(file.path), file.kind, config.reading)
        for row in block.to_pylist()
    ]


def refused(path: Path, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        read(path, **options)
    return str(caught.value).replace(str(path), "FILE")


ROWS = [{"text": f'text {i} \u00e9 ]}}, {{"', "label": "ab"[i % 2]} for i in range(7)]


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_an_array_of_objects_is_read(write: Writer, indent: int | None, encoding: str, ascii_only: bool) -> None:
    content = json.dumps(ROWS, indent=indent, ensure_ascii=ascii_only).encode(encoding)
    lines = [2 + 4 * i if indent else 1 for i in range(7)]
    assert read(write("c.json", content)) == [
        (row["text"], row["label"], None, line) for row, line in zip(ROWS, lines, strict=True)
    ]


def test_an_empty_array_has_no_rows(write: Writer) -> None:
    assert read(write("c.json", b" [ \n ] ")) == []


def test_elements_that_are_no_objects_have_a_problem(write: Writer) -> None:
    content = b'[{"text": "x", "label": "a"}, 12, [1], null, "half', b'", 345, {"text": 7, "label": "b"}]'
    problems = [(row[0], row[2]) for row in read(write("c.json", b"".join(content)))]
    bad = "not_a_json_object"
    assert problems == [
        ("x", None), ("12", bad), ("[1]", bad), ("null", bad), ('"half"', bad), ("345", bad), ("7", "text_is_no_string")
    ]  # fmt: skip


def test_bytes_that_are_not_utf_8_make_a_row_undecodable(write: Writer) -> None:
    content = b'[{"text": "caf\xe9", "label": "a"}, {"text": "fine", "label": "b"}]'
    assert [row[:3] for row in read(write("c.json", content))] == [("caf?", "a", "undecodable"), ("fine", "b", None)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('[{"text": "x", "label": "a"}', "FILE:1: expected , or ] in the JSON array, got the end of the file"),
        ('[\n{"text": "x", "label": "a"}\n{"text"', "FILE:3: expected , or ] in the JSON array, got '{\"text\"'"),
        ('[\n{"text": "x" "label": "a and so on and on"}]', "FILE:2: expected an element (Expecting ',' delimiter) in"),
        ("[{\"text\": 'x', 'label': 'single quotes'}]", "FILE:1: expected an element (Expecting value) in the JSON"),
        ('[{"text": "x", "label": "a"}] {}', "FILE:1: expected the end of the file in the JSON array, got '{}'"),
        ("[" * 100_000, "FILE:1: expected an element that is nested less deeply in the JSON array"),
        ('{\n"text": ["x"]}', "FILE: expected a JSON array of objects, or an object on each line, got a first line"),
    ],
)
def test_a_damaged_array_is_refused(write: Writer, content: str, message: str) -> None:
    assert refused(write("c.json", content.encode())).startswith(message[:45])


def test_a_json_file_may_have_an_object_per_line(write: Writer) -> None:
    content = "\n".join(map(json.dumps, ROWS)).encode()
    assert [row[:2] for row in read(write("c.json", content))] == [(row["text"], row["label"]) for row in ROWS]


def test_an_element_longer_than_allowed_is_refused(write: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", 64)
    monkeypatch.setattr(tasks.reading.byte_stream, "MAX_ROW_BYTES", 1000)
    content = json.dumps([{"text": "x" * 10_000, "label": "a"}]).encode()
    assert "expected elements of at most 1,000 bytes" in refused(write("c.json", content))


# fields inside objects

NESTED = [
    {"data": {"text": "one", "n": 1}, "meta": {"label": "a"}},
    {"data": {"text": "two"}, "meta": None},
    {"data": None, "meta": {"label": "b"}},
]


@pytest.mark.parametrize("name", ["c.json", "c.jsonl", "c.parquet"])
def test_a_dotted_name_reaches_into_objects(write: Writer, name: str) -> None:
    path = write(name, b"")
    if name == "c.parquet":
        pq.write_table(pa.Table.from_pylist(NESTED), path)
    else:
        path.write_text(json.dumps(NESTED) if name == "c.json" else "\n".join(map(json.dumps, NESTED)))
    rows = read(path, text_column="data.text", label_column="meta.label")
    assert [row[:2] for row in rows] == [("one", "a"), ("two", None), (None, "b")]
    message = refused(path, label_column="meta.label")
    assert message.startswith("FILE: expected a column 'text', got columns ")
    assert "'data.text'" in message
    assert "expected a column 'data.body', got" in refused(path, text_column="data.body", label_column="meta.label")


@pytest.mark.parametrize("name", ["c.json", "c.jsonl", "c.parquet"])
def test_a_column_whose_own_name_has_the_dot_comes_first(write: Writer, name: str) -> None:
    rows = [{"data": {"text": "inner"}, "data.text": "own", "label": "a"}]
    path = write(name, b"")
    if name == "c.parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows if name == "c.json" else rows[0]))
    assert [row[0] for row in read(path, text_column="data.text")] == ["own"]


def test_objects_as_texts_are_refused_with_a_remedy(write: Writer) -> None:
    path = write("c.json", json.dumps([{"data": {"text": "x"}, "label": "a"}] * 30).encode())
    if tasks.reading.byte_stream.BLOCK_BYTES > 1000:
        assert "the field text of an object data has the name data.text" in refused(path, text_column="data")
