"""Where a scoring writes: forms, places, what is refused, what is left over."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import ConfigError, GloveflowError, InputError, ServiceError, StoreError
from pipeline_config.operation import Runtime
from tasks.reading import byte_stream
from tasks.scoring import chunks
from tasks.scoring.outputs import Output, parse_output
from tasks.scoring.request import Request, ScoringResult
from tasks.scoring.score_texts import check_request, score_files
from tasks.scoring.work import has_work
from tests.campaigns.scored_files import ById, make_model


@pytest.fixture
def source(tmp_path: Path, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 1)
    monkeypatch.setattr(byte_stream, "BLOCK_BYTES", 1)  # a block per row
    path = tmp_path / "in.parquet"
    table = pa.table(
        {
            "text": ["#0# x", "", "#2# y"],
            "n": pa.array([2**60 + 1, None, 3]),
            "x": [float("nan"), 0.1, None],
            "tags": [["a"], [], None],
            "day": pa.array([0, None, 1], pa.date32()),
            "version": ["of mine", None, ""],
        }
    )
    pq.write_table(table, path)
    return path


def score(
    source: Path, output: str, table: str | None = None, *, explain: int | None = None, runtime: Runtime = "torch"
) -> ScoringResult:
    request = Request([str(source)], parse_output(output, table), explain=explain, runtime=runtime)
    check_request(request)
    return score_files(request, make_model()._replace(runtime=runtime), Reading())


@pytest.fixture
def memory(artifacts: Path) -> Iterator[fsspec.AbstractFileSystem]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("/a/b.parquet", Output("parquet", "/a/b.parquet")),
        ("/a/b.CSV", Output("csv", "/a/b.CSV")),
        ("s3://bucket/b.ndjson", Output("jsonl", "s3://bucket/b.ndjson")),
        ("/a/b.d/", Output("directory", "/a/b.d")),
        ("/a/b", Output("directory", "/a/b")),
    ],
)
def test_the_name_says_the_form(name: str, expected: Output) -> None:
    assert parse_output(name) == expected


def test_the_files_beside_an_output_have_its_name() -> None:
    assert parse_output("/a/b.parquet").beside("rejected", ".csv") == "/a/b-rejected.csv"
    assert parse_output("/a/b.d/").beside("profile", ".parquet") == "/a/b.d-profile.parquet"


@pytest.mark.parametrize(
    ("name", "table", "error"),
    [
        ("/a/b.xls", None, InputError),
        ("/a/b.csv", "t", ConfigError),
        ("sqlite:///x.db", None, ConfigError),
        ("reference://x/b.csv", None, InputError),
    ],
)
def test_what_cannot_be_an_output_is_refused(name: str, table: str | None, error: type[GloveflowError]) -> None:
    with pytest.raises(error):
        parse_output(name, table)


def test_json_lines_keep_numbers_and_have_null_for_what_is_none(source: Path, tmp_path: Path) -> None:
    score(source, f"{tmp_path}/out.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    own = {
        "score": 0.4,
        "p_a": 0.4,
        "p_b": pytest.approx(0.3),
        "p_c": pytest.approx(0.3),
        "model": "by-id",
        "version": "1",
    }
    assert rows[0] == {
        "text": "#0# x",
        "n": 2**60 + 1,
        "x": None,
        "tags": ["a"],
        "day": "1970-01-01",
        "input_version": "of mine",
        "label": "a",
        **own,
    }
    assert (rows[1]["n"], rows[1]["label"], rows[2]["tags"]) == (None, None, None)


def test_a_directory_of_parts_is_replaced_by_another_and_nothing_else_is_touched(source: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for _ in range(2):
        score(source, f"{output}/")
        assert [path.name for path in sorted(output.iterdir())] == [f"part-0000{n}.parquet" for n in range(3)]
    assert pq.read_table(output)["n"].to_pylist() == [2**60 + 1, None, 3]
    assert sorted(p.name for p in tmp_path.glob("*out*")) == ["out", "out-profile.parquet", "out-rejected.csv"]
    (output / "mine.txt").touch()
    with pytest.raises(StoreError, match=r"got one that holds mine\.txt"):
        score(source, f"{output}/")


@pytest.mark.parametrize("name", ["scored/out.parquet", "scored/out/"])
def test_a_remote_output_has_the_bytes_of_a_local_one(
    name: str, source: Path, tmp_path: Path, memory: fsspec.AbstractFileSystem
) -> None:
    (tmp_path / "scored").mkdir()
    local = score(source, f"{tmp_path}/{name}")
    for _ in range(2):
        assert score(source, f"memory://{name}").digest == local.digest
        found = {path.removeprefix("/"): content.getvalue() for path, content in memory.store.items()}
        files = [path for path in tmp_path.glob("scored/**/*") if path.is_file()]
        assert found == {str(path.relative_to(tmp_path)): path.read_bytes() for path in files}


def test_a_remote_file_system_that_refuses_is_told_before(
    source: Path, memory: fsspec.AbstractFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no rights")

    monkeypatch.setattr(type(memory), "pipe_file", refuse)
    with pytest.raises(ServiceError, match=r"--output: memory://a/out\.csv: cannot be written: no rights"):
        score(source, "memory://a/out.csv")


def test_a_table_gets_all_rows_and_is_not_replaced(source: Path, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/out.sqlite"
    result = score(source, url, "scored")
    assert result.rejected_output == "scored_rejected"
    with closing(sqlite3.connect(tmp_path / "out.sqlite")) as database:
        rows = database.execute("SELECT text, n, tags, day, input_version, label FROM scored").fetchall()
        assert database.execute("SELECT line, reason FROM scored_rejected").fetchall() == [(2, "empty_text")]
        assert database.execute("SELECT count FROM scored_profile WHERE value = 'a'").fetchall() == [(1,)]
    assert rows == [
        ("#0# x", 2**60 + 1, '["a"]', "1970-01-01", "of mine", "a"),
        ("", None, "[]", None, None, None),
        ("#2# y", 3, None, "1970-01-02", "", "c"),
    ]
    with pytest.raises(InputError, match="expected a new table, got scored"):
        score(source, url, "scored")


def test_a_table_that_was_written_right_before_the_end_of_the_process_is_taken_as_it_is(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path}/out.sqlite"
    with monkeypatch.context() as patch:
        patch.setattr("tasks.scoring.work.shutil.rmtree", lambda *_, **__: None)
        first = score(source, url, "scored")
    assert has_work(parse_output(url, "scored").shown)
    second = score(source, url, "scored")
    assert (first.rows, second.rows, second.resumed_rows) == (3, 3, 3)
    assert not has_work(parse_output(url, "scored").shown)


def test_a_database_that_cannot_be_opened_is_told_before(source: Path, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="cannot be written: unable to open database file"):
        score(source, f"sqlite:///{tmp_path}/absent/out.sqlite", "scored")


def test_a_damaged_chunk_is_computed_again(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, classify = f"{tmp_path}/out.parquet", ById.classify

    def fail_at_the_third(self: ById, prepared: object) -> object:
        if "#2# y" in prepared.texts:  # type: ignore[attr-defined]
            raise ServiceError("the end")
        return classify(self, prepared)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(ById, "classify", fail_at_the_third)
        with pytest.raises(ServiceError, match="the end"):
            score(source, output)
    assert not Path(output).exists()
    (damaged,) = (path for path in (tmp_path / "artifacts").rglob("000000-rows"))
    damaged.write_bytes(damaged.read_bytes()[:-1])
    result = score(source, output)
    assert (result.rows, result.resumed_rows) == (3, 1)
    assert pq.read_table(output)["label"].to_pylist() == ["a", None, "c"]
    assert not list((tmp_path / "artifacts").rglob("*-rows"))


def test_another_input_begins_anew_and_removes_what_was_finished(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = f"{tmp_path}/out.parquet"
    with monkeypatch.context() as patch:
        patch.setattr("tasks.scoring.score_texts._publish", lambda *_: (_ for _ in ()).throw(OSError("a disk")))
        with pytest.raises(OSError, match="a disk"):
            score(source, output)
    pq.write_table(pq.read_table(source).slice(0, 2), source)
    result = score(source, output)
    assert (result.rows, result.resumed_rows) == (2, 0)


@pytest.mark.parametrize(("options", "resumed"), [({}, 3), ({"explain": 3}, 0), ({"runtime": "onnx"}, 0)])
def test_other_explanations_or_another_runtime_begin_anew(
    options: dict[str, Any], resumed: int, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, first = f"{tmp_path}/out.parquet", {"explain": 2, "runtime": "torch"}
    monkeypatch.setattr("tasks.scoring.score_texts.require_onnx", lambda _: None)
    with monkeypatch.context() as patch:
        patch.setattr("tasks.scoring.score_texts._publish", lambda *_: (_ for _ in ()).throw(OSError("a disk")))
        with pytest.raises(OSError, match="a disk"):
            score(source, output, **first)  # type: ignore[arg-type]
    assert score(source, output, **{**first, **options}).resumed_rows == resumed


def test_a_model_that_explains_nothing_is_refused_by_name(source: Path, tmp_path: Path) -> None:
    request = Request([str(source)], parse_output(f"{tmp_path}/out.csv"), explain=5)
    with pytest.raises(InputError, match="--explain: models:/by-id/1 was registered by a release"):
        score_files(request, make_model()._replace(explains=False), Reading())


def test_a_runtime_that_is_not_installed_is_told_before(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.scoring.onnx_packages.PACKAGES", ("numpy", "onnx_of_nobody"))
    with pytest.raises(ConfigError, match=r"scoring\.runtime onnx: onnx_of_nobody not installed; `pip install"):
        score(source, f"{tmp_path}/out.csv", runtime="onnx")
