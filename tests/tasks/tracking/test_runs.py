import contextlib
import hashlib
import json
import signal
import subprocess
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from pipeline_config.contracts.tokens import CorpusFacts
from pipeline_config.errors import ServiceError
from pipeline_config.rules import RULES, choose_settings, list_open_settings
from pipeline_config.settings import PipelineConfig
from tasks.runtime.cancellation import WorkStopped
from tasks.store import locks
from tasks.store.artifacts import artifacts_root
from tasks.tracking import runs
from tasks.tracking.database import list_foreign_places
from tasks.tracking.run_settings import log_chosen_settings
from tasks.tracking.runs import (
    end_dead_runs,
    find_commit,
    log_dataset,
    log_file,
    log_table,
    log_tags,
    log_tags_if_possible,
    track_run,
)
from tasks.tracking.server import open_client
from tests.tasks.tracking.processes import start_python

CONFIG = PipelineConfig.model_validate(
    {"name": "toy", "training": {"epochs": 4}, "corpus": {"label_map": {"1": "good"}}}
)

RUN_UNTIL_KILLED = """
import time
from pipeline_config.settings import PipelineConfig
from tasks.tracking import runs
from tasks.tracking.runs import track_run
from tasks.tracking.server import open_client

with track_run(PipelineConfig(name="toy"), name="doomed", tags={"prefect.flow_run_id": "flow-of-the-dead"}) as run:
    open_client().create_logged_model(run.experiment_id, name="classifier", source_run_id=run.run_id)
    print(run.run_id, flush=True)
    time.sleep(600)
"""


def status_of(run_id: str) -> str:
    return open_client().get_run(run_id).info.status


def model_status_of(run_id: str) -> str:
    experiment = open_client().get_run(run_id).info.experiment_id
    models = open_client().search_logged_models([experiment])
    (model,) = [model for model in models if model.source_run_id == run_id]
    return str(model.status)


def lock_files() -> list[Path]:
    return list((artifacts_root() / "mlflow" / "live").iterdir())


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
        (message,) = (
            m for m in caplog.messages if m.startswith(f"MLflow run {run.run_id} could not be ended as FAILED:")
        )
        assert message.endswith("out of order")

    def test_a_run_that_could_not_be_finished_is_ended_by_the_next_one(self, monkeypatch):
        def refuse(*_: object) -> None:
            raise MlflowException("out of order")

        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "set_terminated", refuse)
            with track_run(CONFIG, name="run", tags={"prefect.flow_run_id": "7"}) as run:
                pass
        assert status_of(run.run_id) == "RUNNING"
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "set_terminated", refuse)
            with pytest.raises(ServiceError, match="out of order"):
                end_dead_runs()
        assert end_dead_runs() == ["7"]
        assert status_of(run.run_id) == "FINISHED"
        assert lock_files() == []

    def test_a_tag_that_a_run_can_do_without_is_only_warned_about(self, monkeypatch, caplog):
        def refuse(*_: object, **__: object) -> None:
            raise MlflowException("out of order")

        with track_run(CONFIG, name="run", tags={}) as run:
            log_tags_if_possible(run.run_id, {"a": "1"})
            monkeypatch.setattr(MlflowClient, "log_batch", refuse)
            log_tags_if_possible(run.run_id, {"b": "2", "c": "3"})
        assert open_client().get_run(run.run_id).data.tags["a"] == "1"
        assert caplog.messages[0].startswith("the MLflow run lacks b, c: MLflow at ")


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
        open_settings = list_open_settings(CONFIG)
        assert open_settings
        assert run.data.params.keys() == leaves - set(open_settings)

    def test_settings_that_a_rule_chose_are_added_when_they_are_known(self, run):
        facts = CorpusFacts(documents=100, classes=2, tokens=1000, usual_length=40)
        chosen = choose_settings(CONFIG, facts)
        log_chosen_settings(run.info.run_id, chosen.config, chosen.choices)
        params = open_client().get_run(run.info.run_id).data.params
        assert params["bucketing.batch_size"] == "8"
        assert params.keys() >= set(RULES)
        path = open_client().download_artifacts(run.info.run_id, "config.yaml")
        assert PipelineConfig.model_validate(yaml.safe_load(Path(path).read_text("utf-8"))) == chosen.config

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
class TestDeadRuns:
    def test_the_run_of_a_killed_process_is_ended_and_a_living_one_is_left_alone(self, caplog):
        with track_run(CONFIG, name="alive", tags={"prefect.flow_run_id": "flow-of-the-living"}) as alive:
            open_client().create_logged_model(alive.experiment_id, name="classifier", source_run_id=alive.run_id)
            process = start_python(RUN_UNTIL_KILLED)
            try:
                dead = process.stdout.readline().strip()
                assert end_dead_runs() == []
                assert (status_of(alive.run_id), status_of(dead)) == ("RUNNING", "RUNNING")
                assert model_status_of(dead) == "PENDING"
            finally:
                process.send_signal(signal.SIGKILL)
                process.communicate()
            assert end_dead_runs() == ["flow-of-the-dead"]
            assert (status_of(alive.run_id), status_of(dead)) == ("RUNNING", "KILLED")
            assert (model_status_of(alive.run_id), model_status_of(dead)) == ("PENDING", "FAILED")
            assert "MLflow run doomed was left running by a process that is gone: now KILLED" in caplog.messages
            assert end_dead_runs() == []
        assert status_of(alive.run_id) == "FINISHED"
        assert lock_files() == []

    def test_the_lock_file_of_a_failed_run_is_removed_and_the_run_stays_failed(self):
        with contextlib.suppress(ValueError), track_run(CONFIG, name="run", tags={"prefect.flow_run_id": "7"}) as run:
            raise ValueError
        assert end_dead_runs() == []
        assert status_of(run.run_id) == "FAILED"
        assert lock_files() == []

    def test_a_run_without_a_flow_run_is_ended_too(self):
        with track_run(CONFIG, name="run", tags={}) as run:
            open_client().set_tag(run.run_id, runs.LOCK_TAG, "abandoned")
            (artifacts_root() / "mlflow" / "live" / "abandoned.lock").touch()
            assert end_dead_runs() == []
            assert status_of(run.run_id) == "KILLED"

    def test_a_lock_file_that_disappears_meanwhile_is_ignored(self, tracked, monkeypatch):
        gone = tracked / "mlflow" / "live" / "gone.lock"
        monkeypatch.setattr(Path, "glob", lambda *_: iter([gone]))
        assert end_dead_runs() == []

    def test_a_lock_file_has_its_name_only_once_it_is_locked(self, monkeypatch):
        named_before = []
        lock = locks.try_lock

        def watch(descriptor: int, path: Path) -> bool:
            if path.parent.name == "live":
                named_before.append(path.exists())
            return lock(descriptor, path)

        monkeypatch.setattr(locks, "try_lock", watch)
        with track_run(CONFIG, name="run", tags={}):
            assert named_before == [False]
            assert [path.suffix for path in lock_files()] == [".lock"]


class TestLogging:
    def test_tags_and_files_are_on_the_run(self, run_id, tmp_path):
        log_tags(run_id, {"a": "1", "b": "zwei"})
        (tmp_path / "report.html").write_text("<p>")
        log_file(run_id, tmp_path / "report.html", "evaluation")
        run = open_client().get_run(run_id)
        assert (run.data.tags["a"], run.data.tags["b"]) == ("1", "zwei")
        assert [file.path for file in open_client().list_artifacts(run_id, "evaluation")] == ["evaluation/report.html"]

    def test_a_table_is_a_file_of_comma_separated_values_however_often_it_is_logged(self, run_id):
        for _ in range(2):
            log_table(run_id, [{"class": "a,b", "train": 1}, {"class": "c", "train": 2}], "classes")
        path = open_client().download_artifacts(run_id, "tables/classes.csv")
        assert Path(path).read_text("utf-8") == 'class,train\n"a,b",1\nc,2\n'
        log_table(run_id, [{"=class": "=1+1", "train": -1}, {"=class": "-0.5", "train": -0.5}], "hostile")
        path = open_client().download_artifacts(run_id, "tables/hostile.csv")
        assert Path(path).read_text("utf-8") == "'=class,train\n'=1+1,-1\n-0.5,-0.5\n"
        log_table(run_id, [], "nothing")
        assert Path(open_client().download_artifacts(run_id, "tables/nothing.csv")).read_text("utf-8").strip() == ""

    def test_dataset_has_its_digest_role_size_and_file(self, run_id):
        digest = hashlib.sha256(b"documents").hexdigest()
        place = artifacts_root() / "store" / "documents.parquet"
        log_dataset(run_id, name="documents", digest=digest, place=place, context="training", rows=120)
        (logged,) = open_client().get_run(run_id).inputs.dataset_inputs
        assert (logged.dataset.name, logged.dataset.digest) == ("documents", digest[:36])
        assert json.loads(logged.dataset.profile) == {"num_rows": 120}
        assert json.loads(logged.dataset.source) == {"uri": str(place)}
        assert logged.dataset.source_type == "local"
        assert {tag.key: tag.value for tag in logged.tags} == {"mlflow.data.context": "training", "sha256": digest}

    @pytest.mark.parametrize("place", ["postgresql://me:secret@db.example/texts", "/home/me/texts.csv"])
    def test_a_dataset_elsewhere_is_external_and_its_address_holds_no_secret(self, run_id, tmp_path, place):
        log_dataset(run_id, name="input", digest="0" * 64, place=place, context="scoring-input", rows=1)
        (logged,) = open_client().get_run(run_id).inputs.dataset_inputs
        assert logged.dataset.source_type == "external"
        assert "secret" not in logged.dataset.source
        assert json.loads(logged.dataset.source)["uri"].endswith(place.partition("@")[2] or place)
        database = Path(open_client().tracking_uri.removeprefix("sqlite:///"))
        assert place not in list_foreign_places(database, tmp_path)


class TestCommit:
    @staticmethod
    def git(folder: Path, *arguments: str) -> str:
        identity = ["-c", "user.name=x", "-c", "user.email=x@x.example", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def test_it_is_that_of_the_checkout_which_has_the_code(self, tmp_path, monkeypatch):
        code = tmp_path / "runs.py"
        code.write_text("")
        monkeypatch.setattr("tasks.tracking.runs.__file__", str(code))
        assert find_commit() is None
        self.git(tmp_path, "init", "-q")
        assert find_commit() is None  # an environment in the checkout of another project
        self.git(tmp_path, "add", "runs.py")
        self.git(tmp_path, "commit", "-q", "-m", "x")
        assert find_commit() == self.git(tmp_path, "rev-parse", "HEAD")

    def test_without_git_there_is_none(self, monkeypatch, tmp_path):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert find_commit() is None
