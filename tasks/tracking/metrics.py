"""Metrics of an MLflow run, sent in batches: live ones from a thread during a training, and whole histories."""

import contextvars
import logging
import threading
import time
from collections.abc import Mapping
from typing import Self

from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from pipeline_config.errors import GloveflowError, ServiceError, StoreError
from tasks.tracking.server import open_client

logger = logging.getLogger(__name__)
FLUSH_METRICS = 500
FLUSH_SECONDS = 5.0
RETRY_SECONDS = 5.0
CLOSE_SECONDS = 5.0
KEPT_METRICS = 100_000  # some 50 MB; older ones are dropped


class MetricStream:
    """Log metrics of a run in batches, from a thread of its own. Without a run id it does nothing.

    The caller is never held up. While MLflow is away, metrics are kept, and sent when it is back. The end waits
    `CLOSE_SECONDS` at most; what has not arrived by then is reported. If MLflow refuses the metrics themselves, a
    warning is logged once and the rest is dropped.
    """

    def __init__(self, run_id: str | None) -> None:
        self._run_id = run_id
        self._changed = threading.Condition()  # guards all that follows
        self._kept: list[Metric] = []
        self._on_the_way: list[Metric] = []
        self._dropped = 0
        self._open = self._wanted = run_id is not None

    def __enter__(self) -> Self:
        if self._open:
            # in a copy of the context, so that its log lines appear on the page of the Prefect run
            send = contextvars.copy_context().run
            self._sender = threading.Thread(target=send, args=(self._send_batches,), name="live-metrics", daemon=True)
            self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._run_id is None:
            return
        with self._changed:
            self._open = False
            self._changed.notify()
        self._sender.join(CLOSE_SECONDS)
        with self._changed:
            missing = self._dropped + len(self._kept) + len(self._on_the_way)
            self._wanted = False
            self._changed.notify()
        if missing:
            logger.warning(
                "%d live metrics did not arrive at MLflow. The output of the training has them all, and they are "
                "logged again with the results",
                missing,
            )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add metrics of a step to the batch."""
        with self._changed:
            if not self._open:
                return
            self._kept.extend(_metrics(metrics, step))
            excess = max(0, len(self._kept) - KEPT_METRICS)
            self._dropped += excess
            del self._kept[:excess]
            self._changed.notify()

    def _send_batches(self) -> None:
        away = False
        while self._take_batch():
            try:
                open_client().log_batch(str(self._run_id), metrics=self._on_the_way)
            except (ServiceError, StoreError) as error:
                if not away and self._wanted:
                    logger.warning("live metrics wait, the training goes on: %s", error)
                away = True
                continue
            except (MlflowException, GloveflowError) as error:
                logger.warning("live metrics are off: MLflow does not accept them: %s", error)
                with self._changed:
                    self._open, self._kept, self._on_the_way, self._dropped = False, [], [], 0
                return
            if away:
                logger.info("MLflow answers again, live metrics go on")
            away = False
            with self._changed:
                self._on_the_way = []

    def _take_batch(self) -> bool:
        """Wait until a batch is due, and take it; a batch that did not arrive is taken again after a pause.

        Returns:
            False when nothing is left to send.
        """
        with self._changed:
            if self._on_the_way:
                self._changed.wait_for(lambda: not self._open, RETRY_SECONDS)
                self._changed.wait_for(lambda: self._open or not self._wanted, CLOSE_SECONDS / 10)
            else:
                self._changed.wait_for(lambda: self._kept or not self._open)
                self._changed.wait_for(lambda: len(self._kept) >= FLUSH_METRICS or not self._open, FLUSH_SECONDS)
                self._on_the_way, self._kept = self._kept[:FLUSH_METRICS], self._kept[FLUSH_METRICS:]
            return self._wanted and bool(self._on_the_way)


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
