import contextlib
from types import SimpleNamespace

import pytest
from mlflow.exceptions import MlflowException

from pipeline_config.errors import ServiceError
from tasks.tracking import metrics
from tasks.tracking.metrics import MetricStream, log_history, log_metrics
from tasks.tracking.server import open_client


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


def history_of(run_id: str, name: str) -> list[tuple[int, float]]:
    return sorted((metric.step, metric.value) for metric in open_client().get_metric_history(run_id, name))


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
    def test_a_client_that_fails_loses_the_metrics_and_is_logged_once(self, stub_client, monkeypatch, caplog, error):
        client = stub_client(error)
        monkeypatch.setattr(metrics, "FLUSH_METRICS", 1)
        with MetricStream("run") as stream:
            for step in range(5):
                stream.log({"loss": 0.5}, step)
        assert client.attempts == 1
        assert caplog.messages == ["live metrics are off: MLflow does not accept them: no route to host"]


class TestLogging:
    def test_metrics_are_on_the_run_at_their_step(self, run_id):
        log_metrics(run_id, {"f1": 0.75}, step=3)
        assert history_of(run_id, "f1") == [(3, 0.75)]

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
