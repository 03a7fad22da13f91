"""The forms in which directories hold corpora, as people publish them."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig
from tasks.reading.formats import read_blocks
from tasks.reading.sources import CorpusRef, locate_corpus

Writer = Callable[..., Path]
CSV = b"text,label\none,a\n"


def locate(source: object, **options: object) -> CorpusRef:
    return locate_corpus(CorpusConfig(source=str(source), **options))


def splits(source: Path, **options: object) -> list[tuple[str, str | None]]:
    return [(str(Path(file.path).relative_to(source)), file.split) for file in locate(source, **options).files]


def read(source: Path, **options: object) -> list[tuple[str | None, str, str | None]]:
    """Return split, text and label of every row."""
    config = CorpusConfig(source=str(source), **options)
    rows = []
    for file in locate_corpus(config).files:
        for block in read_blocks(Path(file.path), file.kind, config.reading, file.constants):
            rows += [(file.split, row["text"], row["label"]) for row in block.to_pylist()]
    return rows


def test_the_folders_of_imdb_are_splits_with_classes_and_unlabelled_texts(write: Writer, tmp_path: Path) -> None:
    for name in (
        "train/pos/0_9.txt",
        "train/neg/0_1.txt",
        "train/unsup/0_0.txt",
        "test/pos/0_8.txt",
        "test/neg/0_2.txt",
    ):
        write(f"aclImdb/{name}", name.encode())
    for name in ("imdb.vocab", "README", "train/urls_pos.txt", "train/labeledBow.feat"):
        write(f"aclImdb/{name}", b"no document")
    assert sorted(read(tmp_path / "aclImdb"), key=str) == [
        ("test", "test/neg/0_2.txt", "neg"),
        ("test", "test/pos/0_8.txt", "pos"),
        ("train", "train/neg/0_1.txt", "neg"),
        ("train", "train/pos/0_9.txt", "pos"),
        ("train", "train/unsup/0_0.txt", None),
    ]


def test_the_folders_of_20news_are_splits(write: Writer, tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(f"d/20news-bydate-{split}/sci.med/59000", split.encode())
    assert read(tmp_path / "d") == [("test", "test", "sci.med"), ("train", "train", "sci.med")]


@pytest.mark.parametrize("inside", ["", "data/", "default/data/"])
def test_the_files_of_the_hugging_face_hub_are_splits(write: Writer, tmp_path: Path, inside: str) -> None:
    for name, label in (("train-00000-of-00001", 1), ("test-00000-of-00001", 0), ("unsupervised-00000-of-00001", -1)):
        path = write(f"hub/{inside}{name}.parquet")
        pq.write_table(pa.table({"text": [name[:5]], "label": [label]}), path)
    write("hub/README.md", b"no data")
    assert read(tmp_path / "hub") == [("test", "test-", "0"), ("train", "train", "1"), ("train", "unsup", None)]


def test_folders_that_name_a_column_give_its_value(write: Writer, tmp_path: Path) -> None:
    write("d/label=pos/part-0.csv", b"text\none\n")
    write("d/label=a%20b/part-0.csv", b"text\ntwo\n")
    write("d/label=__HIVE_DEFAULT_PARTITION__/part-0.csv", b"text\nthree\n")
    assert read(tmp_path / "d") == [(None, "three", None), (None, "two", "a b"), (None, "one", "pos")]


def test_folders_that_name_two_columns_give_both_values(write: Writer, tmp_path: Path) -> None:
    write("d/part=test/label=pos/x.csv", b"text\none\n")
    config = CorpusConfig(source=str(tmp_path / "d"), split_column="part")
    file = locate_corpus(config).files[0]
    (block,) = read_blocks(Path(file.path), file.kind, config.reading, file.constants)
    assert block.select(["text", "label", "split"]).to_pylist() == [{"text": "one", "label": "pos", "split": "test"}]


@pytest.mark.parametrize(
    ("train", "validation", "test"),
    [
        ("train.csv", "validation.csv", "test.csv"),
        ("training.csv", "dev.csv", "testing.csv"),
        ("my-train-set.csv", "my-valid-set.csv", "my-test-set.csv"),
        ("Train.csv", "eval.csv", "TEST.csv"),
        ("train/a.csv", "val/a.csv", "test/a.csv"),
    ],
)
def test_splits_have_common_spellings(write: Writer, tmp_path: Path, train: str, validation: str, test: str) -> None:
    for name in (train, validation, test):
        write(f"d/{name}", CSV)
    expected = {train: "train", validation: "validation", test: "test"}
    assert dict(splits(tmp_path / "d")) == expected
    if "/" not in train:
        assert [file.split for file in locate(tmp_path / "d" / "*.csv").files] == [
            expected[n] for n in sorted(expected)
        ]


def test_names_are_splits_only_if_every_file_has_one(write: Writer, tmp_path: Path) -> None:
    for name in ("train.csv", "test.csv", "more.csv"):
        write(f"d/{name}", CSV)
    assert splits(tmp_path / "d") == [("more.csv", None), ("test.csv", None), ("train.csv", None)]


def test_the_name_of_one_file_is_no_split(write: Writer) -> None:
    assert [file.split for file in locate(write("train.csv", CSV)).files] == [None]


def test_a_folder_beside_splits_that_is_none_is_refused(write: Writer, tmp_path: Path) -> None:
    for name in ("train", "held_back"):
        write(f"d/{name}/pos/1.txt", b"x")
    with pytest.raises(
        InputError, match=r"whose name says its split, .* such as train, training, .*, got 'held_back'$"
    ):
        locate(tmp_path / "d")
    write("e/one/pos/1.txt", b"x")
    write("e/two/pos/1.txt", b"x")
    with pytest.raises(InputError, match=r"expected folders of classes, or of splits .* inside: one, two$"):
        locate(tmp_path / "e")


def test_classes_may_be_called_train_and_test(write: Writer, tmp_path: Path) -> None:
    for name in ("train", "car", "test"):
        write(f"d/{name}/1.txt", name.encode())
    assert read(tmp_path / "d") == [(None, "car", "car"), (None, "test", "test"), (None, "train", "train")]


def test_the_digest_tells_splits_and_constants_apart(write: Writer, tmp_path: Path) -> None:
    for folder, name in (
        ("a", "train.csv"),
        ("b", "test.csv"),
        ("c", "x.csv"),
        ("d", "label=p/x.csv"),
        ("e", "label=q/x.csv"),
    ):
        write(f"{folder}/{name}", CSV)
    assert len({locate(tmp_path / folder).digest for folder in "abcde"}) == 5
