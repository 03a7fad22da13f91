import contextlib
import os
import sqlite3

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from mlflow.store.tracking.dbmodels.models import SqlDataset
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from flows.cli.environment import prepare_environment
from pipeline_config.errors import ServiceError, StoreError
from tasks.tracking import client as tracking_client
from tasks.tracking.client import TrackingClient, create_once
from tasks.tracking.runs import log_dataset
from tasks.tracking.server import open_client
from tests.flaky_server import MODES, flaky_server

RUN = "0" * 32
REASONS = dict(zip(MODES, ("connection refused", "no answer in time", "HTTP status 500"), strict=True))


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.mark.parametrize("mode", MODES)
def test_a_server_that_is_away_is_a_service_error_in_plain_words(mode):
    with flaky_server() as server:
        client = TrackingClient(server.url.replace("//", "//me:secret@"))
        server.fail(mode)
        with pytest.raises(ServiceError) as caught:
            client.get_run(RUN)
        assert str(caught.value) == f"MLflow at {server.url} failed at `get_run`: {REASONS[mode]}"


@pytest.mark.parametrize(("status", "reason"), [(500, "HTTP status 500"), (403, "403 Client Error")])
def test_a_server_that_does_not_take_a_file_is_one_too(tmp_path, status, reason):
    (tmp_path / "a.txt").write_text("a")
    run = f"{status:032}"  # MLflow remembers where the files of a run are
    with flaky_server() as server:
        info = {"run_id": run, "artifact_uri": "mlflow-artifacts:/1/2/artifacts"}
        server.answer = {"run": {"info": info, "data": {}}}
        server.statuses["PUT"] = status
        with pytest.raises(ServiceError, match=f"failed at `log_artifact`: {reason}"):
            TrackingClient(server.url).log_artifact(run, str(tmp_path / "a.txt"))


@pytest.mark.usefixtures("tracked")
def test_what_does_not_exist_stays_an_error_of_mlflow():
    client = open_client()
    assert isinstance(client, TrackingClient)
    with pytest.raises(MlflowException) as caught:
        client.get_run(RUN)
    assert caught.value.error_code == "RESOURCE_DOES_NOT_EXIST"


@pytest.mark.usefixtures("tracked")
def test_what_exists_already_stays_one_too():
    client = open_client()
    client.create_registered_model("x")
    client.create_experiment("x")
    for create in (client.create_registered_model, client.create_experiment):
        with pytest.raises(MlflowException) as caught:
            create("x")
        assert caught.value.error_code == "RESOURCE_ALREADY_EXISTS"


def test_a_file_of_ours_that_is_missing_stays_an_error_of_the_system(tracked):
    client = open_client()
    run = client.create_run(client.create_experiment("x", artifact_location=(tracked / "files").as_uri()))
    with pytest.raises(FileNotFoundError):
        client.log_artifact(run.info.run_id, str(tracked / "missing"))


class TestRepeating:
    @pytest.fixture(autouse=True)
    def patience(self, monkeypatch):
        monkeypatch.setattr(tracking_client, "PATIENCE_SECONDS", 5.0)
        monkeypatch.setattr(tracking_client, "PAUSE_SECONDS", 0.01)

    def test_a_call_that_may_be_repeated_survives_a_short_outage(self):
        with flaky_server() as server:
            server.losing = {"/runs/set-tag"}
            TrackingClient(server.url).set_tag(RUN, "a", "1")
            assert [path for path, _ in server.accepted] == ["/api/2.0/mlflow/runs/set-tag"] * 2

    def test_two_processes_may_log_the_same_dataset_at_once(self, tracked, monkeypatch):
        client = open_client()
        experiment = client.create_experiment("x", artifact_location=(tracked / "files").as_uri())
        first, second = (client.create_run(experiment).info.run_id for _ in range(2))
        dataset = {"name": "train", "digest": "1", "place": tracked, "context": "train", "rows": 3}
        log_dataset(first, **dataset)
        log, calls = SqlAlchemyStore.log_inputs, []

        def log_as_if_it_were_not_there(store, **kwargs):
            calls.append(kwargs)
            if len(calls) == 1:
                kind = {"dataset_source_type": "local", "dataset_source": "{}"}
                row = SqlDataset(dataset_uuid="1" * 32, experiment_id=experiment, name="train", digest="1", **kind)
                with store.ManagedSessionMaker(read_only=False) as session:
                    session.add(row)
            return log(store, **kwargs)

        monkeypatch.setattr(SqlAlchemyStore, "log_inputs", log_as_if_it_were_not_there)
        log_dataset(second, **dataset)
        assert len(calls) == 2
        (found,) = client.get_run(second).inputs.dataset_inputs
        assert found.dataset.name == "train"

    @pytest.mark.parametrize("found", [None, "found"])
    def test_what_creates_something_is_repeated_only_if_it_created_nothing(self, found):
        with flaky_server() as server:
            server.answer = {"run": {"info": {"run_id": RUN}, "data": {}}}
            server.losing = {"/runs/create"}
            client = TrackingClient(server.url)
            made = create_once(lambda: client.create_run("1").info.run_id, lambda: found)
            assert made == (found or RUN)
            assert len(server.accepted) == (1 if found else 2)

    def test_a_server_that_hangs_is_asked_once(self):
        with flaky_server() as server:
            client = TrackingClient(server.url)
            server.fail("hangs")
            with pytest.raises(ServiceError, match="no answer in time"):
                client.get_run(RUN)
            with pytest.raises(ServiceError, match="no answer in time"):
                create_once(lambda: client.create_run("1"), lambda: pytest.fail("asked again"))
            assert len(server.asked) == 2


def test_nothing_is_created_twice_by_the_settings_of_the_command_line(monkeypatch, tmp_path):
    """MLflow itself repeats whatever was not answered, by default five times."""
    for name in ("MLFLOW_HTTP_REQUEST_TIMEOUT", "MLFLOW_HTTP_REQUEST_MAX_RETRIES"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(tmp_path))
    prepare_environment()
    with flaky_server() as server:
        server.losing = {"/runs/create"}
        with pytest.raises(ServiceError, match="failed at `create_run`"):
            TrackingClient(server.url).create_run("1")
        assert len(server.accepted) == 1


def full_database(path):
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA max_page_count = 1")
        database.execute("CREATE TABLE numbers (value)")


@pytest.mark.usefixtures("tracked")
@pytest.mark.parametrize(
    ("fail", "reason"),
    [
        (full_database, "database or disk is full"),
        (lambda _: os.write(os.open("/dev/full", os.O_WRONLY), b"x"), "No space left on device"),
    ],
)
def test_a_full_disk_is_an_error_of_the_store(tmp_path, monkeypatch, fail, reason):
    def log_batch(*_, **__):
        try:
            fail(tmp_path / "full.db")
        except sqlite3.Error as error:
            raise MlflowException(str(error), error_code=TEMPORARILY_UNAVAILABLE) from error

    monkeypatch.setattr(MlflowClient, "log_batch", log_batch)
    with pytest.raises(StoreError, match=rf"^/.*: cannot be written: {reason} \(.* MiB are free\); free some space"):
        open_client().log_batch(RUN)


@pytest.mark.usefixtures("tracked")
def test_an_error_of_the_database_shows_no_traceback(caplog):
    client = open_client()
    with contextlib.closing(sqlite3.connect(client.tracking_uri.removeprefix("sqlite:///"))) as database:
        database.execute("DROP TABLE experiments")
    with pytest.raises(ServiceError, match="no such table: experiments"):
        client.search_experiments()
    assert [record for record in caplog.records if record.exc_info] == []
