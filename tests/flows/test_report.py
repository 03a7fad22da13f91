"""The report that a run publishes."""

import stat
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from flows.outputs import RunOutputs
from flows.report import compare_with, describe_code, gather_evidence, write_whole
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.errors import StoreError
from pipeline_config.settings import PipelineConfig
from tasks.reporting.subject import Difference
from tasks.store.artifacts import find_output
from tasks.tracking import runs
from tasks.tracking.server import open_client


class Sections(HTMLParser):
    """The ids of the sections of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "section":
            self.found.append(dict(attrs)["id"])


def find_outputs(result: Any) -> RunOutputs:
    found = {stage: find_output(stage, Path(directory).name) for stage, directory in result.store.items()}
    return RunOutputs(*(output for output in found.values() if output is not None))


def test_a_run_leaves_the_same_page_in_the_artifacts_and_in_mlflow(on_finished: Any, finished: Any) -> None:
    path = Path(on_finished.report)
    registration = on_finished.registration
    assert path == finished[0] / "reports" / f"{registration.model}-{registration.version}.html"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    run_id = on_finished.mlflow_url.rpartition("/")[2]
    logged = Path(open_client().download_artifacts(run_id, "report.html"))
    assert logged.read_bytes() == path.read_bytes()
    found = Sections(path.read_text("utf-8")).found
    assert found[:2] == ["verdict", "decision"]
    assert {"scores", "classes", "confusion", "calibration", "slices", "training", "corpus", "coverage"} <= set(found)


def test_the_evidence_is_of_the_run_and_begins_with_the_classifier(on_finished: Any, config: PipelineConfig) -> None:
    outputs, registration = find_outputs(on_finished), on_finished.registration
    run = runs.TrackedRun("0", "1", on_finished.mlflow_url)
    evidence = gather_evidence(run, outputs, registration, config, {})
    metrics = outputs.evaluation.read_model(Metrics)
    assert metrics.candidate == "hybrid"
    expected = [
        ("LSTM + linear", metrics.test.hybrid),
        ("LSTM", metrics.test.lstm),
        ("linear model", metrics.test.baseline),
    ]
    assert list(evidence.scores.items()) == expected
    assert list(evidence.labels) == ["food", "sports", "weather"]
    assert evidence.decision == registration.decision
    assert list(evidence.comparisons) == []  # it is the first version
    compared = registration.model_copy(update={"comparison": evidence.analysis.comparisons[0]})
    again = gather_evidence(run, outputs, compared, config, {})
    assert list(again.comparisons) == [compared.comparison]
    assert len(evidence.lengths) == sum(evidence.profile.documents["train"].values())
    subject = evidence.subject
    assert (subject.model, subject.version) == (registration.model, registration.version)
    assert (subject.run_url, subject.corpus_digest) == (on_finished.mlflow_url, outputs.documents.digest)
    assert subject.code == describe_code()


def test_settings_that_differ_from_those_of_a_version_are_found(on_finished: Any, config: PipelineConfig) -> None:
    model, version = on_finished.registration.model, on_finished.registration.version
    assert compare_with(model, version, config) == ()
    training = config.training.model_copy(update={"patience": 2})
    changed = config.model_copy(update={"training": training, "seed": 9})
    assert compare_with(model, version, changed) == (
        Difference("seed", "0", "9"),
        Difference("training.patience", "null", "2"),
    )


def test_a_version_that_is_gone_has_no_known_configuration(on_finished: Any, config: PipelineConfig) -> None:
    assert compare_with(on_finished.registration.model, "999", config) is None


def test_the_code_is_that_of_the_checkout_or_of_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "find_commit", lambda: "0123456789abcdef" * 2)
    assert describe_code() == "commit 0123456789ab"
    monkeypatch.setattr(runs, "find_commit", lambda: None)
    assert describe_code().startswith("gloveflow ")


class TestWriting:
    def test_a_file_is_replaced_and_leftovers_of_killed_writers_go(self, tmp_path: Path) -> None:
        path = tmp_path / "reports" / "a-1.html"
        write_whole(path, "old")
        (path.parent / ".tmp-12345678").write_text("half")
        write_whole(path, "né")
        assert path.read_text("utf-8") == "né"
        assert sorted(file.name for file in path.parent.iterdir()) == [".lock", "a-1.html"]

    def test_a_place_that_cannot_be_written_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "reports").write_text("a file")
        with pytest.raises(StoreError, match="reports"):
            write_whole(tmp_path / "reports" / "a-1.html", "x")
