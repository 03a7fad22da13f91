"""Whole commands on artifacts that were moved, copied, or are reached by a link."""

import shutil
from pathlib import Path
from typing import Any

from tasks.store.databases import connected
from tasks.tracking.database import list_foreign_places
from tests.flows.conftest import copy_finished
from tests.small_run import CommandLine, set_options

TEXTS = ["the goal of the match", "rain and wind and cloud", "bread"]


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def files(root: Path) -> list[Path]:
    """Return all files but databases, in which replaced text may stand in unused pages."""
    return [path for path in root.rglob("*") if path.is_file() and ".db" not in path.name]


def ask(root: Path, server: str) -> list[str]:
    code, output = CommandLine(root, server).run("predict", "--json", "--set", "name=tiny", *TEXTS)
    assert code == 0, output
    return [line for line in output.splitlines() if line.startswith("{")]


def test_commands_answer_the_same_and_write_in_their_own_place_alone(
    finished: Any, overrides: list[str], prefect_server: str, tmp_path: Path
) -> None:
    first, second, copied, link = (tmp_path / name for name in ("A", "B", "C", "link"))
    copy_finished(finished[0], first)
    first.rename(second)
    options = ["--preset", "smoke", *set_options(overrides)]
    expected = ask(second, prefect_server)
    assert not first.exists()
    shutil.copytree(second, copied, symlinks=True)
    link.symlink_to(copied)
    before, stages = snapshot(second), len(finished[1].store)
    code, output = CommandLine(link, prefect_server).run("run", *options)
    assert code == 0, output
    assert f"{stages} of {stages} stages cached" in output
    assert "(this model is registered already, no new version)" in output
    assert ask(copied, prefect_server) == expected
    assert snapshot(second) == before
    assert not first.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["B", "C", "link"]
    assert [path for path in files(copied) if str(finished[0]).encode() in path.read_bytes()] == []
    with connected(copied / "mlflow" / "mlflow.db") as database:
        assert str(finished[0]) not in "\n".join(database.iterdump())
    assert list_foreign_places(copied / "mlflow" / "mlflow.db", copied) == []
    assert list_foreign_places(copied / "mlflow" / "mlflow.db", second) != []
