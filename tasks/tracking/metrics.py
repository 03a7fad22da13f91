"""Metrics of an MLflow run, sent in batches: live ones during a training, and whole histories."""

import logging
import time
from collections.abc import Mapping
from typing import Self

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from pipeline_config.errors import GloveflowError
from tasks.tracking.server import open_client

logger = logging.getLogger(__name__)
FLUSH_METRICS = 500
FLUSH_SECONDS = 5.0


class MetricStream:
    """Log metrics of a run in batches. Without a run id it does nothing.

    If MLflow does not accept the metrics, a warning is logged once and the rest is dropped; the training goes on.
    """

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id
        self._buffer: list[Metric] = []
        self._flushed = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics of a step to the batch."""
        if self._run_id is None:
            return
        self._buffer.extend(_metrics(metrics, step))
        if len(self._buffer) >= FLUSH_METRICS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send the batch."""
        if self._run_id is None or not self._buffer:
            return
        try:
            open_client().log_batch(self._run_id, metrics=self._buffer)
        except (MlflowException, GloveflowError) as error:
            logger.warning("live metrics are off: MLflow does not accept them: %s", error)
            self._run_id = None
        self._buffer, self._flushed = [], time.monotonic()


def log_metrics(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log metrics at one step."""
    open_client().log_batch(run_id, metrics=_metrics(metrics, step))


def log_history(run_id: str, rows: list[dict[str, float]], *, marker: str) -> None:
    """Log the rows of a history that the run does not have yet.

    Args:
        run_id: id of the run.
        rows: one mapping of metrics per step; the key `step` is the step.
        marker: a metric that every row has. The run has a step if it has this metric at the step.
    """
    client = open_client()
    logged = {metric.step for metric in client.get_metric_history(run_id, marker)}
    missing = [row for row in rows if int(row["step"]) not in logged]
    metrics = [
        metric
        for row in missing
        for metric in _metrics({k: v for k, v in row.items() if k != "step"}, int(row["step"]))
    ]
    if metrics:
        client.log_batch(run_id, metrics=metrics)


def _metrics(metrics: Mapping[str, float], step: int) -> list[Metric]:
    now = int(time.time() * 1000)
    return [Metric(key, float(value), now, step) for key, value in metrics.items()]
