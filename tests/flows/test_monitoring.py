"""Monitoring: scored texts against the held-out documents of the version."""

import json
import random
from pathlib import Path
from uuid import UUID

import pytest
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from flows.monitoring import monitor_texts
from flows.scoring import score_file
from tasks.tracking.scorings import list_runs
from tasks.tracking.server import open_client

MODEL = "gloveflow-tiny"


def write_texts(path: Path, words: list[str], count: int, seed: int) -> Path:
    draw = random.Random(seed)
    path.write_text("".join(f"{' '.join(draw.choices(words, k=8))}\n" for _ in range(count)))
    return path


def score(path: Path) -> None:
    score_file(source=str(path), output=str(path.with_suffix(".parquet")), model=MODEL, version=1)


@pytest.mark.usefixtures("on_copy")
def test_other_texts_are_a_change_that_words_and_texts_show_and_the_next_window_begins_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.monitoring.drift.FEWEST", 10)
    strange = ["payment", "refund", "branch", "account"]
    score(write_texts(tmp_path / "strange.txt", strange, 60, seed=1))
    first = monitor_texts(model=MODEL, alias="challenger")
    assert (first.outcome, first.texts, first.retrain) == ("changed", 60, False)
    assert any("'refund' (" in finding and "instead of 0.0%" in finding for finding in first.findings)
    page = Path(first.report).read_text("utf-8")
    assert "They cannot see that labels have changed their meaning" in page
    assert all(f">{word}</td>" in page for word in strange)
    line = (tmp_path / "strange.txt").read_text().splitlines()
    assert sum(text in page for text in line) >= 10
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

    look = monitor_texts(model=MODEL, alias="challenger", days=1.0)
    assert (look.outcome, look.texts) == ("changed", 60)
    assert look.reason.startswith("1 window in a row changed")
    nothing = monitor_texts(model=MODEL, alias="challenger")
    assert (nothing.outcome, nothing.texts) == ("too_few", 0)
    score(write_texts(tmp_path / "again.txt", strange, 50, seed=2))
    (tmp_path / "again.parquet").unlink()
    again = monitor_texts(model=MODEL, alias="challenger")
    assert (again.outcome, again.texts) == ("changed", 50)
    assert "2 windows in a row changed, but the version is 0.0 days old" in again.reason
    page = Path(again.report).read_text("utf-8")
    assert "The 50 texts of the window are like the window before" in page
    assert "so no text can be shown" in page
