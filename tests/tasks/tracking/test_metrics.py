import contextlib
import threading
import time
from collections.abc import Callable

import pytest
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST

from tasks.tracking import metrics
from tasks.tracking.metrics import MetricStream, log_history, log_metrics
from tasks.tracking.server import open_client
from tests.flaky_server import MODES, flaky_server


class RecordingClient:
    """Stands in for MLflow's client: takes batches, or fails."""

    def __init__(self, error: Exception | None) -> None:
        self.batches: list[list[tuple[str, float, int]]] = []
        self.attempts = 0
        self.error = error
        self.attempted = threading.Event()

    def log_batch(self, _run_id: str, metrics: list) -> None:
        self.attempts += 1
        try:
            if self.error:
                raise self.error
            self.batches.append([(metric.key, metric.value, metric.step) for metric in metrics])
        finally:
            self.attempted.set()


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
        assert client.batches == [
            [("loss", 0.5, 1), ("rate", 0.1, 1), ("loss", 0.5, 2), ("rate", 0.1, 2)],
            [("loss", 0.5, 3), ("rate", 0.1, 3)],
        ]

    def test_a_full_batch_is_sent_at_once_and_another_after_some_seconds(self, stub_client, monkeypatch):
        client = stub_client()
        monkeypatch.setattr(metrics, "FLUSH_METRICS", 2)
        with MetricStream("run") as stream:
            stream.log({"loss": 0.5, "rate": 0.1}, 1)
            assert client.attempted.wait(1)
            client.attempted.clear()
            stream.log({"loss": 0.4}, 2)
            assert not client.attempted.wait(0.05)
            monkeypatch.setattr(metrics, "FLUSH_SECONDS", 0.01)
            with stream._changed:
                stream._changed.notify()
        assert client.batches == [[("loss", 0.5, 1), ("rate", 0.1, 1)], [("loss", 0.4, 2)]]

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

    def test_metrics_that_mlflow_refuses_are_dropped_with_one_warning(self, stub_client, monkeypatch, caplog):
        client = stub_client(MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST))
        monkeypatch.setattr(metrics, "FLUSH_METRICS", 1)
        with MetricStream("run") as stream:
            for step in range(5):
                stream.log({"loss": 0.5}, step)
        assert client.attempts == 1
        assert caplog.messages == ["live metrics are off: MLflow does not accept them: no such run"]


STEPS = 200


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for name, value in {"FLUSH_SECONDS": 0.02, "RETRY_SECONDS": 0.05, "FLUSH_METRICS": 20}.items():
        monkeypatch.setattr(metrics, name, value)


@pytest.mark.usefixtures("impatient", "artifacts")
@pytest.mark.parametrize("mode", MODES)
class TestOutages:
    @staticmethod
    def log_steps(stream: MetricStream, steps: range) -> float:
        """Log a metric per step and return the seconds that the slowest call took."""
        slowest = 0.0
        for step in steps:
            started = time.perf_counter()
            stream.log({"loss": 1 / (step + 1)}, step)
            slowest = max(slowest, time.perf_counter() - started)
        return slowest

    def test_the_training_is_not_held_up_and_what_came_in_between_arrives_later(self, monkeypatch, caplog, mode):
        caplog.set_level("INFO", "tasks")
        monkeypatch.setattr(metrics, "CLOSE_SECONDS", 10.0)
        with flaky_server() as server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
            with MetricStream("run") as stream:
                server.fail(mode)
                assert self.log_steps(stream, range(STEPS)) < 0.5
                wait_until(lambda: any("live metrics wait" in message for message in caplog.messages))
                server.recover()
        arrived = {metric["step"] for _, body in server.accepted for metric in body["metrics"]}
        assert arrived == set(range(STEPS))
        assert [message.partition(":")[0] for message in caplog.messages] == [
            "live metrics wait, the training goes on",
            "MLflow answers again, live metrics go on",
        ]

    def test_the_end_waits_only_for_a_while_and_reports_what_did_not_arrive(self, monkeypatch, caplog, mode):
        monkeypatch.setattr(metrics, "CLOSE_SECONDS", 0.2)
        with flaky_server() as server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
            server.fail(mode)
            with MetricStream("run") as stream:
                self.log_steps(stream, range(STEPS))
                started = time.monotonic()
            assert time.monotonic() - started < 1
        assert caplog.messages[-1].startswith(f"{STEPS} live metrics did not arrive at MLflow. The output of the")

    def test_a_long_outage_keeps_a_bounded_number_and_counts_the_rest(self, monkeypatch, caplog, mode):
        monkeypatch.setattr(metrics, "CLOSE_SECONDS", 0.1)
        monkeypatch.setattr(metrics, "KEPT_METRICS", 50)
        with flaky_server() as server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
            server.fail(mode)
            with MetricStream("run") as stream:
                self.log_steps(stream, range(STEPS))
                assert len(stream._kept) <= 50
        assert caplog.messages[-1].startswith(f"{STEPS} live metrics did not arrive")


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


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
