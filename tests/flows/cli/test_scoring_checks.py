"""What is found before a scoring starts a server."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from flows.cli.scoring_checks import check_scoring
from pipeline_config.errors import ConfigError, GloveflowError, InputError, ServiceError, StoreError, UnusableModelError
from tests.flows.conftest import copy_finished

OPTIONS: dict[str, Any] = {
    "model": "gloveflow-tiny",
    "alias": "champion",
    "version": None,
    "changes": {},
    "query": None,
    "table": None,
    "threshold": None,
    "top_k": None,
    "explain": 5,
}


def check(root: Path, source: Path, output: str, **changes: Any) -> None:
    check_scoring(root, [str(source)], output, **{**OPTIONS, **changes})


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "in.csv"
    path.write_text("id,text\n1,rain\n")
    return path


@pytest.fixture
def root(finished: tuple[Path, Any]) -> Path:
    return finished[0]


def test_what_can_be_scored_passes(root: Path, source: Path, tmp_path: Path) -> None:
    check(root, source, f"{tmp_path}/out.csv")
    check(root, source, f"{tmp_path}/out.csv", version=1)
    assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


@pytest.mark.parametrize(
    ("output", "changes", "error", "message"),
    [
        ("out.xls", {}, InputError, r"expected a name that ends in"),
        ("absent/out.csv", {}, StoreError, r"cannot be written"),
        ("in.csv", {}, InputError, r"expected another file than the input"),
        ("out.csv", {"threshold": 2.0}, ConfigError, r"--threshold: expected a probability"),
        ("out.csv", {"explain": 101}, ConfigError, r"--explain: expected a number of tokens from 1 to 100, got 101"),
        ("out.csv", {"changes": {"no": 1}}, ConfigError, r"corpus\.no: "),
        ("out.csv", {"changes": {"text_column": ("words",)}}, InputError, r"expected a column 'words', got columns"),
        (
            "out.csv",
            {"alias": "nobody"},
            ServiceError,
            r"models:/gloveflow-tiny@nobody: no version has this alias; there are chal",
        ),
        ("out.csv", {"version": 77}, ServiceError, r"models:/gloveflow-tiny/77: no such version"),
    ],
)
def test_mistakes_are_told(
    output: str, changes: dict[str, Any], error: type[GloveflowError], message: str, root: Path, source: Path
) -> None:
    with pytest.raises(error, match=message):
        check(root, source, f"{source.parent}/{output}", **changes)


def test_a_model_that_explains_nothing_is_told(
    root: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.cli.scoring_checks.PART", "of_another_release")
    with pytest.raises(InputError, match="--explain: models:/gloveflow-tiny/1 was registered by a release"):
        check(root, source, f"{tmp_path}/out.csv", version=1)
    check(root, source, f"{tmp_path}/out.csv", version=1, explain=None)


def test_a_changed_file_of_the_model_is_told(root: Path, source: Path, tmp_path: Path) -> None:
    copy_finished(root, tmp_path / "copy")
    database = tmp_path / "copy" / "mlflow" / "mlflow.db"
    (description,) = (path for path in (tmp_path / "copy").rglob("bundle/model.json"))
    description.write_text(json.dumps({}))
    with closing(sqlite3.connect(database)) as connection, connection:
        connection.execute("UPDATE model_versions SET storage_location = ?", (description.parents[2].as_uri(),))
    with pytest.raises(
        UnusableModelError, match=r"bundle/model\.json was changed after it was registered\. To mend it"
    ):
        check(tmp_path / "copy", source, f"{tmp_path}/out.csv")
