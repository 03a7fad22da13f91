"""`evaluate_file`: measure any registered version on labelled files, and leave a report and an MLflow run.

It is a plain function, not a flow: it has one step, which takes seconds, and a Prefect server would take as long to
start. Files are read as those of a corpus are, in the way that the model carries unless the caller says otherwise.
"""

import logging
import re
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from flows.report import describe_code, write_whole
from pipeline_config.contracts.analysis import Analysis, PairedComparison
from pipeline_config.contracts.evaluation import SCORE_NAMES, Scores
from pipeline_config.errors import UnusableModelError
from pipeline_config.masking import mask_secrets
from pipeline_config.schemas import METRICS_FILE
from tasks.evaluation.analyse import compare_with
from tasks.evaluation.labelled import Documents, evaluate_documents
from tasks.evaluation.labelled_files import LabelledFiles, read_labelled_files
from tasks.evaluation.metrics import SplitAnswers
from tasks.registry.seen import find_seen, hash_documents, read_training_texts
from tasks.reporting.evidence import Evidence
from tasks.reporting.page import render_page
from tasks.reporting.subject import Subject
from tasks.runtime.progress import track_progress
from tasks.scoring.request import change_reading
from tasks.store.artifacts import artifacts_root
from tasks.tracking import loading, metrics, runs, versions
from tasks.tracking.loaded import BUNDLE, LoadedModel, describe_files
from tasks.tracking.model_files import Version, open_verified, version_uri

logger = logging.getLogger(__name__)
BATCH = 2048
_NAME = 60  # characters of a file's name in that of the report


class EvaluationResult(BaseModel):
    """The result of an evaluation.

    Attributes:
        files: the files.
        digest: SHA-256 of their content.
        documents: documents that were scored.
        unknown_labels: number of further documents by label that is no class of the model.
        seen: how many of the scored documents the version was trained on; None if that is not known.
        left_out: number of rows by reason that have no text or no label, or cannot be read.
        classes: of the model.
        comparison: with another version, on the documents that neither was trained on; None without one.
        report: path of the HTML page.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    version: str
    files: tuple[str, ...]
    digest: str
    documents: int
    unknown_labels: dict[str, int]
    seen: int | None
    left_out: dict[str, int]
    classes: tuple[str, ...]
    scores: Scores
    analysis: Analysis
    comparison: PairedComparison | None
    report: str
    mlflow_url: str
    seconds: float


def evaluate_file(
    sources: Sequence[str],
    *,
    model: str,
    version: int,
    reading: Mapping[str, Any],
    query: str | None = None,
    against: int | None = None,
) -> EvaluationResult:
    """Measure a version on labelled files.

    Args:
        sources: what `corpus.source` takes.
        model: name of the registered model.
        version: number of the version.
        reading: fields of `Reading` that differ from those that the model carries.
        query: the SQL that selects the rows of a database.
        against: number of a version to compare with on the same documents.

    Raises:
        ConfigError: there is no such version, or `reading` is wrong.
        InputError: a file cannot be read, lacks a column, or has no document of a class of the model.
        UnusableModelError: the files of the version are gone or changed, or do not load.
        ServiceError: MLflow does not answer.
    """
    started = time.perf_counter()
    runs.end_dead_runs()
    found = versions.require_version(model, version)
    other = None if against is None else versions.require_version(model, against)
    with open_verified(found) as folder:
        description = describe_files(version_uri(found), folder)
        training_texts = _read_training_texts(folder / BUNDLE)
    rows = read_labelled_files(sources, change_reading(description.reading, reading), description.labels, query)
    name = Path(rows.files[0].path).name
    title = f"evaluate {model} {version} on {name}"
    with runs.open_run(versions.find_experiment(found), name=title, tags=_list_tags(found, rows)) as run:
        documents, code = answer(found, rows, training_texts)
        scores, analysis = evaluate_documents(documents, code)
        comparison = None if other is None else compare_with_version(other, documents)
        page = render_page(gather_evidence(run, found, rows, scores, analysis, comparison))
        path = artifacts_root() / "reports" / name_report(model, str(version), name)
        write_whole(path, page)
        _log(run, found, rows, documents, scores, analysis, page)
    return EvaluationResult(
        model=model,
        version=str(version),
        files=tuple(mask_secrets(file.path) for file in rows.files),
        digest=rows.digest,
        documents=len(rows.texts),
        unknown_labels=dict(rows.unknown.most_common()),
        seen=None if documents.seen is None else int(documents.seen.sum()),
        left_out=dict(rows.left_out.most_common()),
        classes=description.labels,
        scores=scores,
        analysis=analysis,
        comparison=comparison,
        report=str(path),
        mlflow_url=run.url,
        seconds=time.perf_counter() - started,
    )


def answer(version: Version, rows: LabelledFiles, training_texts: np.ndarray | None) -> tuple[Documents, Any]:
    """Return the documents with the answers of a version, and the version's own code."""
    loaded = loading.open_version(version)
    probabilities = classify(loaded, rows.texts)
    seen = None
    if training_texts is not None:
        seen = find_seen(hash_documents(rows.texts), training_texts)
    documents = Documents(
        labels=loaded.labels,
        texts=rows.texts,
        truth=rows.truth,
        probabilities=probabilities,
        temperature=loaded.temperature,
        seen=seen,
        unknown=rows.unknown,
        left_out=rows.left_out,
        columns=rows.columns,
    )
    return documents, loaded.served


def classify(model: LoadedModel, texts: Sequence[str]) -> np.ndarray:
    """Return the probabilities float64[N, C] that a version gives to texts."""
    probabilities = np.zeros((len(texts), len(model.labels)))
    with track_progress(f"version {model.version}", total=len(texts), unit="texts") as advance:
        for start in range(0, len(texts), BATCH):
            answers = model.classify(list(texts[start : start + BATCH]))
            probabilities[start : start + len(answers)] = [
                [one["probabilities"][label] for label in model.labels] for one in answers
            ]
            advance(len(answers))
    return probabilities


def compare_with_version(other: Version, documents: Documents) -> PairedComparison | None:
    """Return the comparison with another version on the documents that neither was trained on.

    Returns:
        None if they cannot be compared; a warning says why.
    """
    name, labels = f"version {other.version}", list(documents.labels)
    try:
        with open_verified(other) as folder:
            training_texts = read_training_texts(folder / BUNDLE)
        loaded = loading.open_version(other)
    except UnusableModelError as error:
        logger.warning("%s cannot be compared: %s", name, error)
        return None
    new = ~find_seen(hash_documents(documents.texts), training_texts)
    new &= np.ones(len(new), bool) if documents.seen is None else ~documents.seen
    if set(loaded.labels) != set(labels) or not new.any():
        reason = "one of both was trained on all of the texts" if not new.any() else "it has other classes"
        logger.warning("%s cannot be compared: %s", name, reason)
        return None
    kept = np.flatnonzero(new).tolist()
    theirs = classify(loaded, [documents.texts[place] for place in kept])
    order = [loaded.labels.index(label) for label in labels]
    ours, others = (
        SplitAnswers(np.array(kept), documents.truth[kept], probabilities)
        for probabilities in (documents.probabilities[kept], theirs[:, order])
    )
    return compare_with(name, ours, others, labels, lambda places: {place: documents.texts[place] for place in places})


def gather_evidence(
    run: runs.TrackedRun,
    version: Version,
    rows: LabelledFiles,
    scores: Scores,
    analysis: Analysis,
    comparison: PairedComparison | None,
) -> Evidence:
    """Return what the report of an evaluation is made of."""
    name = Path(rows.files[0].path).name
    subject = Subject(
        model=version.name,
        version=str(version.version),
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        run=f"evaluate {version.name} {version.version} on {name}",
        run_url=run.url,
        corpus=mask_secrets(", ".join(file.path for file in rows.files)),
        corpus_digest=rows.digest,
        seeds="",
        code=describe_code(),
        documents=name,
    )
    return Evidence(
        subject,
        list(scores.classes),
        {f"version {version.version}": scores},
        analysis,
        comparisons=[comparison] if comparison else [],
    )


def name_report(model: str, version: str, file: str) -> str:
    """Return the name of the report on a file."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", file.partition(".")[0] or file).strip("-")[:_NAME]
    return f"{model}-{version}-{stem or 'file'}.html"


def _list_tags(version: Version, rows: LabelledFiles) -> dict[str, str]:
    """Return the tags of the MLflow run."""
    return {
        "gloveflow.kind": "evaluation",
        "gloveflow.model": str(version.name),
        "gloveflow.version": str(version.version),
        "gloveflow.file": mask_secrets(", ".join(file.path for file in rows.files)),
        "gloveflow.file_digest": rows.digest,
    }


def _read_training_texts(bundle: Path) -> np.ndarray | None:
    try:
        return read_training_texts(bundle)
    except UnusableModelError:
        return None


def _log(
    run: runs.TrackedRun,
    version: Version,
    rows: LabelledFiles,
    documents: Documents,
    scores: Scores,
    analysis: Analysis,
    page: str,
) -> None:
    """Log scores, report and the digest of the files to the MLflow run."""
    values = {f"file_{name}": scores.value_of(name) for name in SCORE_NAMES}
    found = {name: value for name, value in values.items() if value is not None}
    counts = {
        "file_documents": len(rows.texts),
        "file_unknown_labels": rows.unknown.total(),
        "file_left_out": rows.left_out.total(),
        "file_seen": 0 if documents.seen is None else int(documents.seen.sum()),
    }
    metrics.log_metrics(run.run_id, found | {name: float(count) for name, count in counts.items()})
    runs.log_json(run.run_id, scores.model_dump(mode="json"), f"reports/{METRICS_FILE}")
    runs.log_json(run.run_id, analysis.model_dump(mode="json"), f"reports/{Analysis.file_name}")
    runs.log_text(run.run_id, page, "report.html")
    runs.log_dataset(
        run.run_id,
        name=Path(rows.files[0].path).name,
        digest=rows.digest,
        place=rows.files[0].path,
        context="evaluation",
        rows=len(rows.texts),
    )
    verdict = "\n".join(f"- {finding.text}" for finding in analysis.verdict)
    runs.log_tags(run.run_id, {"mlflow.note.content": f"{version.name} version {version.version}\n\n{verdict}"[:4900]})
