import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INTERNAL_ERROR, INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST

from pipeline_config.errors import ServiceError
from pipeline_config.settings import PipelineConfig
from tasks.runtime.cancellation import WorkStopped
from tasks.store.artifacts import artifacts_root
from tasks.tracking import metrics, models, runs, server
from tasks.tracking.metrics import MetricStream, log_history, log_metrics
from tasks.tracking.models import find_alias, load_model
from tasks.tracking.runs import log_dataset, log_file, log_table, log_tags, sweep_dead_runs, track_run
from tasks.tracking.server import open_client

CONFIG = PipelineConfig.model_validate(
    {"name": "toy", "training": {"epochs": 4}, "corpus": {"label_map": {"1": "good"}}}
)

OPEN_FRESH = """
from tasks.tracking.server import (open_client)
print(len(open_client().search_experiments()))
"""

RUN_UNTIL_KILLED = """
import time
from pipeline_config.settings import PipelineConfig
from tasks.tracking.runs import track_run

with track_run(PipelineConfig(name="toy"), name="doomed", tags={"prefect.flow_run_id": "flow-of-the-dead"}) as run:
    print(run.run_id, flush=True)
    time.sleep(600)
"""


class RecordingClient:
    """Stands in for MLflow's client: takes batches, or fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.batches: list[list[tuple[str, float, int]]] = []
        self.attempts = 0
        self._error = error

    def log_batch(self, _run_id: str, metrics: list) -> None:
        self.attempts += 1
        if self._error:
            raise self._error
        self.batches.append([(metric.key, metric.value, metric.step) for metric in metrics])


@pytest.fixture
def stub_client(monkeypatch):
    def stub(error: Exception | None = None) -> RecordingClient:
        client = RecordingClient(error)
        monkeypatch.setattr(metrics, "open_client", lambda: client)
        return client

    return stub


def start_python(code: str) -> subprocess.Popen:
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def history_of(run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in open_client().get_metric_history(run_id, name))


def status_of(run_id: str) -> str:
    return open_client().get_run(run_id).info.status


def lock_files() -> list[Path]:
    return list((artifacts_root() / "mlflow" / "live").iterdir())


@pytest.fixture
def run_id(tracked) -> str:
    client = open_client()
    experiment = client.create_experiment("metrics", artifact_location=(tracked / "files").as_uri())
    return client.create_run(experiment).info.run_id


@pytest.mark.usefixtures("tracked")
class TestRunStatus:
    def test_a_body_that_returns_ends_the_run_as_finished(self):
        with track_run(CONFIG, name="run", tags={}) as run:
            assert status_of(run.run_id) == "RUNNING"
        assert status_of(run.run_id) == "FINISHED"
        assert lock_files() == []

    @pytest.mark.parametrize(
        ("error", "status"),
        [
            (ValueError("wrong"), "FAILED"),
            (ServiceError("gone"), "FAILED"),
            (KeyboardInterrupt(), "KILLED"),
            (SystemExit(143), "KILLED"),
            (WorkStopped(), "KILLED"),
        ],
        ids=lambda value: value if isinstance(value, str) else type(value).__name__,
    )
    def test_an_error_fails_the_run_and_an_interruption_kills_it(self, error, status):
        with pytest.raises(type(error)) as caught, track_run(CONFIG, name="run", tags={}) as run:
            raise error
        assert caught.value is error
        assert status_of(run.run_id) == status
        assert open_client().get_run(run.run_id).info.end_time

    def test_a_run_that_cannot_be_ended_does_not_hide_the_error(self, monkeypatch, caplog):
        def refuse(*_: object) -> None:
            raise MlflowException("out of order")

        monkeypatch.setattr(MlflowClient, "set_terminated", refuse)
        with pytest.raises(ValueError, match="the reason"), track_run(CONFIG, name="run", tags={}) as run:
            raise ValueError("the reason")
        assert f"MLflow run {run.run_id} could not be ended as FAILED: out of order" in caplog.messages


@pytest.fixture
def run(tracked):
    with track_run(CONFIG, name="a name", tags={"prefect.flow_run_id": "42"}) as run:
        pass
    return open_client().get_run(run.run_id)


class TestRunContent:
    def test_params_are_the_flattened_configuration(self, run):
        assert run.data.params["training.epochs"] == "4"
        assert run.data.params["corpus.max_documents"] == "null"
        assert run.data.params["corpus.label_map"] == "{'1': 'good'}"
        sections = CONFIG.model_dump()
        leaves = {name for name, value in sections.items() if not isinstance(value, dict)}
        leaves |= {f"{name}.{key}" for name, value in sections.items() if isinstance(value, dict) for key in value}
        assert run.data.params.keys() == leaves

    def test_configuration_is_an_artifact_that_reads_back(self, run):
        path = open_client().download_artifacts(run.info.run_id, "config.yaml")
        assert PipelineConfig.model_validate(yaml.safe_load(Path(path).read_text("utf-8"))) == CONFIG

    def test_it_has_its_name_and_the_given_tags(self, run):
        assert run.info.run_name == "a name"
        assert run.data.tags["prefect.flow_run_id"] == "42"
        assert run.data.tags["mlflow.source.name"] == "gloveflow"

    def test_its_files_lie_under_the_artifacts_directory(self, run, tracked):
        assert run.info.artifact_uri.startswith((tracked / "mlflow" / "files").as_uri())

    def test_its_experiment_is_named_after_the_configuration(self, run):
        assert open_client().get_experiment(run.info.experiment_id).name == "gloveflow/toy"


@pytest.mark.usefixtures("tracked")
class TestExperiment:
    @staticmethod
    def experiment_of_a_run(name: str = "toy"):
        with track_run(PipelineConfig(name=name), name="run", tags={}) as run:
            pass
        return open_client().get_experiment(run.experiment_id)

    def test_runs_of_one_name_share_an_experiment(self):
        assert self.experiment_of_a_run().experiment_id == self.experiment_of_a_run().experiment_id
        assert self.experiment_of_a_run("other").experiment_id != self.experiment_of_a_run().experiment_id

    def test_a_deleted_one_is_restored(self):
        before = self.experiment_of_a_run()
        open_client().delete_experiment(before.experiment_id)
        after = self.experiment_of_a_run()
        assert (after.experiment_id, after.lifecycle_stage) == (before.experiment_id, "active")


@pytest.mark.usefixtures("tracked")
class TestSweep:
    def test_the_run_of_a_killed_process_is_ended_and_a_living_one_is_left_alone(self, caplog):
        with track_run(CONFIG, name="alive", tags={"prefect.flow_run_id": "flow-of-the-living"}) as alive:
            process = start_python(RUN_UNTIL_KILLED)
            try:
                dead = process.stdout.readline().strip()
                assert sweep_dead_runs() == []
                assert (status_of(alive.run_id), status_of(dead)) == ("RUNNING", "RUNNING")
            finally:
                process.send_signal(signal.SIGKILL)
                process.communicate()
            assert sweep_dead_runs() == ["flow-of-the-dead"]
            assert (status_of(alive.run_id), status_of(dead)) == ("RUNNING", "KILLED")
            assert "MLflow run doomed was left running by a killed process: now KILLED" in caplog.messages
            assert sweep_dead_runs() == []
        assert status_of(alive.run_id) == "FINISHED"
        assert lock_files() == []

    def test_the_lock_file_of_a_failed_run_is_removed_and_the_run_stays_failed(self):
        with contextlib.suppress(ValueError), track_run(CONFIG, name="run", tags={"prefect.flow_run_id": "7"}) as run:
            raise ValueError
        assert sweep_dead_runs() == []
        assert status_of(run.run_id) == "FAILED"
        assert lock_files() == []

    def test_a_run_without_a_flow_run_is_ended_too(self):
        with track_run(CONFIG, name="run", tags={}) as run:
            open_client().set_tag(run.run_id, runs.LOCK_TAG, "abandoned")
            (artifacts_root() / "mlflow" / "live" / "abandoned.lock").touch()
            assert sweep_dead_runs() == []
            assert status_of(run.run_id) == "KILLED"

    def test_a_lock_file_that_goes_away_meanwhile_is_passed_over(self, tracked, monkeypatch):
        gone = tracked / "mlflow" / "live" / "gone.lock"
        monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
        assert sweep_dead_runs() == []

    def test_a_lock_file_has_its_name_only_once_it_is_locked(self, monkeypatch):
        named_before = []
        lock = runs.try_lock

        def watch(descriptor: int, path: Path) -> bool:
            named_before.append(path.exists())
            return lock(descriptor, path)

        monkeypatch.setattr(runs, "try_lock", watch)
        with track_run(CONFIG, name="run", tags={}):
            assert named_before == [False]
            assert [path.suffix for path in lock_files()] == [".lock"]


class TestMetricStream:
    def test_metrics_arrive_at_their_steps(self, run_id):
        with MetricStream(run_id) as stream:
            stream.log({"loss": 0.5, "rate": 0.1}, 10)
            stream.log({"loss": 0.25}, 20)
        assert history_of(run_id, "loss") == [(10, 0.5), (20, 0.25)]
        assert history_of(run_id, "rate") == [(10, 0.1)]

    def test_they_are_sent_in_batches_and_the_rest_at_the_end(self, stub_client, monkeypatch):
        client = stub_client()
        monkeypatch.setattr(metrics, "FLUSH_METRICS", 4)
        with MetricStream("run") as stream:
            for step in (1, 2, 3):
                stream.log({"loss": 0.5, "rate": 0.1}, step)
                assert client.attempts == (step >= 2)
        assert client.batches == [
            [("loss", 0.5, 1), ("rate", 0.1, 1), ("loss", 0.5, 2), ("rate", 0.1, 2)],
            [("loss", 0.5, 3), ("rate", 0.1, 3)],
        ]

    def test_they_are_sent_when_the_last_batch_is_some_seconds_ago(self, stub_client, monkeypatch):
        client, now = stub_client(), SimpleNamespace(seconds=100.0)
        monkeypatch.setattr(metrics.time, "monotonic", lambda: now.seconds)
        with MetricStream("run") as stream:
            stream.log({"loss": 0.5}, 1)
            now.seconds += metrics.FLUSH_SECONDS + 0.1
            stream.log({"loss": 0.4}, 2)
            assert client.batches == [[("loss", 0.5, 1), ("loss", 0.4, 2)]]
            stream.log({"loss": 0.3}, 3)
            assert client.attempts == 1

    def test_they_are_sent_even_when_training_fails(self, stub_client):
        client = stub_client()
        with contextlib.suppress(ValueError), MetricStream("run") as stream:
            stream.log({"loss": 0.5}, 1)
            raise ValueError
        assert client.batches == [[("loss", 0.5, 1)]]

    def test_without_a_run_nothing_is_sent(self, stub_client):
        client = stub_client()
        with MetricStream(None) as stream:
            stream.log({"loss": 0.5}, 1)
        assert client.attempts == 0

    @pytest.mark.parametrize(
        "error", [MlflowException("no route to host"), ServiceError("no route to host")], ids=["refused", "unreachable"]
    )
    def test_a_client_that_fails_costs_the_metrics_and_is_told_once(self, stub_client, monkeypatch, caplog, error):
        client = stub_client(error)
        monkeypatch.setattr(metrics, "FLUSH_METRICS", 1)
        with MetricStream("run") as stream:
            for step in range(5):
                stream.log({"loss": 0.5}, step)
        assert client.attempts == 1
        assert caplog.messages == ["live metrics are off, MLflow does not take them: no route to host"]


class TestLogging:
    def test_metrics_tags_and_files_are_on_the_run(self, run_id, tmp_path):
        log_metrics(run_id, {"f1": 0.75}, step=3)
        log_tags(run_id, {"a": "1", "b": "zwei"})
        (tmp_path / "report.html").write_text("<p>")
        log_file(run_id, tmp_path / "report.html", "evaluation")
        run = open_client().get_run(run_id)
        assert history_of(run_id, "f1") == [(3, 0.75)]
        assert (run.data.tags["a"], run.data.tags["b"]) == ("1", "zwei")
        assert [file.path for file in open_client().list_artifacts(run_id, "evaluation")] == ["evaluation/report.html"]

    def test_a_table_is_a_file_of_comma_separated_values_however_often_it_is_logged(self, run_id):
        for _ in range(2):
            log_table(run_id, [{"class": "a,b", "train": 1}, {"class": "c", "train": 2}], "classes")
        path = open_client().download_artifacts(run_id, "tables/classes.csv")
        assert Path(path).read_text("utf-8") == 'class,train\n"a,b",1\nc,2\n'
        log_table(run_id, [], "nothing")
        assert Path(open_client().download_artifacts(run_id, "tables/nothing.csv")).read_text("utf-8").strip() == ""

    def test_history_adds_only_what_the_run_lacks(self, run_id):
        with MetricStream(run_id) as stream:
            stream.log({"loss": 0.9, "rate": 0.1}, 1)
            stream.log({"loss": 0.8, "rate": 0.2}, 3)
        rows = [{"step": step, "loss": 0.5, "rate": 0.3} for step in (1, 2, 3, 4)]
        log_history(run_id, rows, marker="loss")
        assert history_of(run_id, "loss") == [(1, 0.9), (2, 0.5), (3, 0.8), (4, 0.5)]
        assert history_of(run_id, "rate") == [(1, 0.1), (2, 0.3), (3, 0.2), (4, 0.3)]
        assert history_of(run_id, "step") == []

    def test_a_complete_history_is_logged_once(self, run_id):
        for _ in range(2):
            log_history(run_id, [{"step": 1.0, "loss": 0.5}], marker="loss")
        assert history_of(run_id, "loss") == [(1, 0.5)]

    def test_dataset_has_its_digest_role_size_and_file(self, run_id, tmp_path):
        digest = hashlib.sha256(b"documents").hexdigest()
        log_dataset(
            run_id, name="documents", digest=digest, path=tmp_path / "documents.parquet", context="training", rows=120
        )
        (logged,) = open_client().get_run(run_id).inputs.dataset_inputs
        assert (logged.dataset.name, logged.dataset.digest) == ("documents", digest[:36])
        assert json.loads(logged.dataset.profile) == {"num_rows": 120}
        assert json.loads(logged.dataset.source) == {"uri": str(tmp_path / "documents.parquet")}
        assert {tag.key: tag.value for tag in logged.tags} == {"mlflow.data.context": "training", "sha256": digest}


class TestDatabase:
    def test_two_processes_can_open_a_fresh_one_at_once(self, artifacts):
        processes = [start_python(OPEN_FRESH) for _ in range(2)]
        outcomes = [(*process.communicate(), process.returncode) for process in processes]
        assert [(output, code) for output, _, code in outcomes] == [("1\n", 0)] * 2, outcomes
        assert (artifacts / "mlflow" / "mlflow.db").stat().st_size > 0

    def test_one_that_cannot_be_read_is_a_service_error_that_names_it(self, artifacts):
        (artifacts / "mlflow").mkdir(parents=True)
        (artifacts / "mlflow" / "mlflow.db").write_bytes(b"this is no database" * 100)
        with pytest.raises(
            ServiceError, match=r"sqlite:///.*/mlflow\.db: MLflow cannot open its database: .*not a database"
        ):
            open_client()

    @pytest.mark.usefixtures("tracked")
    def test_opening_one_leaves_the_environment_alone(self):
        open_client()
        assert "MLFLOW_TRACKING_URI" not in os.environ


class TestAddresses:
    def test_runs_are_tracked_beside_the_artifacts_unless_told_otherwise(self, artifacts, monkeypatch):
        assert server.tracking_uri() == f"sqlite:///{artifacts}/mlflow/mlflow.db"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs.example:5000/")
        assert server.tracking_uri() == "http://runs.example:5000/"

    def test_pages_are_on_the_tracking_server(self, monkeypatch):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://runs.example:5000/")
        assert server.run_url("3", "abc") == "http://runs.example:5000/#/experiments/3/runs/abc"

    def test_pages_of_a_database_are_on_the_local_server(self, monkeypatch):
        monkeypatch.delenv("GLOVEFLOW_MLFLOW_URL", raising=False)
        assert server.model_url("toy", "2") == "http://127.0.0.1:5000/#/models/toy/versions/2"
        monkeypatch.setenv("GLOVEFLOW_MLFLOW_URL", "http://127.0.0.1:5055")
        assert server.ui_url() == "http://127.0.0.1:5055"


@pytest.fixture
def unaliased(tracked):
    open_client().create_registered_model("known")


class TestRegistryLookups:
    @pytest.mark.usefixtures("unaliased")
    def test_no_such_model_and_no_such_alias_are_none(self):
        assert find_alias("unknown", "champion") is None
        assert find_alias("known", "champion") is None

    @pytest.mark.parametrize("code", [RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE, INTERNAL_ERROR])
    def test_only_errors_that_mean_absence_are_none(self, monkeypatch, code):
        def fail(*_: object) -> None:
            raise MlflowException("the server burns", error_code=code)

        monkeypatch.setattr(models, "open_client", lambda: SimpleNamespace(get_model_version_by_alias=fail))
        if code == INTERNAL_ERROR:
            with pytest.raises(MlflowException, match="the server burns"):
                find_alias("known", "champion")
        else:
            assert find_alias("known", "champion") is None

    @pytest.mark.usefixtures("unaliased")
    @pytest.mark.parametrize("name", ["unknown", "known"], ids=["no model", "no alias"])
    def test_loading_what_is_not_registered_says_what_to_do(self, name):
        message = f"models:/{name}@champion: no such registered model; `gloveflow run` makes one"
        with pytest.raises(ServiceError) as caught:
            load_model(name, "champion")
        assert str(caught.value) == message
