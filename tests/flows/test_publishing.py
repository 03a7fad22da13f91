"""What a run publishes in MLflow and on the page of the Prefect run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import httpx
import pytest
from prefect import flow, get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey
from prefect.states import Completed, Running

from flows.outputs import RunOutputs
from flows.publishing import (
    close_flow_runs,
    gather_metrics,
    log_results,
    publish_link,
    publish_results,
    report_tables,
    results_table,
)
from pipeline_config.settings import PipelineConfig
from tasks.runtime.escaping import escape_markdown
from tasks.store.artifacts import ArtifactRef, find_output
from tasks.tracking.runs import track_run
from tasks.tracking.server import open_client

SPREAD = {
    "count": 2.0,
    **{
        f"{split}_{key}_{name}": value
        for split in ("validation", "test")
        for key in ("accuracy", "macro_f1", "log_loss")
        for name, value in (("mean", 0.87654), ("deviation", 0.0123))
    },
}


@pytest.fixture
def outputs(on_finished: Any) -> RunOutputs:
    """The outputs of the finished run."""
    found = {stage: find_output(stage, Path(directory).name) for stage, directory in on_finished.store.items()}
    values = [output for output in found.values() if output is not None]
    return RunOutputs(*values)


def read_file(output: ArtifactRef, name: str) -> Any:
    return json.loads(output.path(name).read_text("utf-8"))


def last_artifact(key: str) -> Any:
    """Return the newest artifact of a key."""
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])))
    return max(found, key=lambda artifact: artifact.created)


def in_flow(body: Callable[[], object]) -> None:
    """Call a body in a flow run, because Prefect makes no artifacts outside of runs."""
    flow(body, name="publishing", persist_result=False)()


def edit_facts(output: ArtifactRef, **facts: Any) -> ArtifactRef:
    return output.model_copy(update={"facts": {**output.facts, **facts}})


class TestOutputs:
    def test_each_output_has_a_field_and_is_listed_by_its_stage(self, outputs: RunOutputs) -> None:
        assert {field: output.stage for field, output in outputs._asdict().items()} == {
            "vectors": "download_glove",
            "documents": "ingest_corpus",
            "tokens": "tokenize_corpus",
            "vocabulary": "build_vocabulary",
            "embeddings": "align_embeddings",
            "buckets": "bucket_corpus",
            "baseline": "train_baseline",
            "classifier": "train_classifier",
            "evaluation": "evaluate_classifier",
        }
        assert list(outputs.by_stage().values()) == list(outputs)

    def test_without_vectors_their_stages_are_not_listed(self, outputs: RunOutputs) -> None:
        without = outputs._replace(vectors=None, embeddings=None)
        assert set(outputs.by_stage()) - set(without.by_stage()) == {"download_glove", "align_embeddings"}


class TestMetrics:
    def test_scores_are_those_of_the_metrics_file_whatever_the_facts_say(self, outputs: RunOutputs) -> None:
        edited = outputs._replace(evaluation=edit_facts(outputs.evaluation, lstm_accuracy=0.0, lstm_macro_f1=0.0))
        gathered, scores = gather_metrics(edited), read_file(outputs.evaluation, "metrics.json")
        for split in ("validation", "test"):
            for key in ("accuracy", "macro_f1", "log_loss"):
                assert gathered[f"{split}_{key}"] == scores[split][scores["combination"]["candidate"]][key]
                assert gathered[f"{split}_lstm_{key}"] == scores[split]["lstm"][key]
                assert gathered[f"{split}_baseline_{key}"] == scores[split]["baseline"][key]
            for key in ("balanced_accuracy", "mcc", "ece"):
                assert gathered[f"{split}_{key}"] == scores[split][scores["combination"]["candidate"]][key]
                assert f"{split}_baseline_{key}" not in gathered
        assert not any(name.startswith("evaluate_classifier/") for name in gathered)

    def test_numeric_facts_and_seconds_of_each_stage_are_metrics(self, outputs: RunOutputs) -> None:
        tokens = edit_facts(outputs.tokens, seconds=1.5, tokens=7, share=0.25, label="x", counts=[1])
        gathered = gather_metrics(outputs._replace(tokens=tokens))
        assert gathered["seconds/tokenize_corpus"] == 1.5
        assert (gathered["tokenize_corpus/tokens"], gathered["tokenize_corpus/share"]) == (7.0, 0.25)
        assert {"tokenize_corpus/label", "tokenize_corpus/counts", "tokenize_corpus/seconds"}.isdisjoint(gathered)
        assert {name.partition("/")[2] for name in gathered if name.startswith("seconds/")} == set(outputs.by_stage())


class TestReportTables:
    def test_classes_are_counted_by_split(self, outputs: RunOutputs) -> None:
        rows = report_tables(outputs)["classes"]
        assert [row["class"] for row in rows] == ["food", "sports", "weather"]
        documents = outputs.documents.read_table("documents.parquet").to_pylist()
        for row in rows:
            for split in ("train", "validation", "test"):
                expected = sum(d["label"] == row["class"] and d["split"] == split for d in documents)
                assert row[split] == expected

    def test_findings_are_counts_with_a_name(self, outputs: RunOutputs) -> None:
        findings = {row["finding"]: row["count"] for row in report_tables(outputs)["findings"]}
        assert findings["rows"] == 240
        assert findings["left_out"] == findings["leaked"] == 0

    def test_padding_has_a_row_for_each_scheme_and_marks_the_chosen_one(self, outputs: RunOutputs) -> None:
        rows = report_tables(outputs)["padding"]
        assert sum(row["chosen"] for row in rows) == 1
        for row in rows:
            assert 0 < row["efficiency"] <= 1
            assert row["batch_tokens_p5"] <= row["batch_tokens_p50"] <= row["batch_tokens_p95"]

    def test_coverage_is_of_all_of_each_class_and_of_each_source(self, outputs: RunOutputs) -> None:
        assert outputs.embeddings is not None
        rows = {(row["split"], row["part"]): row["token_coverage"] for row in report_tables(outputs)["coverage"]}
        whole = read_file(outputs.embeddings, "coverage.json")
        assert rows["train", "all"] == round(whole["tokens"]["train"], 4)
        assert {part for split, part in rows if split == "test" and part.startswith("class ")} == {
            "class food",
            "class sports",
            "class weather",
        }

    def test_without_vectors_there_is_no_coverage(self, outputs: RunOutputs) -> None:
        tables = report_tables(outputs._replace(vectors=None, embeddings=None))
        assert list(tables) == ["classes", "findings", "padding"]


class TestResultsTable:
    def test_there_is_a_row_for_each_split_and_model(self, outputs: RunOutputs) -> None:
        rows, scores = results_table(outputs.evaluation, {}), read_file(outputs.evaluation, "metrics.json")
        assert [(row["split"], row["model"]) for row in rows] == [
            (split, model) for split in ("test", "validation") for model in ("LSTM + linear", "LSTM", "linear model")
        ]
        (row,) = [row for row in rows if (row["split"], row["model"]) == ("test", "LSTM")]
        assert row["accuracy"] == round(scores["test"]["lstm"]["accuracy"], 4)
        assert row["documents"] == scores["test"]["lstm"]["documents"]

    def test_the_spread_over_seeds_comes_last(self, outputs: RunOutputs) -> None:
        rows = results_table(outputs.evaluation, SPREAD)[6:]
        assert [row["model"] for row in rows] == ["mean of 2 seeds", "deviation of 2 seeds"] * 2
        assert [row["accuracy"] for row in rows] == [0.8765, 0.0123] * 2


class TestMLflowRun:
    def test_logging_twice_shows_everything_once(self, outputs: RunOutputs, config: PipelineConfig) -> None:
        with track_run(config, name="published", tags={}) as run:
            for _ in range(2):
                in_flow(lambda: log_results.fn(run, outputs, SPREAD))
        client = open_client()
        logged = client.get_run(run.run_id)
        epochs = client.get_metric_history(run.run_id, "train_loss")
        assert len(epochs) == len({metric.step for metric in epochs}) == 6
        assert sorted(entry.dataset.name for entry in logged.inputs.dataset_inputs) == [
            "documents-test",
            "documents-train",
            "documents-validation",
            "vectors",
        ]
        assert logged.data.metrics["seeds/test_accuracy_mean"] == 0.87654
        assert logged.data.tags["mlflow.note.content"].startswith("Classes: food, sports, weather")

    def test_rows_of_the_vectors_are_counted_in_their_file(self, outputs: RunOutputs, config: PipelineConfig) -> None:
        assert outputs.vectors is not None
        edited = outputs._replace(vectors=edit_facts(outputs.vectors, vectors=1_000_000))
        fresh = config.model_copy(
            update={"name": "fresh"}
        )  # MLflow keeps the first profile of a dataset per experiment
        with track_run(fresh, name="published", tags={}) as run:
            in_flow(lambda: log_results.fn(run, edited, {}))
        datasets = open_client().get_run(run.run_id).inputs.dataset_inputs
        (profile,) = [json.loads(entry.dataset.profile) for entry in datasets if entry.dataset.name == "vectors"]
        assert profile == {"num_rows": outputs.vectors.read_table("vectors.parquet").num_rows}

    def test_keys_and_digests_of_all_outputs_are_a_file(self, outputs: RunOutputs, config: PipelineConfig) -> None:
        with track_run(config, name="published", tags={}) as run:
            in_flow(lambda: log_results.fn(run, outputs, {}))
        path = open_client().download_artifacts(run.run_id, "reports/outputs.json")
        listed = json.loads(Path(path).read_text("utf-8"))
        assert {stage: (entry["key"], entry["digest"]) for stage, entry in listed.items()} == {
            stage: (output.key, output.digest) for stage, output in outputs.by_stage().items()
        }


class TestPrefectPage:
    @pytest.mark.usefixtures("prefect_api")
    def test_the_link_leads_to_the_mlflow_run(self) -> None:
        in_flow(lambda: publish_link("http://127.0.0.1:5000/#/experiments/1/runs/2"))
        assert "http://127.0.0.1:5000/#/experiments/1/runs/2" in last_artifact("mlflow-run").data

    def test_results_and_the_registered_version_are_artifacts(self, on_finished: Any, outputs: RunOutputs) -> None:
        registration = on_finished.registration
        in_flow(lambda: publish_results(outputs.evaluation, registration, url="http://runs.example/1", spread={}))
        assert json.loads(last_artifact("results").data) == results_table(outputs.evaluation, {})
        assert "[MLflow run](http://runs.example/1)" in last_artifact("results").description
        text = last_artifact("registered-model").data
        assert f"gloveflow-tiny version {registration.version}" in text
        assert escape_markdown(registration.reason) in text
        assert "Classes: food, sports, weather" in text


def test_a_run_goes_on_without_its_page_while_prefect_is_away(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(**_: object) -> None:
        raise httpx.ConnectError("connection refused")

    monkeypatch.setattr("flows.publishing.create_link_artifact", refuse)
    publish_link("http://127.0.0.1:5000/")
    assert caplog.messages == [
        "the page of the Prefect run lacks the link to MLflow: Prefect does not answer: connection refused"
    ]


@flow(name="toy")
def toy() -> None:
    """A flow that is never called."""


@pytest.mark.usefixtures("prefect_api")
class TestDeadFlowRuns:
    @staticmethod
    def state_name(identity: UUID) -> str:
        with get_client(sync_client=True) as client:
            return str(client.read_flow_run(identity).state_name)

    def test_running_ones_crash_and_final_ones_stay(self) -> None:
        with get_client(sync_client=True) as client:
            running = client.create_flow_run(toy, state=Running()).id
            done = client.create_flow_run(toy, state=Completed()).id
        close_flow_runs([str(done), str(uuid4()), str(running)])  # the unknown one is of another server
        assert (self.state_name(running), self.state_name(done)) == ("Crashed", "Completed")

    def test_without_any_no_server_is_asked(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("flows.publishing.get_client", lambda **_: pytest.fail("asked a server"))
        close_flow_runs([])
