"""`corpus.keep_columns`: columns of any format stay beside the documents, and nothing changes without them."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

import tasks.reading.byte_stream
from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from pipeline_config.schemas import DOCUMENTS_FILE, KEPT_COLUMNS_FILE
from pipeline_config.settings import CorpusConfig
from tasks.corpus.ingest_corpus import ingest_corpus
from tasks.reading.sources import locate_corpus
from tasks.store.artifacts import ArtifactRef

pytestmark = pytest.mark.usefixtures("artifacts")
COUNT = 24


def ingest(path: Path, **options: object) -> ArtifactRef:
    config = CorpusConfig(source=str(path), min_class_documents=3, max_rejected_fraction=1.0, **options)
    return ingest_corpus.fn(locate_corpus(config), config, 0)


def kept(output: ArtifactRef) -> dict[str, tuple[str | None, ...]]:
    """The kept values of each document, by its text."""
    documents, columns = (output.read_table(name) for name in (DOCUMENTS_FILE, KEPT_COLUMNS_FILE))
    assert documents["doc_id"].equals(columns["doc_id"])
    values = zip(*(columns[name].to_pylist() for name in columns.column_names[1:]), strict=True)
    return dict(zip(documents["text"].to_pylist(), values, strict=True))


def objects() -> list[dict[str, object]]:
    regions = ["north", None, "a|b", " südlich "]
    return [
        {
            "text": f"text {i}",
            "label": "ab"[i % 2],
            "meta": {"region": regions[i % 4], "year": 2000 + i % 3},
            "tags": [i],
        }
        for i in range(COUNT)
    ]


EXPECTED = {
    f"text {i}": (["north", None, "a|b", "südlich"][i % 4], str(2000 + i % 3), f"[{i}]", "ab"[i % 2])
    for i in range(COUNT)
}
NAMES = ("meta.region", "meta.year", "tags", "label")


@pytest.mark.parametrize("block_bytes", [None, 64])
@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_fields_of_objects_are_kept_as_texts(tmp_path, monkeypatch, suffix, block_bytes):
    if block_bytes:
        monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", block_bytes)
    path = tmp_path / f"corpus.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(objects()), path)
    elif suffix == "json":
        path.write_text(json.dumps(objects()))
    else:
        path.write_text("".join(json.dumps(value) + "\n" for value in objects()))
    assert kept(ingest(path, keep_columns=NAMES)) == EXPECTED


def test_columns_of_csv_are_kept_of_documents_only(tmp_path):
    rows = [f"text {i},{'ab'[i % 2]},{i % 5}.0" for i in range(COUNT)]
    path = tmp_path / "corpus.csv"
    path.write_text("\n".join(["text,label,rating", " ,a,7", "no label,,8", *rows, ""]))
    found = kept(ingest(path, keep_columns=("rating",)))
    assert found == {f"text {i}": (str(i % 5),) for i in range(COUNT)}


def test_a_column_that_folders_name_is_kept(tmp_path):
    for label in "ab":
        folder = tmp_path / "corpus" / f"label={label}"
        folder.mkdir(parents=True)
        (folder / "part.csv").write_text("\n".join(["text", *(f"text {label} {i}" for i in range(10)), ""]))
    found = kept(ingest(tmp_path / "corpus", keep_columns=("label",)))
    assert set(found.values()) == {("a",), ("b",)}


def test_without_names_there_is_no_file_and_nothing_else_changes(tmp_path):
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in objects()))
    without, with_columns = ingest(path), ingest(path, keep_columns=NAMES)
    assert not without.path(KEPT_COLUMNS_FILE).exists()
    assert without.read_table(DOCUMENTS_FILE).equals(with_columns.read_table(DOCUMENTS_FILE))
    assert "keep_columns" not in Reading().model_dump()
    assert CorpusConfig(keep_columns=("a",)).reading.model_dump()["keep_columns"] == ("a",)


def test_a_column_that_is_missing_is_told_as_others_are(tmp_path):
    path = tmp_path / "corpus.csv"
    path.write_text("text,label\n" + "".join(f"text {i},{'ab'[i % 2]}\n" for i in range(COUNT)))
    with pytest.raises(InputError, match=r"expected a column 'region', got columns 'text', 'label'"):
        ingest(path, keep_columns=("region",))
    folder = tmp_path / "texts"
    for label in "ab":
        (folder / label).mkdir(parents=True)
        (folder / label / "1.txt").write_text("text")
    with pytest.raises(InputError, match=r"expected a column 'region' \(corpus.keep_columns\), got a folder"):
        ingest(folder, keep_columns=("region",))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "a"), "repeats 'a'"),
        (("text",), "column of the text"),
        (("doc_id",), "numbers of documents"),
        (("",), "empty"),
    ],
)
def test_names_that_cannot_be_kept_are_refused(names, message):
    with pytest.raises(ValidationError, match=message):
        CorpusConfig(keep_columns=names)
