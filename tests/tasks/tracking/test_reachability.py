import pytest

from pipeline_config.errors import ServiceError
from tasks.runtime import services
from tasks.tracking.reachability import require_tracking_server
from tests.flaky_server import MODES, flaky_server


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(services, "ANSWER_SECONDS", 0.2)
    monkeypatch.setattr(services, "PAUSE_SECONDS", 0.05)


@pytest.mark.parametrize("uri", [None, "sqlite:////tmp/x.db", "databricks"])
def test_other_places_need_no_server(monkeypatch, uri):
    monkeypatch.setattr("tasks.tracking.reachability.require_answer", lambda *_, **__: pytest.fail("asked a server"))
    if uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    require_tracking_server()


def test_a_server_is_asked_for_its_health(monkeypatch):
    with flaky_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{server.url}/")
        require_tracking_server()
        assert server.asked == ["/health"]


@pytest.mark.parametrize("mode", MODES)
def test_one_that_is_away_is_a_service_error(monkeypatch, mode):
    with flaky_server() as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
        server.fail(mode)
        with pytest.raises(ServiceError, match=r"^MLflow at http://127\.0\.0\.1:\d+/health does not answer: .*; start"):
            require_tracking_server()
