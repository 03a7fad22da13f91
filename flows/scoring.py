"""The flow `score-texts`: classify files of texts with a registered model (`tasks.scoring`), and record it.

The version of the model is looked up once, at the start. One MLflow run holds input, output, counts and the profile of
the texts; the page of the Prefect run shows the counts by label.
"""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
from prefect import flow, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled

from flows.publishing import list_flow_tags, on_page, publish_link
from flows.recovery import hold_flow_run, sweep
from pipeline_config.contracts.reading import Reading
from pipeline_config.masking import masked_errors
from pipeline_config.names import check_alias, check_model_name
from pipeline_config.operation import Runtime
from tasks.monitoring.sample import SAMPLE_FILE, write_sample
from tasks.runtime.cancellation import allow_work, stop_work
from tasks.runtime.loggers import open_loggers
from tasks.runtime.parent import end_with_parent
from tasks.scoring.outputs import parse_output
from tasks.scoring.profile import PROFILE
from tasks.scoring.registered import make_scoring_model
from tasks.scoring.request import Request, ScoringResult, change_reading
from tasks.scoring.score_texts import check_request, score_files
from tasks.scoring.writers import write_parquet
from tasks.tracking import metrics, runs
from tasks.tracking.loading import load_model, require_served
from tasks.tracking.reachability import require_tracking_server
from tasks.tracking.scorings import READING_TAG


@flow(name="score-texts", persist_result=False)
def score_file(
    *,
    source: str | list[str],
    output: str,
    model: str,
    alias: str = "champion",
    version: int | None = None,
    reading: dict[str, Any] | None = None,
    query: str | None = None,
    table: str | None = None,
    threshold: float | None = None,
    top_k: int | None = None,
    explain: int | None = None,
    runtime: Runtime = "torch",
) -> ScoringResult:
    """Write a model's answers to the texts in files.

    Args:
        source: what `corpus.source` takes, .txt files with a text per line, or folders of .txt files.
        output: what to write: a file that ends in .parquet, .csv or .jsonl, a directory of Parquet files (its name ends
            in /), on this machine or a file system of fsspec; or the URL of a database.
        model: name of the registered model.
        alias: alias of its version.
        version: number of its version, instead of an alias.
        reading: fields of `Reading` that differ from those that the model carries.
        query: the SQL that selects the rows of a database.
        table: name of the table to write, for a database.
        threshold: labels with a lower probability are marked in the column `abstained`.
        top_k: so many labels with their probabilities, in place of the probabilities of all classes.
        explain: up to so many tokens that weighed most for the label, in the column `explanation`.
        runtime: what computes the network; `onnx` needs the extra of that name.

    Raises:
        ConfigError: model or alias is no such name, or an option is wrong.
    """
    check_model_name(model, "model")
    check_alias(alias, "alias")
    open_loggers()
    allow_work()
    end_with_parent()
    options = {"threshold": threshold, "top_k": top_k, "explain": explain, "runtime": runtime}
    request = make_request(source, output, query=query, table=table, **options)
    try:
        with masked_errors():
            return _score_and_record(request, model=model, alias=alias, version=version, reading=reading or {})
    except KeyboardInterrupt:
        stop_work()
        return cast("ScoringResult", Cancelled(message="Interrupted by Ctrl-C"))
    except TerminationSignal:
        stop_work()
        raise


@task(name="score_texts", task_run_name="score texts", persist_result=False)
@masked_errors()
def score_texts(
    request: Request, *, model: str, alias: str, version: int | None = None, reading: Mapping[str, Any] | None = None
) -> ScoringResult:
    """Load the model, and read, classify and write the rows.

    Raises:
        InputError: a file cannot be read, or no row at all has a text that can be classified and some cannot be read.
    """
    change_reading(Reading(), reading or {})  # before the model is loaded, which takes seconds
    check_request(request)
    loaded = load_model(model, alias, version)
    scoring_model = make_scoring_model(model, loaded, request.runtime)
    return score_files(request, scoring_model, change_reading(loaded.reading, reading or {}))


def make_request(
    source: str | Sequence[str], output: str, *, query: str | None = None, table: str | None = None, **options: Any
) -> Request:
    """Return what to score, from the parameters of the flow; `options` are further fields of `Request`.

    Raises:
        ConfigError, InputError: the output cannot be one.
    """
    sources = [source] if isinstance(source, str) else list(source)
    return Request(sources, parse_output(output, table), query, **options)


def label_table(result: ScoringResult) -> list[dict[str, Any]]:
    """Return the number of rows by label, and of those without an answer, as the rows of a table."""
    answers = max(sum(result.labels.values()), 1)
    rows: list[dict[str, Any]] = [
        {"label": label, "rows": count, "share": round(count / answers, 4)} for label, count in result.labels.items()
    ]
    return rows + [{"label": f"(no answer: {reason})", "rows": n, "share": ""} for reason, n in result.rejected.items()]


def _score_and_record(
    request: Request, *, model: str, alias: str, version: int | None, reading: Mapping[str, Any]
) -> ScoringResult:
    """Score inside one MLflow run, and show the result on the page of the Prefect run."""
    check_request(request)
    require_tracking_server()
    hold_flow_run(str(runtime.flow_run.id))
    sweep()
    number = int(require_served(model, alias, version).version)
    params = {
        "model": model,
        "version": number,
        "source": " ".join(request.sources),
        "output": request.output.shown,
        "threshold": request.threshold,
        "top_k": request.top_k,
        "explain": request.explain,
        "runtime": request.runtime,
        **{f"reading.{name}": value for name, value in reading.items()},
    }
    tags = {**list_flow_tags(), READING_TAG: json.dumps(dict(reading))}
    with runs.track_scoring(model, name=str(runtime.flow_run.name), tags=tags, params=params) as run:
        publish_link(run.url)
        result = score_texts(request, model=model, alias=alias, version=number, reading=reading)
        _log_result(run, request, result)
        with on_page("the table of the labels"):
            create_table_artifact(
                key="scored-texts",
                table=label_table(result),
                description=f"{result.rows:,} rows in {result.output} by {model} version {number}; [MLflow]({run.url})",
            )
    return result.model_copy(update={"mlflow_url": run.url})


def _log_result(run: runs.TrackedRun, request: Request, result: ScoringResult) -> None:
    numbers = {
        "rows": result.rows,
        "rows_without_answer": result.skipped,
        "rows_rejected": sum(result.rejected.values()),
        "rows_resumed": result.resumed_rows,
        "seconds": result.seconds,
        "texts_per_second": result.texts_per_second,
        "undecodable_values": sum(result.undecodable.values()),
        **({} if result.abstained is None else {"abstained": result.abstained}),
    }
    metrics.log_metrics(run.run_id, {name: float(value) for name, value in numbers.items()})
    runs.log_table(run.run_id, label_table(result), "labels")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "profile.parquet")
        write_parquet(path, PROFILE, [pa.Table.from_pylist(result.profile, schema=PROFILE)])
        runs.log_file(run.run_id, path)
        path = Path(folder, SAMPLE_FILE)
        write_sample(path, result.sample)
        runs.log_file(run.run_id, path)
    runs.log_dataset(
        run.run_id,
        name="input",
        digest=result.input_digest,
        place=str(request.sources[0]),
        context="scoring-input",
        rows=result.rows,
    )
    runs.log_dataset(
        run.run_id,
        name="output",
        digest=result.digest or result.input_digest,
        place=str(result.output),
        context="scoring-output",
        rows=result.rows,
    )
