"""`gloveflow evaluate`: a registered version on labelled files."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pytest

from flows.cli.main import run_command
from flows.evaluating import name_report
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.schemas import DOCUMENTS_FILE
from tasks.store.artifacts import find_output
from tasks.tracking.server import open_client
from tests.flows.conftest import copy_finished

MODEL = "gloveflow-tiny"


@pytest.fixture
def store(finished: Any, artifacts: Path) -> Path:
    copy_finished(finished[0], artifacts)
    return artifacts


@pytest.fixture
def test_rows(finished: Any, store: Path) -> list[dict[str, str]]:
    """The test documents of the run."""
    output = find_output("ingest_corpus", Path(finished[1].store["ingest_corpus"]).name)
    assert output is not None
    table = output.read_table(DOCUMENTS_FILE)
    return table.filter(pc.equal(table["split"], "test")).select(["text", "label", "split"]).to_pylist()


def write_rows(path: Path, rows: list[dict[str, str]], names: tuple[str, ...] = ("text", "label")) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(names)
        writer.writerows([[row[key] for key in ("text", "label")] for row in rows])
    return path


def ask(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    assert run_command(["evaluate", "--model", MODEL, *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_test_split_as_a_file_gets_the_scores_of_the_run(
    finished: Any, store: Path, test_rows: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "held out.csv", test_rows)
    found = ask(capsys, file, "--version", 1)
    output = find_output("evaluate_classifier", Path(finished[1].store["evaluate_classifier"]).name)
    assert output is not None
    expected = output.read_model(Metrics).test.hybrid
    assert found["documents"] == expected.documents
    assert (found["seen"], found["unknown_labels"], found["left_out"]) == (0, {}, {})
    for name in ("accuracy", "macro_f1", "log_loss", "brier", "roc_auc"):
        assert found["scores"][name] == pytest.approx(getattr(expected, name), abs=1e-6)
    assert found["scores"]["confusion"] == [list(row) for row in expected.confusion]
    assert found["analysis"]["slices"][0]["baseline_accuracy"] is None
    assert found["analysis"]["attributions"]
    assert Path(found["report"]) == store / "reports" / f"{MODEL}-1-held-out.html"
    page = Path(found["report"]).read_text("utf-8")
    assert "Scores on held out.csv" in page
    for missing in ("Training", "Padding", "baseline", "Decision of the gate", "Seed"):
        assert f">{missing}<" not in page
    run = open_client().get_run(found["mlflow_url"].rpartition("/")[2])
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"evaluate {MODEL} 1 on held out.csv"
    assert run.data.tags["gloveflow.file_digest"] == found["digest"]
    assert run.data.metrics["file_accuracy"] == pytest.approx(expected.accuracy, abs=1e-6)
    logged = open_client().download_artifacts(run.info.run_id, "report.html")
    assert Path(logged).read_text("utf-8") == page
    assert run.inputs.dataset_inputs[0].tags[1].value == found["digest"]
    experiment = open_client().get_experiment(run.info.experiment_id)
    assert experiment.name == "gloveflow/tiny"


def test_labels_that_the_model_does_not_know_texts_of_the_training_and_rows_without_a_label_are_told(
    inputs: Path, store: Path, test_rows: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (inputs / "corpus.csv").open(encoding="utf-8") as file:
        whole = list(csv.DictReader(file))
    tested = {row["text"] for row in test_rows}
    trained = [row for row in whole if row["text"] not in tested][:10]
    odd = [{"text": "bread", "label": "politics"}] * 3 + [{"text": "soup", "label": ""}, {"text": " ", "label": "food"}]
    file = write_rows(tmp_path / "mixed.csv", [*test_rows, *trained, *odd], ("words", "class"))
    arguments = (file, "--text", "words", "--label", "class")
    found = ask(capsys, *arguments)
    assert found["documents"] == len(test_rows) + 10
    assert (found["seen"], found["unknown_labels"]) == (10, {"politics": 3})
    assert found["left_out"] == {"no_label": 1, "empty_text": 1}
    first, second, third = (finding["text"] for finding in found["analysis"]["verdict"][:3])
    total = len(test_rows) + 13
    right = round(found["scores"]["accuracy"] * found["documents"])
    assert first == (
        f"3 of {total} documents have a label that the model does not know (politics 3); its classes are food, sports, "
        f"weather. The scores are without them; counted as wrong answers, they give an accuracy of "
        f"{100 * right / total:.1f} %."
    )
    assert second.startswith(f"The version was trained on 10 of these {found['documents']} texts")
    assert third == "2 rows were left out: empty_text 1, no_label 1."
    parts = {part["value"]: part["documents"] for part in found["analysis"]["slices"] if part["feature"] == "training"}
    assert parts == {"new": len(test_rows), "trained on": 10}
    mapped = ask(capsys, *arguments, "--set", 'corpus.label_map={"politics": "food"}')
    assert (mapped["documents"], mapped["unknown_labels"]) == (total, {})
    assert run_command(["evaluate", "--model", MODEL, *map(str, arguments)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].strip()
    assert max(len(line) for line in lines if "/" not in line) <= 80
    assert np.flatnonzero([line == "verdict:" for line in lines])[0] > len(lines) // 2


def test_a_version_is_compared_with_another_on_texts_that_neither_was_trained_on(
    inputs: Path, store: Path, test_rows: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_client()
    first = client.get_model_version(MODEL, "1")
    model_id = first.source.rpartition("/")[2]
    client.create_model_version(MODEL, first.source, first.run_id, tags=first.tags, model_id=model_id)
    with (inputs / "corpus.csv").open(encoding="utf-8") as file:
        trained = [row for row in csv.DictReader(file) if row["text"] not in {row["text"] for row in test_rows}][:3]
    file = write_rows(tmp_path / "texts.csv", [*test_rows, *trained])
    found = ask(capsys, file, "--version", 2)
    compared = found["comparison"]
    assert (compared["other"], compared["documents"]) == ("version 1", len(test_rows))
    assert (compared["accuracy"]["value"], compared["p_value"], compared["only_other"]) == (0, 1, 0)
    assert "Against version 1" in Path(found["report"]).read_text("utf-8")
    assert ask(capsys, file)["comparison"] is None
    assert ask(capsys, file, "--against", 2)["comparison"]["other"] == "version 2"
    assert run_command(["evaluate", "--model", MODEL, str(file), "--against", "7"]) == 2
    assert f"{MODEL}: no version 7" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["none.csv"], 3, "none.csv: no such file or directory"),
        (["texts.csv", "--version", "9"], 2, f"{MODEL}: no version 9"),
        (
            ["texts.csv", "--alias", "live"],
            5,
            f"models:/{MODEL}@live: no version has this alias; there are challenger (version 1), champion (version 1)",
        ),
        (["texts.csv", "--label", "class"], 3, "expected a column 'class', got columns 'text', 'label'"),
        (["texts.csv", "--text", "words"], 3, "expected a column 'words', got columns 'text', 'label'"),
        (["texts.csv", "--set", "corpus.format=no"], 2, "corpus.format"),
        (["texts.csv"], 3, "its classes are food, sports, weather; labels in column 'label': x 1"),
    ],
)
def test_mistakes_get_a_message_and_leave_no_run(
    store: Path,
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    write_rows(tmp_path / "texts.csv", [{"text": "bread", "label": "x"}])
    before = len(open_client().search_runs(["1"]))
    assert run_command(["evaluate", "--model", MODEL, *arguments]) == code
    output = capsys.readouterr()
    assert message in output.err
    assert "Traceback" not in output.err
    assert len(open_client().search_runs(["1"])) == before


def test_an_evaluation_that_fails_is_a_failed_run(
    store: Path, test_rows: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "texts.csv", test_rows)
    reports = store / "reports"
    for page in reports.iterdir():
        page.unlink()
    reports.rmdir()
    reports.write_text("in the way")
    assert run_command(["evaluate", "--model", MODEL, str(file)]) == 4
    (run,) = open_client().search_runs(["1"], "tags.`gloveflow.kind` = 'evaluation'")
    assert run.info.status == "FAILED"


def test_the_name_of_a_report_is_that_of_the_file_without_what_paths_cannot_hold() -> None:
    assert name_report("m", "3", "a b:é.csv.gz") == "m-3-a-b.html"
    assert name_report("m", "3", "...") == "m-3-file.html"
