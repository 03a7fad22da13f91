"""`join_labels`: true metrics of a version on texts that it scored, from labels that arrived later.

It is a plain function, not a flow, as `flows/evaluating.py`. The scored files are those that the MLflow runs of the
version's scorings name.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipeline_config.errors import InputError
from tasks.monitoring.labels import TrueMetrics, join_answers, measure_answers, read_labels
from tasks.store.artifacts import file_digest
from tasks.tracking import metrics, runs, scorings
from tasks.tracking.loading import require_served


class LabelsResult(BaseModel):
    """What labels say of a version: the metrics, the scored files that were looked at, and the MLflow run."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: str
    metrics: TrueMetrics
    outputs: tuple[str, ...]
    mlflow_url: str


def join_labels(file: Path, *, model: str, alias: str, id_column: str, label_column: str) -> LabelsResult:
    """Join labels by id with the texts that a version has scored, and log the true metrics.

    Args:
        file: a table with ids and labels, in any form that a corpus may have.
        model: name of the registered model.
        alias: alias of its version.
        id_column: the column of the ids, in the file and in the scored files.
        label_column: the column of the labels in the file.

    Raises:
        InputError: the file cannot be read, or no id is that of a scored text.
        ServiceError: there is no such version, or MLflow does not answer.
    """
    labels = read_labels(file, id_column, label_column)
    version = require_served(model, alias)
    number = int(version.version)
    outputs = _list_outputs(scorings.list_runs("scoring", model, number))
    joined = join_answers(labels, outputs, id_column)
    if not len(joined):
        raise InputError(
            f"{file}: none of its {len(labels):,} labels is of a text that {model} version {number} has scored; looked "
            f"for the column {id_column!r} in {len(outputs)} scored files that are here"
        )
    found = measure_answers(joined, len(labels))
    tags = {"gloveflow.kind": "labels", scorings.DIGEST_TAG: file_digest(file)}
    with runs.track_version("labels", model, name=f"labels of {file.name}", tags=tags, version=number) as run:
        numbers = {name: float(value) for name, value in _list_numbers(found).items()}
        metrics.log_metrics(run.run_id, numbers)
        rows = [{"label": label, "answer": answer, "texts": count} for label, answer, count in found.confusions]
        runs.log_table(run.run_id, rows, "mistakes")
    return LabelsResult(
        model=model, version=str(number), metrics=found, outputs=tuple(map(str, outputs)), mlflow_url=run.url
    )


def _list_outputs(done: Sequence[scorings.RecordedRun]) -> list[Path]:
    """Return the outputs that are files here, in the order in which they were last written."""
    latest = dict.fromkeys(reversed([run.params.get("output", "") for run in done]))
    return [Path(output) for output in reversed(latest) if output and Path(output).exists()]


def _list_numbers(found: TrueMetrics) -> dict[str, Any]:
    return {name: value for name, value in found._asdict().items() if name != "confusions"}
