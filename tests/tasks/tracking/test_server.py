import os

import pytest

from pipeline_config.errors import ServiceError
from tasks.tracking import server
from tasks.tracking.server import open_client
from tests.tasks.tracking.processes import start_python

OPEN_FRESH = """
from tasks.tracking.server import (open_client)
print(len(open_client().search_experiments()))
"""


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
            ServiceError, match=r"/mlflow\.db: the database is damaged: file is not a database\. Restore it"
        ):
            open_client()

    @pytest.mark.usefixtures("tracked")
    def test_opening_one_leaves_the_environment_alone(self):
        open_client()
        assert "MLFLOW_TRACKING_URI" not in os.environ


class TestAddresses:
    def test_runs_are_tracked_in_the_artifacts_directory_by_default(self, artifacts, monkeypatch):
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
