"""The flow `train-classifier`: every stage from the sources to the registered model, in order.

It takes a `PipelineConfig`, runs the stages (independent ones at the same time), logs to one MLflow run, and returns a
summary.
"""

import logging
import resource
import time
from pathlib import Path
from typing import Any, cast

from prefect import flow, runtime
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.states import Cancelled

from flows.approval import ask_on_page
from flows.outputs import PipelineResult, RunOutputs, Scores, StageSummary
from flows.publishing import find_page, list_flow_tags, log_decision, log_results, publish_link, publish_results
from flows.recovery import hold_flow_run, sweep
from flows.report import publish_report
from flows.stages import (
    Future,
    choose_open_settings,
    collect_outputs,
    list_stage_runs,
    raise_first_error,
    submit_data_stages,
    submit_sources,
    submit_trainings,
)
from pipeline_config.contracts.analysis import Analysis
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.errors import ServiceError
from pipeline_config.masking import masked_errors
from pipeline_config.settings import PipelineConfig
from tasks.evaluation.evaluate_classifier import compare_seeds
from tasks.registry.register_model import Registration, register_model, require_champion
from tasks.reporting.evidence import name_scores
from tasks.runtime.cancellation import allow_work, stop_work
from tasks.runtime.loggers import open_loggers
from tasks.runtime.parent import end_with_parent
from tasks.tokens.availability import check_tokenizer
from tasks.tracking.reachability import require_tracking_server
from tasks.tracking.runs import TrackedRun, track_run
from tasks.training.train_classifier import check_machine

logger = logging.getLogger(__name__)
STOP_SECONDS = 3.0


def name_flow_run() -> str:
    """Return a flow run's name: the configuration's name and the time."""
    config = runtime.flow_run.parameters.get("config")
    name = config.get("name") if isinstance(config, dict) else getattr(config, "name", None)
    return f"{name or PipelineConfig.model_fields['name'].default} {time.strftime('%Y-%m-%d %H:%M:%S')}"


@flow(name="train-classifier", flow_run_name=name_flow_run, persist_result=False)
def train_pipeline(config: PipelineConfig) -> PipelineResult:
    """Train, evaluate and register a text classifier on pre-trained GloVe vectors."""
    open_loggers()
    allow_work()
    end_with_parent()
    hold_flow_run(str(runtime.flow_run.id))
    require_tracking_server()
    try:
        with masked_errors():
            sweep()
            return run_stages(config)
    except KeyboardInterrupt:
        abandon_tasks()
        return cast("PipelineResult", Cancelled(message="Interrupted by Ctrl-C"))
    except TerminationSignal:
        abandon_tasks()
        raise


def run_stages(config: PipelineConfig) -> PipelineResult:
    """Run the stages in order, inside one MLflow run."""
    started = time.perf_counter()
    config.corpus.require_source()
    check_machine(config.training)
    check_tokenizer(config.tokenization)
    with track_run(config, name=runtime.flow_run.name, tags=list_flow_tags()) as run:
        publish_link(run.url)
        sources = submit_sources(config)
        config = choose_open_settings(config, sources, run.run_id)
        data = submit_data_stages(sources, config, run.run_id)
        trainings = submit_trainings(data, config, run.run_id)
        raise_first_error([*data, *(future for training in trainings for future in training)])
        spread, best = compare_seeds([training.evaluation.result() for training in trainings], config.training.metric)
        outputs = collect_outputs(data, trainings[best])
        registration, report = log_and_register(run, outputs, spread, config)
        publish_results(outputs.evaluation, registration, url=run.url, spread=spread)
        require_champion(registration, config)
    answered = ask_on_page(registration, config.registration)
    if answered != registration:
        log_decision(run.run_id, answered.decision)
        publish_results(outputs.evaluation, answered, url=run.url, spread=spread)
        report = publish_report(run, outputs, answered, config, spread)
    return PipelineResult(
        stages=[summarize_stage(future) for future in list_stage_runs(data, trainings[best])],
        test_scores={
            name: Scores(accuracy=scores.accuracy, macro_f1=scores.macro_f1)
            for name, scores in name_scores(outputs.evaluation.read_model(Metrics)).items()
        },
        spread=spread,
        registration=answered,
        mlflow_url=run.url,
        flow_run_url=find_page(),
        store={stage: str(output.directory) for stage, output in outputs.by_stage().items()},
        report=str(report),
        verdict=outputs.evaluation.read_model(Analysis).verdict,
        seconds=time.perf_counter() - started,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def log_and_register(
    run: TrackedRun, outputs: RunOutputs, spread: dict[str, float], config: PipelineConfig
) -> tuple[Registration, Path]:
    """Log the results to MLflow, register the model and publish the report; return the latter two.

    Raises:
        ServiceError: MLflow is away. All outputs are in the store; the same run again logs and registers them.
    """
    try:
        log_results(run, outputs, spread)
        registration = register_model(
            run,
            classifier=outputs.classifier,
            vocabulary=outputs.vocabulary,
            evaluation=outputs.evaluation,
            documents=outputs.documents,
            baseline=outputs.baseline,
            config=config,
        )
        log_decision(run.run_id, registration.decision)
        return registration, publish_report(run, outputs, registration, config, spread)
    except ServiceError as error:
        raise ServiceError(
            f"{error}. The results are kept; the same run again logs and registers them, once MLflow answers"
        ) from error


def abandon_tasks() -> None:
    """Stop the tasks that run in other threads; do not wait longer than `STOP_SECONDS` for those that go on."""
    stop_work()
    context = FlowRunContext.get()
    runner: Any = context.task_runner if context else None
    executor = getattr(runner, "_executor", None)
    if executor is not None:
        runner._executor = None  # otherwise the end of the flow would wait for every running thread
        executor.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in executor._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def summarize_stage(future: Future) -> StageSummary:
    """Return the summary of a finished stage."""
    output = future.result()
    facts = {key: value for key, value in output.facts.items() if key != "seconds"}
    return StageSummary(
        name=output.stage, cached=future.state.name == "Cached", seconds=output.facts["seconds"], facts=facts
    )
