"""The report of a run: gathers its evidence, and publishes the page in MLflow and in `<artifacts>/reports`."""

import os
import uuid
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from prefect import runtime

from flows.outputs import RunOutputs
from pipeline_config.contracts.analysis import Analysis
from pipeline_config.contracts.batches import PaddingReport
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.errors import ConfigError
from pipeline_config.schemas import EPOCHS_FILE, buckets_file
from pipeline_config.settings import PipelineConfig
from tasks.batches.bucket_corpus import read_labels
from tasks.registry.register_model import Registration, describe_corpus
from tasks.reporting.evidence import Evidence, name_scores
from tasks.reporting.page import render_page
from tasks.reporting.subject import Difference, Subject, find_differences
from tasks.store.artifacts import artifacts_root
from tasks.store.commit import sync
from tasks.store.disk_errors import store_errors
from tasks.store.locks import file_lock
from tasks.tracking import runs, versions
from tasks.tracking.run_settings import list_settings
from tasks.tracking.version_list import RUN_TAG


def publish_report(
    run: runs.TrackedRun,
    outputs: RunOutputs,
    registration: Registration,
    config: PipelineConfig,
    spread: dict[str, float],
) -> Path:
    """Write the report of a registered version to `<artifacts>/reports` and to the MLflow run; return its path.

    Raises:
        StoreError: the file cannot be written.
        ServiceError: MLflow is away.
    """
    page = render_page(gather_evidence(run, outputs, registration, config, spread))
    path = artifacts_root() / "reports" / f"{registration.model}-{registration.version}.html"
    write_whole(path, page)
    runs.log_text(run.run_id, page, "report.html")
    return path


def gather_evidence(
    run: runs.TrackedRun,
    outputs: RunOutputs,
    registration: Registration,
    config: PipelineConfig,
    spread: dict[str, float],
) -> Evidence:
    """Return what the report of a run is made of."""
    metrics = outputs.evaluation.read_model(Metrics)
    return Evidence(
        subject=describe_subject(run, outputs, registration, config, spread),
        labels=read_labels(outputs.buckets),
        scores=name_scores(metrics),
        validation=name_scores(metrics, "validation"),
        analysis=outputs.evaluation.read_model(Analysis),
        comparisons=[registration.comparison] if registration.comparison else [],
        decision=registration.decision,
        epochs=outputs.classifier.read_table(EPOCHS_FILE).to_pylist(),
        profile=outputs.documents.read_model(CorpusProfile),
        lengths=outputs.buckets.map_table(buckets_file("train"))["length"].to_pylist(),
        coverage=outputs.embeddings.read_model(CoverageReport) if outputs.embeddings else None,
        padding=outputs.buckets.read_model(PaddingReport),
    )


def describe_subject(
    run: runs.TrackedRun,
    outputs: RunOutputs,
    registration: Registration,
    config: PipelineConfig,
    spread: dict[str, float],
) -> Subject:
    """Return what the report of a run is about."""
    champion = registration.decision.champion
    other = champion if champion != registration.version else None
    trainings = ", ".join(map(str, config.training.seeds))
    return Subject(
        model=registration.model,
        version=registration.version,
        date=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        run=str(runtime.flow_run.name or run.run_id),
        run_url=run.url,
        corpus=describe_corpus(config),
        corpus_digest=outputs.documents.digest,
        seeds=f"{config.seed}; trained with {trainings}" if trainings else str(config.seed),
        code=describe_code(),
        champion=other,
        differences=compare_with(registration.model, other, config) if other else None,
        spread=spread,
    )


def describe_code() -> str:
    """Return the commit of this code, or the version of the package outside of a git checkout."""
    commit = runs.find_commit()
    return f"commit {commit[:12]}" if commit else f"gloveflow {metadata.version('gloveflow')}"


def compare_with(model: str, version: str, config: PipelineConfig) -> tuple[Difference, ...] | None:
    """Return the settings that differ from those of a version's run; None if its run is gone."""
    try:
        tags = versions.require_version(model, int(version)).tags
    except ConfigError:
        return None
    record = versions.read_run(tags[RUN_TAG]) if RUN_TAG in tags else None
    return find_differences(list_settings(config), record.settings) if record else None


def write_whole(path: Path, text: str) -> None:
    """Write a file with mode 0600 that is never seen in part; what a killed writer left is removed.

    Raises:
        StoreError: it cannot be written.
    """
    with file_lock(path.parent / ".lock", waiting_for="another run to write its report"), store_errors(path):
        for stale in path.parent.glob(".tmp-*"):
            stale.unlink(missing_ok=True)
        temporary = path.with_name(f".tmp-{uuid.uuid4().hex[:8]}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            file.write(text)
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
