"""The flow `monitor-texts`: compare the texts that were scored with what the model was trained for.

The window holds the scorings of a version since the last window that had enough texts. It is compared with the held-out
documents of the version, and with the window before. One MLflow run holds the tests, the sample of the window and the
page; the Prefect run has the findings, and an event for automations.
"""

import json
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
from prefect import flow, runtime
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.events import emit_event
from pydantic import BaseModel, ConfigDict

from flows.publishing import list_flow_tags, on_page, publish_link
from flows.recovery import hold_flow_run, sweep
from flows.report import write_whole
from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import UnusableModelError
from pipeline_config.masking import masked_errors
from pipeline_config.names import check_alias, check_model_name
from pipeline_config.operation import MonitoringConfig
from tasks.monitoring.accuracy import estimate_accuracy
from tasks.monitoring.drift import compare_samples
from tasks.monitoring.examples import choose_examples, name_words
from tasks.monitoring.findings import Finding, describe_estimate, find_outcome, list_findings
from tasks.monitoring.page import Monitoring, render_monitoring
from tasks.monitoring.reference import read_reference
from tasks.monitoring.retraining import Recommendation, recommend_retraining
from tasks.monitoring.sample import SAMPLE, SAMPLE_FILE, read_sample, write_sample
from tasks.monitoring.window import Window, read_texts, read_window
from tasks.runtime.escaping import escape_markdown
from tasks.runtime.loggers import open_loggers
from tasks.runtime.parent import end_with_parent
from tasks.store.artifacts import artifacts_root
from tasks.tracking import metrics, runs, scorings
from tasks.tracking.loaded import BUNDLE, describe_files
from tasks.tracking.loading import require_served
from tasks.tracking.model_files import Version, open_verified, version_uri
from tasks.tracking.reachability import require_tracking_server

_MILLISECONDS = 1000
_DAY = 86_400
REFERENCE = "the held-out documents of the version"
BEFORE = "the window before"


class MonitoringResult(BaseModel):
    """The result of a monitoring.

    Attributes:
        model: name of the model.
        version: its version.
        outcome: changed, unchanged, or too_few texts to say.
        texts: texts of the window with an answer.
        findings: what was found, a sentence each.
        retrain: whether retraining is recommended.
        reason: why or why not.
        report: path of the page.
        mlflow_url: address of the page of the MLflow run.
    """

    model_config = ConfigDict(frozen=True)

    model: str
    version: str
    outcome: str
    texts: int
    findings: tuple[str, ...]
    retrain: bool
    reason: str
    report: str
    mlflow_url: str = ""


@flow(name="monitor-texts", persist_result=False)
def monitor_texts(
    *, model: str, alias: str = "champion", days: float | None = None, rule: MonitoringConfig | None = None
) -> MonitoringResult:
    """Compare the texts that a version has scored with those that it was trained for.

    Args:
        model: name of the registered model.
        alias: alias of its version.
        days: so many days of scorings; None is since the last window that had enough texts. A window of days is not
            counted for the recommendation, since it may overlap with others.
        rule: when retraining is recommended.

    Raises:
        ConfigError: model or alias is no such name.
        ServiceError: there is no such version, or MLflow does not answer.
        UnusableModelError: the files of the version are gone or changed, or an older release made them.
    """
    check_model_name(model, "model")
    check_alias(alias, "alias")
    open_loggers()
    end_with_parent()
    with masked_errors():
        require_tracking_server()
        hold_flow_run(str(runtime.flow_run.id))
        sweep()
        return _monitor(require_served(model, alias), days, rule or MonitoringConfig())


class _Basis(NamedTuple):
    """What a version's window is compared with: its reference and vocabulary, how files are read, earlier windows."""

    reference: pa.Table
    vocabulary: list[str]
    reading: Reading
    earlier: list[scorings.RecordedRun]


def _monitor(version: Version, days: float | None, rule: MonitoringConfig) -> MonitoringResult:
    """Compare, and record the result in one MLflow run and on the page of the Prefect run."""
    name, number = str(version.name), int(version.version)
    basis = _read_basis(version)
    start = _find_start(basis.earlier, days)
    window = read_window(scorings.list_runs("scoring", name, number, after=start))
    end = max((run.ended for run in window.scorings), default=start)
    tags = {"gloveflow.kind": "monitoring", **list_flow_tags()}
    with runs.track_version("monitoring", name, name=str(runtime.flow_run.name), tags=tags, version=number) as run:
        publish_link(run.url)
        found = _examine(version, basis, window, rule, span=_show_span(start, end), counts=days is None)
        path, page = artifacts_root() / "reports" / f"{name}-{number}-monitoring.html", render_monitoring(found)
        write_whole(path, page)
        _log(run, found, window, page, end=end if days is None else None)
        _publish(found, run.url)
    return MonitoringResult(
        model=name,
        version=str(number),
        outcome=found.outcome,
        texts=window.texts,
        findings=tuple(finding.text for finding in found.findings),
        retrain=found.recommendation.retrain,
        reason=found.recommendation.reason,
        report=str(path),
        mlflow_url=run.url,
    )


def _examine(
    version: Version, basis: _Basis, window: Window, rule: MonitoringConfig, *, span: str, counts: bool
) -> Monitoring:
    """Compare a window with the reference and the window before; `counts` says whether the rule counts the window."""
    comparison = compare_samples(basis.reference, window.sample)
    outcome, texts = find_outcome(comparison), read_texts(window, basis.reading)
    words = name_words(comparison.words, texts, basis.vocabulary) if comparison else ([], [])
    estimate = estimate_accuracy(basis.reference, window.sample)
    findings = list_findings(comparison, basis.reference, window.sample, words, against=REFERENCE)
    outputs = [scoring.params.get("output", "") for scoring in window.scorings]
    outcomes = [run.tags[scorings.OUTCOME_TAG] for run in basis.earlier]
    return Monitoring(
        model=str(version.name),
        version=str(version.version),
        window=span,
        date=_show_time(int(time.time() * _MILLISECONDS)),
        texts=window.texts,
        scorings=len(window.scorings),
        outcome=outcome,
        findings=[*findings, describe_estimate(estimate)],
        before=_compare_with_previous(basis, window, texts),
        comparison=comparison,
        more=words[0],
        less=words[1],
        examples=choose_examples(comparison.words, texts, window.sample, outputs) if comparison else [],
        missing=texts.count(None),
        estimate=estimate,
        recommendation=_recommend(version, [*outcomes, *([outcome] if counts else [])], rule),
    )


def _read_basis(version: Version) -> _Basis:
    """Return what windows of a version are compared with; earlier ones are those that had enough texts."""
    with open_verified(version) as folder:
        try:
            reference = read_reference(folder / BUNDLE)
        except UnusableModelError as error:
            raise UnusableModelError(f"{version_uri(version)}: {error}") from error
        vocabulary = json.loads((folder / BUNDLE / "vocabulary.json").read_text("utf-8"))
        reading = describe_files(version_uri(version), folder).reading
    done = scorings.list_runs("monitoring", str(version.name), int(version.version))
    decided = [run for run in done if run.tags.get(scorings.OUTCOME_TAG) in ("changed", "unchanged")]
    return _Basis(reference, vocabulary, reading, decided)


def _find_start(earlier: Sequence[scorings.RecordedRun], days: float | None) -> int:
    """Return when the window begins, ms since 1970: so many days ago, or at the end of the last window."""
    if days is not None:
        return int((time.time() - days * _DAY) * _MILLISECONDS)
    return max((int(run.tags.get(scorings.END_TAG, 0)) for run in earlier), default=0)


def _recommend(version: Version, outcomes: Sequence[str], rule: MonitoringConfig) -> Recommendation:
    """Return whether to retrain, given the outcomes of all windows of a version."""
    labelled = {
        run.tags.get(scorings.DIGEST_TAG, run.run_id): run.metrics.get(scorings.LABELLED, 0.0)
        for run in scorings.list_runs("labels", str(version.name), int(version.version))
    }
    return recommend_retraining(
        [{"changed": True, "unchanged": False}.get(outcome) for outcome in outcomes],
        days=(time.time() - int(version.creation_timestamp) / _MILLISECONDS) / _DAY,
        labelled=int(sum(labelled.values())),
        in_a_row=rule.windows_in_a_row,
        cool_down_days=rule.cool_down_days,
        fewest_labelled=rule.new_labels,
    )


def _compare_with_previous(basis: _Basis, window: Window, texts: Sequence[str | None]) -> list[Finding]:
    if not basis.earlier:
        return []
    with scorings.open_file(basis.earlier[-1].run_id, SAMPLE_FILE) as path:
        if path is None:
            return []
        previous = read_sample(path)
    comparison = compare_samples(previous, window.sample)
    words = name_words(comparison.words, texts, basis.vocabulary) if comparison else ([], [])
    return list_findings(comparison, previous, window.sample, words, against=BEFORE)


def list_metrics(found: Monitoring) -> dict[str, float]:
    """Return the figures of a monitoring as metrics."""
    values = {"texts": float(found.texts), "changed": float(found.outcome == "changed")}
    if found.comparison is not None:
        for shift in found.comparison.shifts:
            name = shift.measure.replace(" ", "_")
            values |= {f"effect/{name}": shift.effect, f"p_value/{name}": shift.p_value}
        values["domain_auc"] = found.comparison.words.auc
    if found.estimate is not None:
        names = ("average_confidence", "confidence_difference", "confident_share", "low", "high")
        values |= {f"accuracy/{name}": getattr(found.estimate, name) for name in names}
    return values


def _log(run: runs.TrackedRun, found: Monitoring, window: Window, page: str, *, end: int | None) -> None:
    """Log figures, page and sample to the MLflow run; with an end, it is a window that the next one begins after."""
    metrics.log_metrics(run.run_id, list_metrics(found))
    runs.log_text(run.run_id, page, "report.html")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, SAMPLE_FILE)
        write_sample(path, window.sample.select(SAMPLE.names))
        runs.log_file(run.run_id, path)
    note = "\n".join(f"- {finding.text}" for finding in found.findings)
    window_tags = {} if end is None else {scorings.END_TAG: str(end), scorings.OUTCOME_TAG: found.outcome}
    runs.log_tags(run.run_id, {"mlflow.note.content": note[:4900], **window_tags})


def _publish(found: Monitoring, url: str) -> None:
    """Show the findings on the page of the Prefect run, and emit an event."""
    lines = [f"- {escape_markdown(finding.text)}" for finding in [*found.findings, *found.before]]
    with on_page("the findings"):
        create_markdown_artifact(
            key="monitoring",
            description=f"{found.model} version {found.version}: {found.outcome}",
            markdown="\n".join([f"## {found.outcome}", *lines, "", escape_markdown(found.recommendation.reason)]),
        )
        if found.comparison:
            create_table_artifact(
                key="monitoring-tests",
                table=[shift._asdict() for shift in found.comparison.shifts],
                description=f"The tests; [MLflow]({url})",
            )
        emit_event(
            event=f"gloveflow.monitoring.{found.outcome}",
            resource={"prefect.resource.id": f"gloveflow.model.{found.model}"},
            payload=describe_event(found),
        )


def describe_event(found: Monitoring) -> dict[str, Any]:
    """Return what the event tells; it holds no texts and no words of texts."""
    shifts = found.comparison.shifts if found.comparison else ()
    return {
        "version": found.version,
        "outcome": found.outcome,
        "texts": found.texts,
        "changed": [shift.measure for shift in shifts if shift.changed],
        "retrain": found.recommendation.retrain,
    }


def _show_span(start: int, end: int) -> str:
    if end == start:
        return f"no scorings since {_show_time(start)}" if start else "no scorings yet"
    return f"{_show_time(start)} to {_show_time(end)}" if start else f"until {_show_time(end)}"


def _show_time(milliseconds: int) -> str:
    return f"{datetime.fromtimestamp(milliseconds / _MILLISECONDS, UTC):%Y-%m-%d %H:%M} UTC"
