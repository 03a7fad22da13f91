"""Monitoring: scored texts against the held-out documents of the version."""

import json
import random
from pathlib import Path
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from flows.cli.main import run_command
from flows.monitoring import monitor_texts
from flows.scoring import score_file
from pipeline_config.operation import MonitoringConfig
from tasks.tracking.scorings import list_runs
from tasks.tracking.server import open_client

MODEL = "gloveflow-tiny"


def write_texts(path: Path, words: list[str], count: int, seed: int) -> Path:
    """Write texts of eight words with ids, as CSV."""
    draw = random.Random(seed)
    rows = [f"{seed}-{number},{' '.join(draw.choices(words, k=8))}\n" for number in range(count)]
    path.write_text("".join(["id,text\n", *rows]))
    return path


def score(path: Path) -> None:
    score_file(source=str(path), output=str(path.with_suffix(".parquet")), model=MODEL, version=1)


@pytest.mark.usefixtures("on_copy")
def test_other_texts_are_a_change_that_words_and_texts_show_and_the_next_window_begins_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("tasks.monitoring.drift.FEWEST", 10)
    monkeypatch.setattr("flows.cli.session.run_flow", lambda _root, load, **parameters: load()(**parameters))
    strange = ["payment", "refund", "branch", "account"]
    score(write_texts(tmp_path / "strange.csv", strange, 60, seed=1))
    first = monitor_texts(model=MODEL, alias="challenger")
    assert (first.outcome, first.texts, first.retrain) == ("changed", 60, False)
    assert any("'refund' (" in finding and "instead of 0.0%" in finding for finding in first.findings)
    page = Path(first.report).read_text("utf-8")
    assert "They cannot see that labels have changed their meaning" in page
    assert all(f">{word}</td>" in page for word in strange)
    texts = [line.partition(",")[2] for line in (tmp_path / "strange.csv").read_text().splitlines()]
    assert sum(text in page for text in texts) >= 10
    (run,) = list_runs("monitoring", MODEL, 1)
    assert run.metrics["changed"] == 1.0
    assert run.metrics["p_value/words"] <= 0.005
    assert {file.path for file in open_client().list_artifacts(run.run_id)} == {"report.html", "sample.parquet"}
    with get_client(sync_client=True) as prefect:
        identity = UUID(run.tags["prefect.flow_run_id"])
        found = prefect.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[identity]))
        )
    data = {artifact.key: artifact.data for artifact in found}
    assert "'refund'" in data["monitoring"].replace("\\", "")
    assert {row["measure"] for row in json.loads(data["monitoring-tests"])} >= {"words", "labels", "lengths"}

    command = ["--model", MODEL, "--alias", "challenger"]
    assert run_command(["monitor", *command, "--days", "1"]) == 0
    look = capsys.readouterr().out
    assert look.startswith("gloveflow-tiny version 1, 60 texts: changed\n  - At least ")
    assert "retraining not recommended: 1 window in a row changed; 2 would be a reason" in look
    assert all(len(line) <= 80 or "  report" in line or "  MLflow" in line for line in look.splitlines())
    nothing = monitor_texts(model=MODEL, alias="challenger")
    assert (nothing.outcome, nothing.texts) == ("too_few", 0)
    score(write_texts(tmp_path / "again.csv", strange, 50, seed=2))
    answers = pq.read_table(tmp_path / "strange.parquet").to_pylist()[:40]
    rows = [f"{row['id']},{row['label'] if number < 30 else 'food'}" for number, row in enumerate(answers)]
    right = 30 + sum(row["label"] == "food" for row in answers[30:])
    (tmp_path / "labels.csv").write_text("\n".join(["id,label", *rows, "unknown,food"]) + "\n")
    assert run_command(["labels", str(tmp_path / "labels.csv"), *command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["metrics"]
    assert (found["labelled"], found["unmatched"], found["accuracy"]) == (40, 1, right / 40)
    (tmp_path / "again.parquet").unlink()
    rule = MonitoringConfig(cool_down_days=0, new_labels=40)
    again = monitor_texts(model=MODEL, alias="challenger", rule=rule)
    assert (again.outcome, again.texts) == ("changed", 50)
    assert (again.retrain, again.reason) == (
        True,
        "2 windows in a row changed, and 40 new labels arrived: retrain with them",
    )
    page = Path(again.report).read_text("utf-8")
    assert "The 50 texts of the window are like the window before" in page
    assert "so no text can be shown" in page


@pytest.mark.usefixtures("on_copy")
def test_labels_of_texts_that_were_never_scored_are_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "labels.csv").write_text("id,label\n1,food\n")
    assert run_command(["labels", str(tmp_path / "labels.csv"), "--model", MODEL, "--alias", "challenger"]) == 3
    assert "none of its 1 labels is of a text that gloveflow-tiny version 1 has scored" in capsys.readouterr().err
