"""Metrics of a run, sent in batches."""

import logging
import time
from collections.abc import Mapping
from typing import Self

from mlflow.entities import (
    Metric,
)
from mlflow.exceptions import MlflowException

from pipeline_config.errors import GloveflowError
from tasks.tracking.server import open_client

logger = logging.getLogger(__name__)
FLUSH_METRICS = 500
FLUSH_SECONDS = 5.0


class MetricStream:
    """Log metrics of a run in batches; without a run it does nothing.

    A tracking server that does not answer costs the metrics, not the training: it is told once.
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
        """Take metrics of a step."""
        if self._run_id is None:
            return
        self._buffer.extend(_metrics(metrics, step))
        if len(self._buffer) >= FLUSH_METRICS or time.monotonic() - self._flushed > FLUSH_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Send what has been taken."""
        if self._run_id is None or not self._buffer:
            return
        try:
            open_client().log_batch(self._run_id, metrics=self._buffer)
        except (MlflowException, GloveflowError) as error:
            logger.warning("live metrics are off, MLflow does not take them: %s", error)
            self._run_id = None
        self._buffer, self._flushed = [], time.monotonic()


def log_metrics(run_id: str, metrics: Mapping[str, float], step: int = 0) -> None:
    """Log metrics at one step."""
    open_client().log_batch(run_id, metrics=_metrics(metrics, step))


def log_history(run_id: str, rows: list[dict[str, float]], *, marker: str) -> None:
    """Log the rows of a history (each with `step`) that the run does not have yet.

    Args:
        run_id: the run.
        rows: one mapping of metrics per step.
        marker: a metric of every row, by which rows that are there already are known.
    """
    client = open_client()
    known = {metric.step for metric in client.get_metric_history(run_id, marker)}
    missing = [row for row in rows if int(row["step"]) not in known]
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
