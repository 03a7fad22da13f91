"""`gloveflow models`: what it prints, its codes, and that it changes the registry."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from flows.cli.main import run_command
from flows.cli.model_tables import describe_age
from tests.flows.conftest import copy_finished

MODEL = "gloveflow-tiny"
TINY = ["--set", "name=tiny"]


@pytest.fixture
def store(finished: Any, artifacts: Path) -> Path:
    """A copy of the finished run's artifacts, with its version registered a second time."""
    copy_finished(finished[0], artifacts)
    from tasks.tracking.server import open_client

    client = open_client()
    version = client.get_model_version(MODEL, "1")
    client.create_model_version(
        MODEL, version.source, version.run_id, tags=version.tags, model_id=version.source.rpartition("/")[2]
    )
    return artifacts


def ask(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert run_command(["models", *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def without_ages(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows without what changes from one second to the next."""
    return [{key: value for key, value in row.items() if key != "age_seconds"} for row in rows]


def test_the_list_needs_neither_mlflow_nor_anything_else_heavy(store: Path, finished: Any) -> None:
    source = (
        "import sys\nfrom flows.cli.main import run_command\nrun_command(['models'])\n"
        "print([name for name in ('torch', 'mlflow', 'prefect', 'pandas', 'pyarrow', 'pydantic', 'numpy', 'sqlalchemy') "
        "if name in sys.modules])"
    )
    output = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True).stdout
    name, head, first, *lines, modules = output.splitlines()
    assert (name, head.split()) == (MODEL, ["version", "accuracy", "macro", "F1", "age", "outcome", "aliases"])
    scores = finished[1].test_scores["LSTM + linear"]
    assert first.split()[:3] == ["1", f"{scores.accuracy:.4f}", f"{scores.macro_f1:.4f}"]
    assert first.endswith("challenger, champion")
    said = {line.split()[0]: line.split(maxsplit=1)[1] for line in lines if ":" in line[:20]}
    assert said["corpus:"].startswith("corpus.csv ")
    assert said["gate:"] == "champion: no version had this alias"
    assert finished[1].verdict[0].text.startswith(said["verdict:"].partition(";")[0])
    assert max(map(len, output.splitlines()[:-1])) <= 80
    assert modules == "[]"


def test_everything_that_can_be_done_to_versions(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = ask(capsys, "list", "--model", MODEL)
    assert [(row["version"], row["aliases"]) for row in listed] == [(1, ["challenger", "champion"]), (2, [])]
    assert without_ages(ask(capsys, "--model", MODEL)) == without_ages(ask(capsys))
    shown = ask(capsys, "show", "2", *TINY)
    assert (shown["version"], shown["files"]) == (2, "intact")
    assert "| LSTM |" in ask(capsys, "show", "1", *TINY)["description"]
    compared = ask(capsys, "compare", "1", "2", "--model", MODEL)
    assert (compared["settings"], compared["notes"]) == ({}, [])
    assert compared["answers"]["different"] == 0
    assert compared["answers"]["right"]["both"] == compared["answers"]["documents"] > 10
    assert compared["vocabulary"]["only a"] == 0
    assert compared["answers"]["paired"]["accuracy"]["value"] == 0
    assert {part["feature"] for part in compared["answers"]["slices"]} == {"length", "class"}
    assert "already" in ask(capsys, "promote", "1", *TINY, "--why", "x")["done"]
    assert "which is now previous" in ask(capsys, "promote", "2", *TINY, "--why", "it is newer")["done"]
    assert ask(capsys, "show", "2", *TINY)["changes"][-1]["why"] == "it is newer"
    assert "again" in ask(capsys, "rollback", *TINY)["done"]
    assert "is deleted" in ask(capsys, "delete", "2", *TINY)["done"]
    assert [row["version"] for row in ask(capsys)] == [1]


def test_answers_to_a_file_are_compared(store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("text,truth\nthe goal of the match,sports\nrain and wind,food\n")
    arguments = ["models", "compare", "1", "2", *TINY, "--file", str(file), "--label", "truth"]
    assert run_command(arguments) == 0
    output = capsys.readouterr().out
    assert "2 documents, 0 with different answers" in " ".join(output.split())
    assert "right: both 1, only 1 0, only 2 0, neither 1" in output
    assert "accuracy     +0.0   +0.0 to +0.0" in output
    assert max(len(line) for line in output.splitlines() if str(tmp_path) not in line) <= 80


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["promote", "9", *TINY, "--why", "x"], 2, f"{MODEL}: no version 9"),
        (["show", "9", *TINY], 2, f"{MODEL}: no version 9"),
        (["compare", "1", "9", *TINY], 2, f"{MODEL}: no version 9"),
        (["delete", "1", *TINY], 2, "version 1 has the alias challenger, champion"),
        (["rollback", *TINY], 2, "no version has the alias previous"),
        (["approve", "2", *TINY, "--why", "x"], 2, f"{MODEL} version 2 does not wait for an approval"),
        (["reject", "9", *TINY, "--why", "x"], 2, f"{MODEL}: no version 9"),
        (["show", "1", "--model", "unknown"], 2, "unknown: no such registered model"),
        (["--model", "unknown"], 2, "unknown: no such registered model"),
        (["--model", "a/b"], 2, "--model: should begin with a letter or digit"),
        (["show", "1", "--model", "'; --"], 2, "--model: should begin with a letter or digit"),
    ],
)
def test_mistakes_get_a_message(
    store: Path, arguments: list[str], code: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["models", *arguments]) == code
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["promote", "1"],
        ["approve", "1"],
        ["promote", "1", "--why", " "],
        ["show", "0"],
        ["show", "latest"],
        ["delete", "-1"],
    ],
)
def test_a_wrong_command_line_ends_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        run_command(["models", *arguments])
    assert ended.value.code == 2
    assert "gloveflow models" in capsys.readouterr().err


def test_without_a_registry_the_list_says_so_and_makes_none(
    artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["models"]) == 0
    assert capsys.readouterr().out == "no model is registered here; `gloveflow run` registers one\n"
    assert not artifacts.exists()


@pytest.mark.parametrize("command", [["predict", "a text"], ["score", "x.csv"]])
@pytest.mark.parametrize("alias", ["latest", "v3", "a/b", "Champion", "'"])
def test_an_alias_of_the_command_line_follows_the_rules_of_the_configuration(
    command: list[str], alias: str, artifacts: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command([*command, "--alias", alias]) == 2
    assert f"--alias: should {'begin' if alias not in ('latest', 'v3') else 'not be latest'}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("seconds", "age"), [(0, "0 s"), (-5, "0 s"), (119, "119 s"), (120, "2 min"), (7200, "2 h"), (200000, "2 d")]
)
def test_an_age_has_one_unit(seconds: float, age: str) -> None:
    assert describe_age(seconds) == age
