"""What a run publishes: results in the MLflow run, artifacts on the page of the Prefect run.

Publishing twice shows everything once.
"""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client, runtime, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact, create_table_artifact
from prefect.client.schemas.objects import State
from prefect.exceptions import ObjectNotFound
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings
from prefect.states import Crashed

from flows.outputs import RunOutputs
from pipeline_config.contracts.batches import PaddingReport
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.decision import Decision
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.masking import masked_errors, split_user
from pipeline_config.rules import ChosenSettings
from pipeline_config.schemas import (
    DECISION_FILE,
    DOCUMENTS_FILE,
    EPOCHS_FILE,
    METRICS_FILE,
    PROFILE_FILE,
    STEPS_FILE,
    VECTORS_FILE,
)
from tasks.registry.register_model import Registration, describe_scores
from tasks.reporting.evidence import name_scores
from tasks.runtime.escaping import escape_markdown
from tasks.store.artifacts import ArtifactRef
from tasks.tracking import metrics, run_settings, runs, server

logger = logging.getLogger(__name__)
_FURTHER_SCORES = ("balanced_accuracy", "mcc", "ece")  # of the registered model, beside the headlines
_REPORTS = {
    "ingest_corpus": PROFILE_FILE,
    "align_embeddings": CoverageReport.file_name,
    "bucket_corpus": PaddingReport.file_name,
    "evaluate_classifier": METRICS_FILE,
}


@task(name="log_results", task_run_name="log results", persist_result=False)
@masked_errors()
def log_results(run: runs.TrackedRun, outputs: RunOutputs, spread: dict[str, float]) -> None:
    """Log facts, history, reports, tables and datasets of the stages' outputs to the MLflow run.

    Args:
        run: the MLflow run.
        outputs: the stage outputs.
        spread: mean and deviation over seeds; empty for a single seed.
    """
    identity, by_stage, evaluation = run.run_id, outputs.by_stage(), outputs.evaluation
    metrics.log_metrics(identity, gather_metrics(outputs) | {f"seeds/{key}": value for key, value in spread.items()})
    for name, marker in ((EPOCHS_FILE, "train_loss"), (STEPS_FILE, "step_loss")):
        metrics.log_history(identity, outputs.classifier.read_table(name).to_pylist(), marker=marker)
    for stage, name in _REPORTS.items():
        if stage in by_stage:
            runs.log_file(identity, by_stage[stage].path(name), "reports")
    tables = report_tables(outputs)
    for name, rows in tables.items():
        runs.log_table(identity, rows, name)
    with on_page("the tables of the data"):
        for name, rows in tables.items():
            create_table_artifact(key=f"table-{name}", table=rows, description=f"{name} of the data")
    _log_datasets(identity, outputs)
    keys = {stage: output.model_dump(include={"key", "digest", "facts"}) for stage, output in by_stage.items()}
    runs.log_json(identity, keys, "reports/outputs.json")
    runs.log_tags(identity, {"mlflow.note.content": describe_scores(evaluation.read_model(Metrics))})


def publish_chosen(run_id: str, chosen: ChosenSettings) -> None:
    """Log the settings that rules chose, each with its reason: a line, parameters and a table of the MLflow run."""
    for key, choice in chosen.choices.items():
        logger.info("%s = %s, by the rule: %s", key, choice.value, choice.reason)
    run_settings.log_chosen_settings(run_id, chosen.config, chosen.choices)
    rows = [{"setting": key, **choice.model_dump()} for key, choice in chosen.choices.items()]
    runs.log_table(run_id, rows, "settings_by_rule")


def log_decision(run_id: str, decision: Decision) -> None:
    """Log the decision of the gate to the MLflow run."""
    runs.log_json(run_id, decision.model_dump(mode="json"), f"reports/{DECISION_FILE}")


def gather_metrics(outputs: RunOutputs) -> dict[str, float]:
    """Return scores and numeric facts as metrics: `<split>_<score>`, `<stage>/<fact>`, `seconds/<stage>`.

    `<split>_<score>` is of the registered model, `<split>_lstm_<score>` and `<split>_baseline_<score>` of the network
    and of the linear model alone.
    """
    metrics: dict[str, float] = {}
    evaluated = outputs.evaluation.read_model(Metrics)
    for split, models in evaluated.by_split():
        registered = models.of(evaluated.candidate)
        further = {name: getattr(registered, name) for name in _FURTHER_SCORES}
        metrics.update({f"{split}_{key}": value for key, value in (registered.headlines() | further).items()})
        for model, scores in (("lstm", models.lstm), ("baseline", models.baseline)):
            metrics.update({f"{split}_{model}_{key}": value for key, value in scores.headlines().items()})
    for stage, output in outputs.by_stage().items():
        metrics[f"seconds/{stage}"] = output.facts["seconds"]
        if stage != "evaluate_classifier":
            numbers = {key: value for key, value in output.facts.items() if isinstance(value, int | float)}
            metrics.update({f"{stage}/{key}": float(value) for key, value in numbers.items() if key != "seconds"})
    return metrics


def report_tables(outputs: RunOutputs) -> dict[str, list[dict[str, Any]]]:
    """Return the reports of the data stages as tables: classes, findings, padding; with vectors, coverage, misses."""
    profile = outputs.documents.read_model(CorpusProfile)
    padding = outputs.buckets.read_model(PaddingReport)
    single = ("rows", "unlabelled", "left_out", "duplicates", "conflicting_labels", "leaked", "near_duplicates_leaked")
    findings = {
        **{name: getattr(profile, name) for name in single},
        **{f"rejected: {reason}": count for reason, count in profile.rejected.items()},
        **{f"texts with {name}": count for name, count in profile.oddities.items()},
    }
    tables: dict[str, list[dict[str, Any]]] = {
        "classes": [{"class": n, **{s: c.get(n, 0) for s, c in profile.documents.items()}} for n in profile.labels],
        "findings": [{"finding": name, "count": count} for name, count in findings.items()],
        "padding": [
            {
                "scheme": name,
                "chosen": name == padding.scheme,
                "efficiency": round(report.efficiency, 4),
                "batches": report.batches,
                "buckets": len(report.boundaries),
                **{f"batch_tokens_p{q}": n for q, n in zip((5, 50, 95), report.batch_tokens, strict=True)},
                **{f"batch_documents_p{q}": n for q, n in zip((5, 50, 95), report.batch_documents, strict=True)},
            }
            for name, report in padding.schemes.items()
        ],
    }
    if outputs.embeddings:
        coverage = outputs.embeddings.read_model(CoverageReport)
        tables["coverage"] = [
            {"split": split, "part": part, "token_coverage": round(share, 4)}
            for split, total in coverage.tokens.items()
            for part, share in [
                ("all", total),
                *((f"class {label}", value) for label, value in coverage.tokens_by_class[split].items()),
                *((f"source {name}", value) for name, value in coverage.tokens_by_source[split].items()),
            ]
        ]
        tables["misses"] = [{"token": token, "train_count": count} for token, count in coverage.misses.items()]
    return tables


def find_page() -> str:
    """Return the address of the page of this flow run, without a password; empty without a page."""
    return split_user(str(runtime.flow_run.ui_url or ""))[0]


def list_flow_tags() -> dict[str, str]:
    """Return the tags by which an MLflow run names this flow run."""
    return {
        "prefect.flow_run_id": str(runtime.flow_run.id),
        "prefect.flow_run_name": str(runtime.flow_run.name),
        "prefect.flow_run_url": find_page(),
    }


def publish_link(url: str) -> None:
    """Link the MLflow run on the page of the Prefect run."""
    with on_page("the link to MLflow"):
        create_link_artifact(link=url, link_text="MLflow run", key="mlflow-run", description=f"MLflow run: {url}")


def publish_results(evaluation: ArtifactRef, registration: Registration, *, url: str, spread: dict[str, float]) -> None:
    """Show scores and the registered version on the page of the Prefect run; `url` is that of the MLflow run."""
    with on_page("the results"):
        create_table_artifact(
            key="decision",
            table=decision_table(registration.decision),
            description=f"The gate on version {registration.version}: {escape_markdown(registration.reason)}",
        )
        create_table_artifact(
            key="results",
            table=results_table(evaluation, spread),
            description=f"Scores on held-out documents; [MLflow run]({url})",
        )
        version_url = server.model_url(registration.model, registration.version)
        create_markdown_artifact(
            key="registered-model",
            description="The registered version and the decision of the gate",
            markdown=(
                f"## [{escape_markdown(registration.model)} version {registration.version}]({version_url})\n\n"
                f"{escape_markdown(registration.reason)}\n\n{describe_scores(evaluation.read_model(Metrics))}\n"
            ),
        )


def decision_table(decision: Decision) -> list[dict[str, Any]]:
    """Return the rules of the gate with their figures, a row for each."""
    return [
        {
            "rule": result.rule,
            "passed": "yes" if result.passed else "no",
            "outcome": result.outcome,
            "value": "" if result.value is None else round(result.value, 4),
            "other": "" if result.other is None else round(result.other, 4),
            "difference": "" if result.difference is None else round(result.difference.value, 4),
            "low": "" if result.difference is None else round(result.difference.low, 4),
            "high": "" if result.difference is None else round(result.difference.high, 4),
            "reason": result.reason,
        }
        for result in decision.rules
    ]


@contextlib.contextmanager
def on_page(what: str) -> Iterator[None]:
    """Let the run go on without what its page shows if Prefect is away; asked at most twice, and logged."""
    try:
        with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 1}):
            yield
    except httpx.HTTPError as error:
        logger.warning("the page of the Prefect run lacks %s: Prefect does not answer: %s", what, error)


def results_table(evaluation: ArtifactRef, spread: dict[str, float]) -> list[dict[str, Any]]:
    """Return accuracy, macro F1, log-loss and documents, a row per split and model; the spread over seeds is last."""
    metrics = evaluation.read_model(Metrics)
    rows = [
        {
            "split": split,
            "model": model,
            **{key: round(value, 4) for key, value in scores.headlines().items()},
            "documents": scores.documents,
        }
        for split in ("test", "validation")
        for model, scores in name_scores(metrics, split).items()
    ]
    return rows + [
        {
            "split": split,
            "model": f"{name} of {spread['count']:.0f} seeds",
            "documents": "",
            **{key: round(spread[f"{split}_{key}_{name}"], 4) for key in ("accuracy", "macro_f1", "log_loss")},
        }
        for split in ("test", "validation")
        for name in ("mean", "deviation")
        if spread
    ]


def close_flow_runs(flow_run_ids: list[str]) -> None:
    """Set flow runs to Crashed whose process is gone; those that are final or unknown stay as they are."""
    if not flow_run_ids:
        return
    with get_client(sync_client=True) as client:
        for identity in flow_run_ids:
            try:
                state = client.read_flow_run(UUID(identity)).state
                if state is not None and not state.is_final():
                    crashed: State[None] = Crashed(message="The process of this run is gone.")
                    client.set_flow_run_state(UUID(identity), crashed, force=True)
                    logger.warning(
                        "flow run %s was left %s by a process that is gone: now Crashed", identity, state.name
                    )
            except ObjectNotFound:
                logger.info("flow run %s does not exist on this Prefect server", identity)


def _log_datasets(run_id: str, outputs: RunOutputs) -> None:
    documents, vectors = outputs.documents, outputs.vectors
    for split, counts in documents.read_model(CorpusProfile).documents.items():
        runs.log_dataset(
            run_id,
            name=f"documents-{split}",
            digest=documents.digest,
            place=documents.path(DOCUMENTS_FILE),
            context=split,
            rows=sum(counts.values()),
        )
    if vectors:
        runs.log_dataset(
            run_id,
            name="vectors",
            digest=vectors.digest,
            place=vectors.path(VECTORS_FILE),
            context="embeddings",
            rows=vectors.count_rows(VECTORS_FILE),
        )
