"""Labels and rejected rows as people's files have them: each kind of file comes out right, or is refused with advice."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.errors import InputError
from pipeline_config.schemas import DOCUMENTS_FILE, REJECTED_FILE, UNLABELLED_FILE
from pipeline_config.settings import CorpusConfig
from tasks.corpus.ingest_corpus import ingest_corpus
from tasks.reading.sources import locate_corpus
from tasks.store.artifacts import ArtifactRef

Writer = Callable[[str, bytes], Path]
BOTH = {"0", "1"}


def ingest(source: object, **options: object) -> ArtifactRef:
    config = CorpusConfig(source=str(source), **{"min_class_documents": 3, **options})
    return ingest_corpus.fn(locate_corpus(config), config, 0)


def refused(source: object, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        ingest(source, **options)
    return str(caught.value)


def csv_of(labels: list[str], *, word: str = "text", encoding: str = "utf-8") -> bytes:
    """Return a CSV file with a text of its own for each label."""
    return "".join(["text,label\n", *(f"{word} {i},{label}\n" for i, label in enumerate(labels))]).encode(encoding)


def classes(reference: ArtifactRef) -> dict[str, set[str]]:
    """Return the classes that each split has."""
    return {split: set(counts) for split, counts in reference.read_model(CorpusProfile).documents.items()}


@pytest.fixture
def numbers(tmp_path: Path) -> Path:
    """Return a Parquet file of 40 documents with the labels 0 and 1 as numbers."""
    table = pa.table({"text": [f"text {i}" for i in range(40)], "label": [i % 2 for i in range(40)]})
    pq.write_table(table, tmp_path / "train.parquet")
    return tmp_path / "train.parquet"


# one rule for all formats


@pytest.mark.parametrize("forms", [["0.0", "1.0"], ["0", "1"], [" 0 ", "\u200b1"]])
def test_numbers_of_train_and_test_agree_in_every_form(write: Writer, numbers: Path, forms: list[str]) -> None:
    test = write("test.csv", csv_of(forms * 5, word="later"))
    assert classes(ingest(numbers, test_source=str(test))) == {"train": BOTH, "validation": BOTH, "test": BOTH}


def test_normal_forms_and_invisible_characters_make_no_classes(write: Writer) -> None:
    path = write("c.csv", csv_of(["caf\u00e9", "cafe\u0301", "tea", "tea\u200b"] * 10))
    assert classes(ingest(path))["train"] == {"caf\u00e9", "tea"}


def test_names_in_the_metadata_are_the_classes(tmp_path: Path, artifacts: Path) -> None:
    feature = {"info": {"features": {"label": {"names": ["bad", "good"], "_type": "ClassLabel"}}}}
    table = pa.table({"text": [f"text {i}" for i in range(40)], "label": [i % 3 - 1 for i in range(40)]})
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(feature)}), tmp_path / "c.parquet")
    reference = ingest(tmp_path / "c.parquet")
    assert classes(reference)["train"] == {"bad", "good"}
    assert reference.read_model(CorpusProfile).unlabelled == 14


# held-out classes


def test_a_test_split_without_a_class_of_train_is_refused(write: Writer, numbers: Path) -> None:
    test = write("test.csv", csv_of(["-1"] * 5, word="later"))
    assert "train has '0', '1', test has '-1'" in refused(numbers, test_source=str(test))


def test_test_rows_of_a_class_that_train_lacks_are_rejected_and_told(
    write: Writer, numbers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = write("test.csv", csv_of(["0", "1"] * 5 + ["2"], word="later"))
    with caplog.at_level(logging.WARNING):
        reference = ingest(numbers, test_source=str(test))
    assert reference.read_table(REJECTED_FILE).to_pylist() == [
        {"row": 50, "file": "test.csv", "line": 12, "reason": "class_not_in_train", "excerpt": "later 10"}
    ]
    assert reference.read_model(CorpusProfile).rejected_by_class == {"class_not_in_train": {"2": 1}}
    assert "held-out rows of classes that the train split lacks are rejected: '2' with 1" in caplog.messages


def test_many_rows_of_classes_that_train_lacks_are_refused(write: Writer, numbers: Path) -> None:
    test = write("test.csv", csv_of(["0", "1"] * 5 + ["2"] * 9, word="later"))
    message = refused(numbers, test_source=str(test))
    assert "9 of 59 rows (15.3%) cannot be used; corpus.max_rejected_fraction allows 5.0%" in message
    assert "9 class_not_in_train: expected classes of the train split" in message
    assert "Examples: test.csv line 12 'later 10'; test.csv line 13 'later 11'; test.csv line 14" in message


def test_a_newer_class_that_the_splitter_time_holds_out_is_rejected(write: Writer) -> None:
    rows = [f"text {i},{'ab'[i % 2] if i < 52 or i % 2 else 'c'},{i}" for i in range(60)]
    path = write("c.csv", "\n".join(["text,label,day", *rows]).encode())
    reference = ingest(path, splitter="time", time_column="day", max_rejected_fraction=0.1)
    assert reference.read_model(CorpusProfile).rejected == {"class_not_in_train": 4}
    assert classes(reference) == {"train": {"a", "b"}, "validation": {"a", "b"}, "test": {"b"}}


def test_a_test_split_that_lacks_a_class_of_train_is_told(
    write: Writer, numbers: Path, caplog: pytest.LogCaptureFixture
) -> None:
    test = write("test.csv", csv_of(["1"] * 5, word="later"))
    with caplog.at_level(logging.WARNING):
        reference = ingest(numbers, test_source=str(test))
    assert classes(reference)["test"] == {"1"}
    assert "the test split has no documents of '0': averages over classes leave it out there" in caplog.messages


# names and sizes of classes


def test_nearly_equal_names_are_told_with_the_label_map_and_kept(
    write: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    path = write("c.csv", csv_of(["billing"] * 20 + ["Billing"] * 10 + ["shipping"] * 30))
    with caplog.at_level(logging.WARNING):
        reference = ingest(path)
    assert classes(reference)["train"] == {"Billing", "billing", "shipping"}
    assert reference.read_model(CorpusProfile).near_equal_names == {"Billing": "billing"}
    joined = 'set corpus.label_map={"Billing": "billing"}'
    assert f"class names are nearly equal: 'Billing' is nearly 'billing'; to join them, {joined}" in caplog.messages
    assert classes(ingest(path, label_map={"Billing": "billing"}))["train"] == {"billing", "shipping"}


def test_the_message_about_a_small_class_names_the_label_map_first(write: Writer) -> None:
    path = write("c.csv", csv_of(["billing"] * 20 + ["Billing"] * 2 + ["shipping"] * 20 + ["odd"]))
    assert refused(path).endswith(
        "got: 'Billing' with 2, 'odd' with 1; 'Billing' is nearly 'billing'; to join them, set "
        'corpus.label_map={"Billing": "billing"}; or set corpus.small_classes=reject to leave such classes out'
    )


def test_imbalance_is_told_and_in_the_profile(write: Writer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        reference = ingest(write("c.csv", csv_of(["ham"] * 100 + ["spam"] * 10)))
    imbalance = reference.read_model(CorpusProfile).imbalance
    assert imbalance is not None
    assert (imbalance.largest_documents, imbalance.smallest_documents) == (80, 8)
    assert any("'ham' has 80 documents, 'spam' has 8; training.class_weights=balanced" in m for m in caplog.messages)


def test_a_balanced_corpus_without_faults_has_no_warnings(write: Writer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        ingest(write("c.csv", csv_of(["a", "b"] * 20)))
    told = [record.message for record in caplog.records if record.name.startswith("tasks.corpus")]
    assert told == ["read as csv, separator ',', quoting standard, a header, encoding utf-8"]


def test_a_label_map_that_matches_nothing_is_refused(write: Writer) -> None:
    message = refused(write("c.csv", csv_of(["a", "b"] * 10)), label_map={"A": "x", "b": "y"})
    assert message == "corpus.label_map: expected labels of the corpus, got 'A'; the corpus has 'a', 'b'"


# texts without a label


def test_train_texts_without_a_label_are_kept_apart(write: Writer, caplog: pytest.LogCaptureFixture) -> None:
    path = write("c.csv", csv_of(["a", "b", ""] * 10) + "cafe\u0301,\n,\n".encode())
    with caplog.at_level(logging.WARNING):
        reference = ingest(path)
    table = reference.read_table(UNLABELLED_FILE)
    assert table["doc_id"].to_pylist() == [*range(2, 30, 3), 30]
    assert table["text"].to_pylist()[-2:] == ["text 29", "caf\u00e9"]
    assert reference.read_model(CorpusProfile).unlabelled == reference.facts["rows_unlabelled"] == 11
    assert reference.read_model(CorpusProfile).rejected == {"empty_text": 1}
    assert not set(table["doc_id"].to_pylist()) & set(reference.read_table(DOCUMENTS_FILE)["doc_id"].to_pylist())
    assert "11 of 32 rows have no label: kept apart as unlabelled text" in caplog.messages


def test_test_rows_without_a_label_are_rejected(write: Writer) -> None:
    train, test = write("c.csv", csv_of(["a", "b"] * 20)), write("t.csv", csv_of(["a", "", "b"], word="later"))
    reference = ingest(train, test_source=str(test))
    assert reference.read_model(CorpusProfile).rejected == {"no_label": 1}
    assert reference.read_model(CorpusProfile).unlabelled == 0


# rejected rows


def test_more_rejected_rows_than_allowed_are_refused_with_reasons_examples_and_remedies(write: Writer) -> None:
    path = write("c.csv", csv_of(["a", "b"] * 10) + b"one\n,a\ntwo\nthree\nfour\n")
    assert refused(path).splitlines() == [
        f"{path}: 5 of 25 rows (20.0%) cannot be used; corpus.max_rejected_fraction allows 5.0%",
        "  4 wrong_number_of_fields: set corpus.separator or corpus.quoting (backslash escapes quotes, none keeps them). "
        "Examples: c.csv line 22 'one'; c.csv line 24 'two'; c.csv line 25 'three'",
        "  1 empty_text: set corpus.text_column to a column with a text in every row. Examples: c.csv line 23 ''",
    ]
    assert ingest(path, max_rejected_fraction=0.2).facts["rows_rejected"] == 5


def test_rows_that_the_configuration_leaves_out_are_not_counted(write: Writer) -> None:
    path = write("c.csv", csv_of(["a", "b"] * 10) + b"x,a\ny,a\nz,b\n")
    reference = ingest(path, min_characters=2)
    assert reference.read_model(CorpusProfile).rejected == {"short_text": 3}


def lines(words: list[str], encoding: str) -> bytes:
    return "".join(f"{word} today {i},{'ab'[i % 2]}\n" for i, word in enumerate(words)).encode(encoding)


@pytest.mark.parametrize(
    ("word", "encoding"),
    [
        ("caf\u00e9", "cp1252"),
        ("\u041e\u0442\u043b\u0438\u0447\u043d\u044b\u0439 \u0442\u043e\u0432\u0430\u0440", "cp1251"),
    ],
)
def test_the_encoding_that_decodes_everything_is_named(write: Writer, word: str, encoding: str) -> None:
    path = write("c.csv", b"text,label\n" + lines([word] * 20, encoding))
    expected = f"set corpus.encoding={encoding}, if the first such line then reads right: '{word} today 0,a'"
    assert f"20 undecodable: {expected}. Examples: c.csv line 2 " in refused(path)
    assert ingest(path, encoding=encoding).facts["documents"] == 20


def test_a_file_of_mixed_encodings_is_told(write: Writer) -> None:
    path = write("c.csv", b"text,label\n" + lines(["caf\u00e9"] * 20, "utf-8") + lines(["th\u00e9"] * 10, "cp1252"))
    assert "10 undecodable: the file mixes encodings: some lines are UTF-8, others look like cp1252" in refused(path)


def test_a_parquet_file_with_other_bytes_has_its_own_remedy(tmp_path: Path, artifacts: Path) -> None:
    texts = pa.array([b"caf\xe9 %d" % i for i in range(20)]).cast(pa.binary()).view(pa.string())
    pq.write_table(pa.table({"text": texts, "label": ["a", "b"] * 10}), tmp_path / "c.parquet")
    assert "write the Parquet file anew, with texts in UTF-8" in refused(tmp_path / "c.parquet")


def test_rejection_that_falls_on_one_class_is_told_at_any_share(
    write: Writer, caplog: pytest.LogCaptureFixture
) -> None:
    content = (
        csv_of(["ham"] * 400) + csv_of(["spam"] * 14, word="prize")[11:] + b"win \xa3 1,spam\n" * 6 + b"\xe9,ham\n"
    )
    with caplog.at_level(logging.WARNING):
        reference = ingest(write("c.csv", content))
    profile = reference.read_model(CorpusProfile)
    assert profile.rejected_by_class == {"undecodable": {"spam": 6, "ham": 1}}
    assert (
        "rows rejected as undecodable fall on the class 'spam': 30.0% of its rows, 0.2% of those of the other classes"
        in caplog.messages
    )
    assert any(m.startswith("7 rows are rejected as undecodable: set corpus.encoding=cp1252") for m in caplog.messages)
