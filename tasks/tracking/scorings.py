"""The MLflow runs of scorings, monitorings and labels of a version: found again, with their files."""

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from tasks.tracking.server import open_client

Kind = Literal["scoring", "monitoring", "labels"]
READING_TAG = "gloveflow.reading"  # what a scoring read otherwise than the model says, as JSON
END_TAG = "gloveflow.window_end"  # of a monitoring: the end of its last scoring, ms since 1970
OUTCOME_TAG = "gloveflow.outcome"  # of a monitoring: changed, unchanged or too_few
DIGEST_TAG = "gloveflow.file_digest"
LABELLED = "labelled"  # metric of labels: texts whose label is known now


class RecordedRun(NamedTuple):
    """A finished MLflow run.

    Attributes:
        run_id: its id.
        ended: when it ended, ms since 1970.
        params: its parameters.
        tags: its tags.
        metrics: the last value of each metric.
    """

    run_id: str
    ended: int
    params: dict[str, str]
    tags: dict[str, str]
    metrics: dict[str, float]

    @property
    def reading(self) -> dict[str, Any]:
        """What a scoring read otherwise than the model says; empty if that is not recorded."""
        found = json.loads(self.tags.get(READING_TAG, "{}"))
        return found if isinstance(found, dict) else {}


def experiment_name(kind: Kind, model: str) -> str:
    """Return the name of the experiment with the runs of a kind."""
    return f"gloveflow/{kind}/{model}"


def list_runs(kind: Kind, model: str, version: int, *, after: int = 0) -> list[RecordedRun]:
    """Return the finished runs of a version that ended after a time (ms since 1970), the oldest first.

    Raises:
        ServiceError: MLflow does not answer.
    """
    client = open_client()
    experiment = client.get_experiment_by_name(experiment_name(kind, model))
    if experiment is None:
        return []
    query = f"attributes.status = 'FINISHED' and params.version = '{version}' and attributes.end_time > {after}"
    found: list[Run] = []
    page = None
    while page is None or page:
        some = client.search_runs(
            [experiment.experiment_id], query, order_by=["attributes.end_time ASC"], page_token=page
        )
        found.extend(some)
        page = some.token or ""
    return [
        RecordedRun(run.info.run_id, int(run.info.end_time), run.data.params, run.data.tags, run.data.metrics)
        for run in found
    ]


@contextmanager
def open_file(run_id: str, name: str) -> Iterator[Path | None]:
    """Give the body a copy of a file of a run; None if the run has no such file.

    Raises:
        ServiceError: MLflow does not answer.
    """
    with tempfile.TemporaryDirectory(prefix="gloveflow-run-") as folder:
        try:
            path = Path(open_client().download_artifacts(run_id, name, folder))
        except (MlflowException, OSError):
            path = None
        yield path if path is not None and path.is_file() else None
