"""The whole flow on a small corpus: outputs, caching, MLflow and Prefect agree with each other."""

import csv
import json
import logging
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from prefect import flow, get_client, task
from prefect.client.schemas.filters import (
    ArtifactFilter,
    ArtifactFilterFlowRunId,
    FlowRunFilter,
    FlowRunFilterId,
    LogFilter,
    LogFilterFlowRunId,
)
from prefect.context import FlowRunContext
from prefect.events.worker import EventsWorker
from prefect.logging.handlers import APILogWorker
from prefect.task_runners import ThreadPoolTaskRunner

from flows import pipeline
from flows.pipeline import train_pipeline
from pipeline_config.errors import ConfigError, InputError, ServiceError
from pipeline_config.schemas import PROFILE_FILE
from pipeline_config.settings import PipelineConfig
from tasks.runtime.cancellation import WorkStopped, allow_work, raise_if_stopped
from tasks.tracking import server

STAGES = [
    "download_glove",
    "ingest_corpus",
    "tokenize_corpus",
    "build_vocabulary",
    "align_embeddings",
    "bucket_corpus",
    "train_baseline",
    "train_classifier",
    "evaluate_classifier",
]


def mlflow_run(result: Any) -> Any:
    return server.open_client().get_run(result.mlflow_url.rpartition("/")[2])


def flow_run_id(run: Any) -> UUID:
    return UUID(run.data.tags["prefect.flow_run_id"])


def task_states(identity: UUID) -> dict[str, str]:
    """Return the states that the server has of a flow run's tasks, once it has them all."""
    EventsWorker.drain_all(timeout=10)
    query = FlowRunFilter(id=FlowRunFilterId(any_=[identity]))
    deadline = time.monotonic() + 20
    with get_client(sync_client=True) as client:
        while True:
            runs = client.read_task_runs(flow_run_filter=query)
            done = len(runs) >= len(STAGES) + 4 and all(run.state and run.state.is_final() for run in runs)
            if done or time.monotonic() > deadline:
                return {run.name: str(run.state_name) for run in runs}
            time.sleep(0.2)


def test_every_stage_leaves_a_verified_output(on_finished: Any) -> None:
    assert [stage.name for stage in on_finished.stages] == STAGES
    assert not any(stage.cached for stage in on_finished.stages)
    for directory in on_finished.store.values():
        manifest = json.loads(Path(directory, "manifest.json").read_text())
        assert sorted(manifest["files"]) == sorted(
            p.name for p in Path(directory).iterdir() if p.name != "manifest.json"
        )


def test_the_classes_are_learned(on_finished: Any) -> None:
    assert on_finished.test_scores["LSTM"].accuracy > 0.9
    assert on_finished.test_scores["linear model"].accuracy > 0.9


def test_the_mlflow_run_holds_config_metrics_datasets_report_and_model(
    on_finished: Any, config: PipelineConfig
) -> None:
    run = mlflow_run(on_finished)
    assert run.info.status == "FINISHED"
    assert run.data.params["training.epochs"] == "6"
    assert run.data.params["corpus.max_documents"] == "null"
    for metric in (
        "test_accuracy",
        "test_macro_f1",
        "test_baseline_macro_f1",
        "build_vocabulary/vocabulary_size",
        "align_embeddings/token_coverage",
        "bucket_corpus/padding_efficiency",
        "ingest_corpus/rows_rejected",
    ):
        assert metric in run.data.metrics
    names = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert sorted(names) == ["documents-test", "documents-train", "documents-validation", "vectors"]
    assert len(run.outputs.model_outputs) == 1
    client = server.open_client()
    files = {f.path for f in client.list_artifacts(run.info.run_id)}
    assert {"config.yaml", "report.html", "reports"} <= files
    tables = {f.path for f in client.list_artifacts(run.info.run_id, "tables")}
    assert tables == {f"tables/{name}.csv" for name in ("classes", "findings", "padding", "coverage", "misses")}


def test_epoch_and_step_metrics_are_logged_once_each(on_finished: Any) -> None:
    client, run = server.open_client(), mlflow_run(on_finished)
    epochs = client.get_metric_history(run.info.run_id, "train_loss")
    assert len(epochs) == len({metric.step for metric in epochs}) == 6
    steps = client.get_metric_history(run.info.run_id, "step_loss")
    assert [metric.step for metric in steps] == sorted({metric.step for metric in steps})
    assert steps


def test_flow_run_and_mlflow_run_link_to_each_other(on_finished: Any) -> None:
    run = mlflow_run(on_finished)
    with get_client(sync_client=True) as client:
        flow_run = client.read_flow_run(flow_run_id(run))
        artifacts = client.read_artifacts(
            artifact_filter=ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[flow_run.id]))
        )
    assert flow_run.name == run.info.run_name
    assert flow_run.name.startswith("tiny 20")
    assert run.data.tags["prefect.flow_run_url"].endswith(str(flow_run.id))
    data = {artifact.key: artifact.data for artifact in artifacts}
    tables = [f"table-{name}" for name in ("classes", "coverage", "findings", "misses", "padding")]
    assert sorted(data) == ["decision", "mlflow-run", "registered-model", "results", *tables, "training-progress"]
    assert on_finished.mlflow_url in str(data["mlflow-run"])
    assert data["training-progress"] == 100.0
    assert [row["split"] for row in json.loads(str(data["results"]))] == ["test"] * 3 + ["validation"] * 3


def test_our_log_lines_reach_prefect(on_finished: Any) -> None:
    APILogWorker.drain_all(timeout=10)
    identity = flow_run_id(mlflow_run(on_finished))
    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=[identity])), limit=200)
    assert {"tasks.store.stage", "tasks.training.history"} <= {log.name for log in logs}


def test_an_unchanged_run_is_all_cached_and_makes_no_new_version(on_copy: Any, config: PipelineConfig) -> None:
    again = train_pipeline(config)
    assert all(stage.cached for stage in again.stages)
    assert again.registration.version == on_copy.registration.version
    assert not again.registration.created
    run = mlflow_run(again)
    assert run.info.run_id != mlflow_run(on_copy).info.run_id
    assert run.data.metrics["test_macro_f1"] == mlflow_run(on_copy).data.metrics["test_macro_f1"]
    assert len(server.open_client().get_metric_history(run.info.run_id, "train_loss")) == 6
    assert len(run.outputs.model_outputs) == 1
    states = task_states(flow_run_id(run))
    assert {name for name, state in states.items() if state == "Cached"} == {name.replace("_", " ") for name in STAGES}
    assert states["register model"] == states["log results"] == "Completed"


def test_a_changed_section_reruns_only_what_depends_on_it(on_copy: Any, config: PipelineConfig) -> None:
    changed = config.model_copy(update={"training": config.training.model_copy(update={"epochs": 1})})
    result = train_pipeline(changed)
    assert [stage.name for stage in result.stages if not stage.cached] == ["train_classifier", "evaluate_classifier"]


def opened(config: PipelineConfig) -> PipelineConfig:
    """Leave some settings to their rules."""
    bucketing = config.bucketing.model_copy(update={"max_length": "auto", "batch_size": "auto"})
    training = config.training.model_copy(update={"epochs": 1})
    return config.model_copy(update={"bucketing": bucketing, "training": training})


def test_open_settings_are_chosen_by_the_corpus_and_logged(on_copy: Any, config: PipelineConfig) -> None:
    result = train_pipeline(opened(config))
    run = mlflow_run(result)
    expected = {"bucketing.max_length": "32", "bucketing.batch_size": "8", "training.epochs": "1"}
    assert {key: run.data.params[key] for key in expected} == expected
    client = server.open_client()
    text = client.download_artifacts(run.info.run_id, "tables/settings_by_rule.csv")
    with Path(text).open() as file:
        rows = {row["setting"]: (row["value"], row["reason"]) for row in csv.DictReader(file)}
    documents = sum(
        json.loads(Path(result.store["ingest_corpus"], PROFILE_FILE).read_text())["documents"]["train"].values()
    )
    assert rows == {
        "bucketing.max_length": ("32", "keeps 98% of the train tokens or more"),
        "bucketing.batch_size": ("8", f"{documents:,} train documents"),
    }


def test_a_broken_corpus_is_told_even_if_optional_vectors_are_missing_too(
    on_copy: Any, config: PipelineConfig, tmp_path: Path
) -> None:
    corpus = tmp_path / "c.csv"
    corpus.write_text("text,other\na,b\n")
    broken = broken_vectors(opened(config), tmp_path, "train_from_scratch")
    sections = {"corpus": broken.corpus.model_copy(update={"source": str(corpus)})}
    with pytest.raises(InputError, match=r"c\.csv"):
        train_pipeline(broken.model_copy(update=sections))


def test_several_seeds_give_mean_and_deviation_and_the_best_by_validation_is_registered(
    on_copy: Any, config: PipelineConfig
) -> None:
    changes = {
        "training": config.training.model_copy(update={"seeds": (config.seed, 1), "epochs": 1}),
        "registration": config.registration.model_copy(update={"candidate": "lstm"}),  # the linear model has no seed
    }
    result = train_pipeline(config.model_copy(update=changes))
    assert [stage.name for stage in result.stages] == STAGES
    run = mlflow_run(result)
    trained = [
        json.loads(Path(path, "metrics.json").read_text())
        for path in Path(result.store["evaluate_classifier"]).parent.iterdir()
        if path.is_dir()
        and json.loads(Path(path, "manifest.json").read_text())["inputs"]["classifier"]["digest"]
        in {
            json.loads(Path(other, "manifest.json").read_text())["digest"]
            for other in Path(result.store["train_classifier"]).parent.iterdir()
            if other.is_dir() and len(pq.read_table(Path(other, "epochs.parquet"))) == 1
        }
    ]
    assert [m["combination"]["candidate"] for m in trained] == ["lstm", "lstm"]
    scores = {split: [m[split]["lstm"]["macro_f1"] for m in trained] for split in ("validation", "test")}
    assert run.data.metrics["seeds/count"] == 2
    assert run.data.metrics["seeds/test_macro_f1_mean"] == pytest.approx(sum(scores["test"]) / 2)
    assert run.data.metrics["seeds/test_macro_f1_deviation"] == pytest.approx(
        abs(scores["test"][0] - scores["test"][1]) / 2**0.5
    )
    assert run.data.metrics["validation_macro_f1"] == max(scores["validation"])


def test_without_vectors_the_embedding_layer_starts_fresh(on_copy: Any, config: PipelineConfig) -> None:
    without = config.model_copy(update={"embeddings": config.embeddings.model_copy(update={"source": "none"})})
    result = train_pipeline(without)
    names = [stage.name for stage in result.stages]
    assert "download_glove" not in names
    assert "align_embeddings" not in names
    assert mlflow_run(result).info.status == "FINISHED"


def broken_vectors(config: PipelineConfig, tmp_path: Path, on_failure: str) -> PipelineConfig:
    update = {"source": str(tmp_path / "absent.txt"), "on_failure": on_failure}
    return config.model_copy(update={"embeddings": config.embeddings.model_copy(update=update)})


def test_missing_vectors_fail_the_run_by_default(on_copy: Any, config: PipelineConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"absent\.txt: expected a file"):
        train_pipeline(broken_vectors(config, tmp_path, "error"))
    client = server.open_client()
    experiment = client.get_experiment_by_name("gloveflow/tiny")
    last = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)[0]
    assert last.info.status == "FAILED"
    with get_client(sync_client=True) as prefect:
        assert prefect.read_flow_run(flow_run_id(last)).state_name == "Failed"


def test_missing_vectors_can_be_allowed_and_are_logged(
    on_copy: Any, config: PipelineConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, logger="flows"):
        result = train_pipeline(broken_vectors(config, tmp_path, "train_from_scratch"))
    assert "NO PRE-TRAINED VECTORS" in caplog.text
    assert "trained from scratch" in mlflow_run(result).data.tags["gloveflow.embeddings"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,label\n", "expected at least two classes with documents, got none"),
        ("text,label\n" + "some text,one\n" * 3, "expected at least 10 distinct texts in every class"),
        ("words,label\na,b\n", r"expected a column 'text', got columns 'words', 'label'"),
    ],
)
def test_an_unusable_corpus_is_an_error_and_loses_nothing(
    on_finished: Any, config: PipelineConfig, tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "corpus.csv"
    path.write_text(content)
    update = {"source": str(path)}
    before = {directory: Path(directory, "manifest.json").read_bytes() for directory in on_finished.store.values()}
    with pytest.raises(InputError, match=message):
        train_pipeline(config.model_copy(update={"corpus": config.corpus.model_copy(update=update)}))
    assert before == {
        directory: Path(directory, "manifest.json").read_bytes() for directory in on_finished.store.values()
    }


def test_a_run_without_a_corpus_ends_before_anything_starts(on_finished: Any, config: PipelineConfig) -> None:
    without = config.model_copy(
        update={"name": "no-corpus", "corpus": config.corpus.model_copy(update={"source": None})}
    )
    with pytest.raises(ConfigError, match=r"^corpus\.source: not set"):
        train_pipeline(without)
    assert server.open_client().get_experiment_by_name("gloveflow/no-corpus") is None


def test_a_flow_parameter_that_names_code_ends_the_run_before_anything_is_imported_or_computed(
    on_finished: Any, config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOVEFLOW_TOKENIZERS", raising=False)
    (tmp_path / "hostile_tokens.py").write_text("split = str.split\n")
    monkeypatch.syspath_prepend(tmp_path)
    tokenization = config.tokenization.model_copy(update={"tokenizer": "hostile_tokens:split"})
    with pytest.raises(ConfigError, match=r"^tokenization\.tokenizer: .*'hostile_tokens:split' is a function"):
        train_pipeline(config.model_copy(update={"name": "hostile", "tokenization": tokenization}))
    assert "hostile_tokens" not in sys.modules
    assert server.open_client().get_experiment_by_name("gloveflow/hostile") is None


def test_the_flow_ends_while_a_task_that_does_not_stop_still_runs(
    prefect_api: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "STOP_SECONDS", 0.0)
    started, released, ended = threading.Event(), threading.Event(), threading.Event()

    @task(name="stuck")
    def stuck() -> None:
        started.set()
        released.wait(60)
        ended.set()

    @task(name="queued")
    def queue() -> None:
        pytest.fail("a task started after the flow was interrupted")

    @flow(name="interrupted", task_runner=ThreadPoolTaskRunner(max_workers=1))
    def interrupted() -> str:
        stuck.submit()
        started.wait(60)
        queue.submit()
        runner: Any = FlowRunContext.get().task_runner  # type: ignore[union-attr]
        assert list(runner._executor._threads)  # private names of Prefect and of concurrent.futures
        pipeline.abandon_tasks()
        return "abandoned"

    try:
        assert interrupted() == "abandoned"
        assert not ended.is_set()
        with pytest.raises(WorkStopped):
            raise_if_stopped()
    finally:
        released.set()
        allow_work()
        ended.wait(60)


@pytest.mark.usefixtures("prefect_api")
@pytest.mark.parametrize("call", ["log_inputs", "set_registered_model_alias"], ids=["logging", "registering"])
def test_mlflow_away_after_training_costs_nothing_and_the_next_run_completes_it(
    finished: tuple[Path, Any], config: PipelineConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MlflowException("connection refused")

    shutil.copytree(finished[0] / "store", tmp_path / "artifacts" / "store")
    shutil.copytree(finished[0] / "mlflow", tmp_path / "artifacts" / "mlflow")
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(tmp_path / "artifacts"))
    monkeypatch.setattr("tasks.tracking.client.PATIENCE_SECONDS", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, call, refuse)
        patch.setattr(MlflowClient, "set_terminated", refuse)
        with pytest.raises(ServiceError, match=r"failed at `.*`: .*The results are kept; the same run again"):
            train_pipeline(config)
    result = train_pipeline(config)
    assert all(stage.cached for stage in result.stages)
    client = server.open_client()
    runs = client.search_runs([mlflow_run(result).info.experiment_id])
    assert [run.info.status for run in runs][:2] == ["FINISHED", "FAILED"]
    assert len(mlflow_run(result).inputs.dataset_inputs) == 4
    assert client.get_model_version_by_alias("gloveflow-tiny", "champion").version == 1
