"""`gloveflow gc`, `backup` and `restore` as commands, on a finished run's artifacts."""

import argparse
import io
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from flows.cli import cleaning
from flows.cli.cleaning import _age, list_foreign, list_items
from flows.cli.main import run_command
from pipeline_config.operation import HousekeepingConfig
from pipeline_config.settings import PipelineConfig
from tasks.housekeeping.selection import Item
from tests.flows.conftest import copy_finished

TEXTS = ["the goal of the match", "rain and wind and cloud", "bread"]


@pytest.fixture
def store(finished: tuple[Path, Any], artifacts: Path, prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the finished run's artifacts with old things beside it."""
    monkeypatch.setenv("PREFECT_API_URL", prefect_api)
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    copy_finished(finished[0], artifacts)
    for name in ("moved-aside/x/old", "downloads/query-01.parquet", "checkpoints/train_classifier/ab/old"):
        (artifacts / name).parent.mkdir(parents=True)
        (artifacts / name).write_bytes(bytes(1 << 20))
    for path in artifacts.rglob("*"):
        os.utime(path, (1e9, 1e9))
    return artifacts


def answers(root: Path, capsys: pytest.CaptureFixture[str]) -> list[Any]:
    capsys.readouterr()
    assert run_command(["predict", "--artifacts", str(root), "--json", "--set", "name=tiny", *TEXTS]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def files(root: Path) -> list[str]:
    names = ("store", "mlflow/files", "reports", "moved-aside", "downloads", "checkpoints")
    return sorted(str(path) for name in names for path in (root / name).rglob("*") if path.is_file())


def test_gc_shows_first_then_deletes_and_the_champion_answers_the_same(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected, before = answers(store, capsys), files(store)
    capsys.readouterr()
    assert run_command(["gc", "--older-than", "0d", "--keep", "0", "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "moved aside                       1        1.0" in shown
    assert "registered versions               0        0.0           1" in shown
    assert "on the server that PREFECT_API_URL names, without --servers" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert run_command(["gc"]) == 2
    assert "standard input is no terminal; add --yes" in capsys.readouterr().err
    assert files(store) == before
    assert run_command(["gc", "--keep", "1", "--yes"]) == 0
    assert "deleted 3 of 3: 3.0 MB" in capsys.readouterr().out
    assert [name for name in before if name not in files(store)] == [
        name for name in before if name.endswith(("old", "query-01.parquet"))
    ]
    assert answers(store, capsys) == expected
    assert run_command(["gc", "--yes"]) == 0
    assert "there is nothing to delete" in capsys.readouterr().out


def test_a_backup_restored_elsewhere_lists_and_answers_the_same(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (store / "prefect").mkdir(exist_ok=True)
    (store / "prefect" / "auth-string").write_text("gloveflow:canary")
    expected, target, place = answers(store, capsys), tmp_path / "b.tar.gz", tmp_path / "elsewhere"
    assert run_command(["backup", str(target)]) == 0
    assert run_command(["restore", str(target), "--artifacts", str(place)]) == 0
    assert not (place / "prefect" / "auth-string").exists()
    assert answers(place, capsys) == expected
    listed = []
    for root in (store, place):
        assert run_command(["models", "--json", "--artifacts", str(root)]) == 0
        listed.append(json.loads(capsys.readouterr().out))
    assert listed[0] == listed[1]
    assert run_command(["restore", str(target), "--artifacts", str(place)]) == 3
    assert "is not empty" in capsys.readouterr().err
    assert run_command(["restore", str(tmp_path / "none"), "--artifacts", str(tmp_path / "new")]) == 3
    assert not (tmp_path / "new").exists()


def test_a_directory_that_does_not_exist_is_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "none"
    for command in (["gc"], ["backup", str(tmp_path / "b")]):
        assert run_command([*command, "--artifacts", str(place)]) == 2
        assert "no such artifacts directory" in capsys.readouterr().err
    assert not place.exists()


@pytest.mark.parametrize(
    ("text", "seconds"), [("30d", 2592000), ("12h", 43200), ("2w", 1209600), ("0d", 0), ("90m", 5400)]
)
def test_an_age_is_a_number_with_a_unit(text: str, seconds: float) -> None:
    assert _age(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "d", "-1d", "1y", "1d2h"])
def test_another_age_is_refused(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="such as 30d"):
        _age(text)


def test_the_table_has_a_line_for_each_kind_and_fits() -> None:
    items = [Item("a", "x", 3 << 20, lambda: True), Item("a", "y", 1 << 20), Item("MLflow runs, with models", "z", 0)]
    lines = list_items(items)
    assert [line.split() for line in lines[1:]] == [
        ["a", "1", "3.0", "1", "1.0"],
        ["MLflow", "runs,", "with", "models", "0", "0.0", "1", "0.0"],
        ["all", "1", "3.0", "2", "1.0"],
    ]
    assert {len(line) for line in lines} == {69}


def test_servers_of_these_artifacts_are_not_the_users(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:7/api")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert list_foreign(tmp_path) == ["MLFLOW_TRACKING_URI", "PREFECT_API_URL"]
    monkeypatch.setattr("flows.cli.server_records.read_servers", lambda _: {"prefect": "http://127.0.0.1:7"})
    assert list_foreign(tmp_path) == ["MLFLOW_TRACKING_URI"]


def test_serve_cleans_at_once_and_then_from_time_to_time_and_survives_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    codes, enough = iter([0, 5]), threading.Event()

    def start(_config: PipelineConfig, _root: Path) -> "subprocess.Popen[str]":
        code = next(codes, None)
        if code is None:
            enough.set()
        source = f"print('first'); print('last line'); raise SystemExit({code or 0})"
        return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)

    monkeypatch.setattr(cleaning, "start_cleaning", start)
    config = PipelineConfig(housekeeping=HousekeepingConfig.model_construct(every_hours=1e-7))
    with caplog.at_level("INFO", logger="flows"), cleaning.cleaning(config, tmp_path):
        assert enough.wait(60)
    assert "gloveflow gc: last line" in caplog.text
    assert "gloveflow gc failed with code 5; it is tried again at the next time: last line" in caplog.text
    with cleaning.cleaning(PipelineConfig(), tmp_path):
        assert not [thread for thread in threading.enumerate() if thread.name == "cleaning"]
