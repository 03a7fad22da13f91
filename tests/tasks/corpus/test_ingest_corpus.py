"""The stage `ingest_corpus`: every row is a document, rejected, or left out, and splits never share a text."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import tasks.reading.byte_stream
from pipeline_config.contracts.corpus import CorpusProfile, FileRows
from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from pipeline_config.schemas import DOCUMENTS, DOCUMENTS_FILE, PROFILE_FILE, REJECTED, REJECTED_FILE, UNLABELLED_FILE
from pipeline_config.settings import CorpusConfig
from tasks.corpus.hashing import hash_texts
from tasks.corpus.ingest_corpus import ingest_corpus
from tasks.reading.sources import locate_corpus
from tasks.store.artifacts import ArtifactRef

Writer = Callable[[str, bytes], Path]


def config_of(source: object, **options: object) -> CorpusConfig:
    return CorpusConfig(source=str(source), **{"min_class_documents": 3, "max_rejected_fraction": 1.0, **options})


def ingest(source: object, *, seed: int = 0, **options: object) -> ArtifactRef:
    config = config_of(source, **options)
    return ingest_corpus.fn(locate_corpus(config), config, seed)


def refused(source: object, **options: object) -> str:
    """Return the message with which a source is refused."""
    with pytest.raises(InputError) as caught:
        ingest(source, **options)
    return str(caught.value)


def rejected(reference: ArtifactRef) -> list[tuple[int, str]]:
    return [(row["row"], row["reason"]) for row in reference.read_table(REJECTED_FILE).to_pylist()]


def splits(reference: ArtifactRef) -> dict[str, str]:
    """Return the split of each text."""
    table = reference.read_table(DOCUMENTS_FILE)
    return dict(zip(table["text"].to_pylist(), table["split"].to_pylist(), strict=True))


def csv_of(counts: dict[str, int], *, column: str = "label") -> bytes:
    """Return a CSV file with so many distinct texts per label."""
    rows = [f"{label} text {i},{label}" for label, count in counts.items() for i in range(count)]
    return "\n".join([f"text,{column}", *rows, ""]).encode()


def test_texts_are_normalized_and_otherwise_kept_as_they_are(write: Writer) -> None:
    text = "  cafe\u0301 \ufe30 "
    reference = ingest(write("c.csv", csv_of({"a": 5, "b": 5}) + f"{text},a\n".encode()))
    assert reference.read_table(DOCUMENTS_FILE)["text"][10].as_py() == "  caf\u00e9 \ufe30 "
    profile = reference.read_model(CorpusProfile)
    assert profile.normalization == "NFC"
    assert profile.oddities["not_nfc"] == 1


def test_the_label_map_renames_labels_after_they_became_text(write: Writer) -> None:
    lines = [
        f'{{"text": "{i} {j}", "label": {value}}}'
        for i in range(5)
        for j, value in enumerate(["0", "1.0", '"2"', '"0"'])
    ]
    reference = ingest(write("c.jsonl", "\n".join(lines).encode()), label_map={"0": "negative", "1": "positive"})
    labels = reference.read_table(DOCUMENTS_FILE)["label"].to_pylist()
    assert labels[:4] == ["negative", "positive", "2", "negative"]


# sources that cannot be used


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.csv", b"", "expected a column 'text', got no header"),
        ("c.csv", b"\n\n", "expected a column 'text', got no header"),
        ("c.csv", b"one,a\ntwo,b\n", "expected a column 'text', got columns 'one', 'a'; --text NAME gives its name"),
        ("c.csv", b"text,class\none,a\n", "expected a column 'label', got columns 'text', 'class'"),
        ("c.tsv", b"title,label\none,a\n", "expected a column 'text', got columns 'title', 'label'"),
        (
            "c.csv",
            b"text,label\n",
            "expected at least two classes with documents, got none after rejecting 0 rows (none)",
        ),
        ("c.jsonl", b"", "expected at least two classes with documents, got none after rejecting 0 rows (none)"),
        ("c.jsonl", b'{"body": "x", "label": "a"}\n', "expected a column 'text', got columns 'body', 'label'"),
        (
            "c.jsonl",
            b"{\n[]\n",
            "expected at least two classes with documents, got none after rejecting 2 rows (2 not_a_json_object)",
        ),
        (
            "c.csv",
            b"text,label\n,a\n ,b\nx,\n",
            "expected at least two classes with documents, got none after rejecting 2 rows (2 empty_text)",
        ),
        (
            "c.csv",
            csv_of({"a": 5}),
            "expected at least two classes with documents, got a after rejecting 0 rows (none)",
        ),
        (
            "c.csv",
            csv_of({"a": 5, "b": 2, "c": 1}),
            "expected at least 3 distinct texts in every class (corpus.min_class_documents), got: 'b' with 2, "
            "'c' with 1; set corpus.small_classes=reject to leave such classes out",
        ),
        ("c.parquet", b"", "expected a Parquet file, cannot read it: Parquet file size is 0 bytes"),
        (
            "c.parquet",
            b"PAR1" + b"x" * 100,
            "expected a Parquet file, cannot read it: Parquet magic bytes not found in footer",
        ),
    ],
)
def test_a_file_without_a_usable_corpus_is_refused(write: Writer, name: str, content: bytes, message: str) -> None:
    path = write(name, content)
    assert refused(path).startswith(f"{path}: {message}")


def test_a_parquet_file_without_the_column_is_refused(tmp_path: Path, artifacts: Path) -> None:
    pq.write_table(pa.table({"text": ["x"], "class": ["a"]}), tmp_path / "c.parquet")
    assert (
        refused(tmp_path / "c.parquet")
        == f"{tmp_path}/c.parquet: expected a column 'label', got columns 'text', 'class'; --label NAME gives its name"
    )


def test_a_parquet_file_damaged_in_its_data_is_refused(write: Writer, tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["x" * 50] * 50, "label": ["a"] * 50}), tmp_path / "c.parquet")
    damaged = bytearray((tmp_path / "c.parquet").read_bytes())
    damaged[4:40] = b"\xff" * 36
    path = write("c.parquet", bytes(damaged))
    assert refused(path).startswith(f"{path}: expected a Parquet file, cannot read it: ")


def test_a_class_of_copies_of_one_text_is_too_small(write: Writer) -> None:
    path = write("c.csv", csv_of({"a": 5}) + b"same,b\nSAME,b\n same ,b\n")
    assert "'b' with 1;" in refused(path)


@pytest.mark.parametrize("encoding", ["utf-99", "base64"])
@pytest.mark.parametrize("source", ["c.csv", "c.jsonl", "c"])
def test_an_unknown_encoding_is_refused(write: Writer, tmp_path: Path, source: str, encoding: str) -> None:
    write("c.csv", csv_of({"a": 5, "b": 5}))
    write("c.jsonl", b"{}")
    write("c/a/1.txt", b"x")
    expected = f"corpus.encoding: got {encoding!r}, expected a text encoding of Python such as utf-8 or latin-1"
    assert refused(tmp_path / source, encoding=encoding) == expected


def test_a_file_that_is_not_in_its_encoding_at_all_is_refused(write: Writer) -> None:
    path = write("c.csv", csv_of({"a": 5, "b": 5}))
    message = refused(path, encoding="utf-16")
    assert message.startswith(f"{path}: expected text in the encoding utf-16 (corpus.encoding), got: ")


# what is selected


def test_max_documents_takes_rows_evenly_over_the_file(write: Writer) -> None:
    lines = [f"text {i},{'ab'[i // 5]}" for i in range(10)]
    path = write("c.csv", "\n".join(["text,label", *lines]).encode())
    reference = ingest(path, max_documents=7)
    assert reference.read_table(DOCUMENTS_FILE)["doc_id"].to_pylist() == [0, 1, 2, 4, 5, 7, 8]  # i * 10 // 7
    assert (reference.facts["rows_rejected"], reference.facts["rows_left_out"]) == (0, 3)


@pytest.mark.parametrize("most", [None, 10, 11])
def test_max_documents_beyond_the_corpus_leaves_nothing_out(write: Writer, most: int | None) -> None:
    reference = ingest(write("c.csv", csv_of({"a": 5, "b": 5})), max_documents=most)
    assert (reference.facts["documents"], reference.facts["rows_left_out"]) == (10, 0)


def test_small_classes_can_be_rejected_row_by_row(write: Writer) -> None:
    long = "x" * 100
    content = f"text,label\n{long},c\n".encode() + csv_of({"a": 5, "b": 5})[11:] + b"second,c\n ,b\n"
    reference = ingest(write("c.csv", content), small_classes="reject")
    assert set(reference.read_table(DOCUMENTS_FILE)["label"].to_pylist()) == {"a", "b"}
    assert rejected(reference) == [(0, "small_class"), (11, "small_class"), (12, "empty_text")]
    assert reference.read_table(REJECTED_FILE)["excerpt"][0].as_py() == "x" * 80


def test_two_classes_must_remain_after_small_ones_are_rejected(write: Writer) -> None:
    path = write("c.csv", csv_of({"a": 6, "b": 1, "c": 1}))
    expected = f"{path}: expected at least two classes with documents, got a after rejecting 2 rows (2 small_class)"
    assert refused(path, small_classes="reject") == expected


# copies


def text_of(seed: int) -> bytes:
    """Return a corpus of texts in many copies that differ in case and white space, some with two labels."""
    generator = random.Random(seed)
    rows = []
    for i in range(60):
        for _ in range(3):
            text = generator.choice(
                [
                    f"TEXT {i} \u00c9t\u00e9",
                    f"  Text {i} \u00e9t\u00e9",
                    f"text\t{i}  \u00c9T\u00c9",
                    f"Text {i} e\u0301te\u0301",
                ]
            )
            rows.append(
                f"{text},{generator.choice('ab')},g{i % 20},{generator.randrange(1000)},"
                f"{generator.choice(['train', 'train', 'validation', 'test'])}"
            )
    return "\n".join(["text,label,group,time,part", *rows]).encode()


SPLITTERS = {
    "stratified": {},
    "hash": {"splitter": "hash", "test_fraction": 0.2, "validation_fraction": 0.2},
    "time": {"splitter": "time", "time_column": "time"},
    "group": {"splitter": "group", "group_column": "group"},
    "given": {"split_column": "part"},
    "near": {"near_duplicates": 0.8},
}


@pytest.mark.parametrize("splitter", SPLITTERS)
@pytest.mark.parametrize("seed", range(3))
def test_copies_of_a_text_never_cross_splits(write: Writer, splitter: str, seed: int) -> None:
    reference = ingest(write("c.csv", text_of(seed)), seed=seed, **SPLITTERS[splitter])
    table = reference.read_table(DOCUMENTS_FILE)
    found: dict[bytes, set[str]] = {}
    for key, split in zip(hash_texts(table["text"].combine_chunks()), table["split"].to_pylist(), strict=True):
        found.setdefault(key, set()).add(split)
    assert max(map(len, found.values())) == 1
    assert reference.facts["documents"] + reference.facts["rows_rejected"] == 180
    assert (reference.facts["leaked"] > 0) == (splitter == "given")


def test_a_train_copy_of_a_held_out_text_is_rejected_and_counted(write: Writer) -> None:
    rows = [f"text {i},{'ab'[i % 2]},{name}" for i in range(12) for name in (["train", "validation", "test"][i % 3],)]
    copies = ["TEXT 1,b,train", "text 2,a,train", "text 2,b,validation", "text 0,a,train"]
    path = write("c.csv", "\n".join(["text,label,part", *rows, *copies]).encode())
    reference = ingest(path, split_column="part")
    assert rejected(reference) == [(12, "copy_in_validation"), (13, "copy_in_test"), (14, "copy_in_test")]
    assert reference.read_model(CorpusProfile).leaked == 3
    assert reference.facts["leaked"] == 3


# splits


def test_a_split_column_may_use_synonyms(write: Writer) -> None:
    names = ["train", "Train ", "val", "valid", "dev", "validation", "TEST", "test"]
    lines = [f"text {label}{i},{label},{name}" for label in "ab" for i, name in enumerate(names)]
    path = write("c.csv", "\n".join(["text,label,part", *lines]).encode())
    expected = ["train"] * 2 + ["validation"] * 4 + ["test"] * 2
    assert ingest(path, split_column="part").read_table(DOCUMENTS_FILE)["split"].to_pylist() == expected * 2


def test_splits_given_as_files_are_kept_and_the_missing_one_is_drawn_from_train(write: Writer, tmp_path: Path) -> None:
    train, test = (
        write("train.csv", csv_of({"a": 20, "b": 20})),
        write("test.csv", b"text,label\nx,a\ny,b\nA TEXT 0,a\n,a\n"),
    )
    reference = ingest(train, test_source=str(test), validation_fraction=0.2)
    found = splits(reference)
    assert (found["x"], found["y"], found["A TEXT 0"]) == ("test", "test", "test")
    assert sorted(found.values()).count("test") == 3
    assert sorted(found.values()).count("validation") == 8
    assert rejected(reference) == [(0, "copy_in_test"), (43, "empty_text")]
    assert reference.read_table(REJECTED_FILE)["file"].to_pylist() == ["train.csv", "test.csv"]
    assert reference.read_model(CorpusProfile).files == (
        FileRows(name="train.csv", first_row=0, rows=40),
        FileRows(name="test.csv", first_row=40, rows=4),
    )


def test_rows_without_a_time_are_rejected_by_the_splitter_time(write: Writer) -> None:
    lines = [f"text {i},{'ab'[i % 2]},{f'2024-01-{i + 1:02}' if i != 7 else 'once'}" for i in range(21)]
    reference = ingest(
        write("c.csv", "\n".join(["text,label,day", *lines]).encode()), splitter="time", time_column="day"
    )
    assert rejected(reference) == [(7, "no_time")]
    table = reference.read_table(DOCUMENTS_FILE)
    assert table["split"].to_pylist()[-4:] == ["validation"] * 2 + ["test"] * 2


def test_groups_stay_together(write: Writer) -> None:
    lines = [f"text {i},{'ab'[i % 2]},author {i % 10}" for i in range(100)]
    path = write("c.csv", "\n".join(["text,label,author", *lines]).encode())
    table = ingest(path, splitter="group", group_column="author").read_table(DOCUMENTS_FILE)
    found = {(i % 10, split) for i, split in zip(table["doc_id"].to_pylist(), table["split"].to_pylist(), strict=True)}
    assert len(found) == 10
    assert sorted(table["split"].to_pylist()).count("test") == 10


@pytest.mark.parametrize(
    ("given", "counts"),
    [(["test"], "train 0, validation 0, test 20"), (["test", "validation"], "train 0, validation 10, test 10")],
)
def test_a_split_column_that_leaves_a_split_empty_is_refused(write: Writer, given: list[str], counts: str) -> None:
    lines = [f"text {i},{'ab'[i // 10]},{given[i % len(given)]}" for i in range(20)]
    path = write("c.csv", "\n".join(["text,label,part", *lines]).encode())
    assert refused(path, split_column="part") == f"{path}: expected documents in every split, got {counts}"


def test_a_missing_split_column_is_refused(write: Writer) -> None:
    path = write("c.csv", csv_of({"a": 5, "b": 5}))
    assert refused(path, split_column="part") == f"{path}: expected a column 'part', got columns 'text', 'label'"


# profile and output


def test_the_profile_has_these_bytes(write: Writer) -> None:
    content = csv_of({"a": 6, "b": 5}) + b"a TEXT 0,b\n,a\nb,b\nhttp://x,b\n"
    reference = ingest(write("c.csv", content), max_documents=13, near_duplicates=0.9)
    expected = {
        "rows": 15,
        "unlabelled": 0,
        "left_out": 1,
        "files": [{"name": "c.csv", "first_row": 0, "rows": 15}],
        "rejected": {"empty_text": 1},
        "rejected_by_class": {"empty_text": {"a": 1}},
        "near_equal_names": {},
        "imbalance": None,
        "readings": {
            "csv": Reading(format="csv", separator=",", quoting="standard", encoding="utf-8").model_dump(mode="json")
        },
        "documents": {"train": {"a": 4, "b": 5}, "validation": {"a": 1, "b": 1}, "test": {"a": 1, "b": 1}},
        "characters": {"p0": 1, "p25": 8, "p50": 8, "p75": 8, "p95": 8, "p99": 8, "p100": 8},
        "characters_histogram": [[1, 1], [2, 0], [3, 0], [4, 0], [5, 0], [6, 0], [7, 0], [8, 12]],
        "duplicates": 1,
        "conflicting_labels": 1,
        "leaked": 0,
        "near_duplicates_leaked": 0,
        "near_duplicate_pairs": 1,
        "oddities": {"addresses": 1},
        "normalization": "NFC",
        "splitter": "stratified",
    }
    text = json.dumps(expected, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    assert reference.path(PROFILE_FILE).read_text("utf-8") == text


@pytest.mark.parametrize("block_bytes", [32, 1000])
def test_the_output_does_not_depend_on_the_block_size(
    write: Writer, monkeypatch: pytest.MonkeyPatch, block_bytes: int
) -> None:
    path = write("c.csv", text_of(0) + b"\n,a\nx\n")
    whole = ingest(path, splitter="time", time_column="time")
    tables = [whole.read_table(name) for name in (DOCUMENTS_FILE, REJECTED_FILE)]
    profile = whole.read_model(CorpusProfile)
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(path.parent / "other"))
    monkeypatch.setattr(tasks.reading.byte_stream, "BLOCK_BYTES", block_bytes)
    parts = ingest(path, splitter="time", time_column="time")
    assert [parts.read_table(name) for name in (DOCUMENTS_FILE, REJECTED_FILE)] == tables
    assert parts.read_model(CorpusProfile) == profile


def test_every_row_is_a_document_rejected_or_left_out(write: Writer) -> None:
    messy = b"rare,c\n,a\nodd\nno label,\ncaf\xe9,b\n"
    path = write("c.csv", csv_of({"a": 20, "b": 10}) + messy)
    reference = ingest(path, max_documents=21, small_classes="reject")
    documents, rejected = reference.read_table(DOCUMENTS_FILE), reference.read_table(REJECTED_FILE)
    profile = reference.read_model(CorpusProfile)
    assert profile.rows == 35
    assert profile.unlabelled == len(reference.read_table(UNLABELLED_FILE)) == 1
    assert len(documents) + len(rejected) + profile.unlabelled + profile.left_out == 35
    assert rejected["row"].to_pylist() == sorted(rejected["row"].to_pylist())
    facts = reference.facts
    assert sum(facts[name] for name in ("documents", "rows_rejected", "rows_unlabelled", "rows_left_out")) == 35
    assert facts["rows"] == 35
    assert facts["classes"] == 2


def test_documents_and_rejected_rows_have_the_promised_schemas(write: Writer) -> None:
    reference = ingest(write("c.csv", csv_of({"b": 5, "a": 5}) + b",a\n"))
    documents, rejected = reference.read_table(DOCUMENTS_FILE), reference.read_table(REJECTED_FILE)
    assert (documents.schema, rejected.schema) == (DOCUMENTS, REJECTED)
    assert documents["doc_id"].to_pylist() == list(range(10))
    assert documents["text"].to_pylist()[:2] == ["b text 0", "b text 1"]
    assert rejected.to_pylist() == [{"row": 10, "file": "c.csv", "line": 12, "reason": "empty_text", "excerpt": ""}]
    assert reference.read_model(CorpusProfile).normalization == "NFC"


@pytest.mark.parametrize("name", ["c.csv", "c"])
def test_the_output_depends_on_content_configuration_and_seed_and_not_on_the_place(
    write: Writer, tmp_path: Path, name: str
) -> None:
    for folder in ("here", "there", "other"):
        extra = 1 if folder == "other" else 0
        write(f"{folder}/c.csv", csv_of({"a": 5 + extra, "b": 5}))
        for label in "ab":
            for i in range(5 + extra):
                write(f"{folder}/c/{label}/{i}.txt", f"{label} text {i}".encode())
    here, there, other = (tmp_path / folder / name for folder in ("here", "there", "other"))
    assert ingest(here) == ingest(there)
    assert ingest(here).key != ingest(other).key
    assert ingest(here).key != ingest(here, seed=1).key
    assert ingest(here).key != ingest(here, test_fraction=0.3).key
