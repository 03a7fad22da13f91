"""The flow `train-classifier`: every stage from the sources to the registered model, in order.

It takes a `PipelineConfig`, runs the stages (independent ones at the same time), logs to one MLflow run, and returns a
summary.
"""

import logging
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, cast

from prefect import flow, runtime
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.states import Cancelled

from flows.approval import ask_on_page
from flows.outputs import PipelineResult, RunOutputs, Scores, StageSummary
from flows.publishing import log_decision, log_results, publish_link, publish_results
from flows.recovery import hold_flow_run, sweep
from flows.report import publish_report
from pipeline_config.contracts.analysis import Analysis
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.errors import GloveflowError, ServiceError
from pipeline_config.masking import masked_errors, split_user
from pipeline_config.settings import PipelineConfig
from tasks.batches.bucket_corpus import bucket_corpus
from tasks.corpus.ingest_corpus import find_corpus, ingest_corpus
from tasks.embeddings.align_embeddings import align_embeddings
from tasks.evaluation.evaluate_classifier import compare_seeds, evaluate_classifier
from tasks.reading.sources import CorpusRef
from tasks.registry.register_model import Registration, register_model, require_champion
from tasks.runtime.cancellation import allow_work, stop_work
from tasks.runtime.loggers import open_loggers
from tasks.runtime.parent import end_with_parent
from tasks.served.tokenizers import identify_tokenizer
from tasks.store.artifacts import ArtifactRef, SourceRef
from tasks.tokens.availability import check_tokenizer
from tasks.tokens.build_vocabulary import build_vocabulary
from tasks.tokens.tokenize_corpus import tokenize_corpus
from tasks.tracking.reachability import require_tracking_server
from tasks.tracking.runs import TrackedRun, log_tags_if_possible, track_run
from tasks.training.train_baseline import train_baseline
from tasks.training.train_classifier import check_machine, train_classifier
from tasks.vectors.download_glove import download_glove, find_vectors

logger = logging.getLogger(__name__)
STOP_SECONDS = 3.0
Future: TypeAlias = PrefectFuture[ArtifactRef]


class DataStages(NamedTuple):
    """The task runs before training, in the order of the data; None for those of vectors in a run without vectors."""

    glove: PrefectFuture[SourceRef] | None
    corpus: PrefectFuture[CorpusRef]
    vectors: Future | None
    documents: Future
    tokens: Future
    vocabulary: Future
    embeddings: Future | None
    buckets: Future
    baseline: Future


class Training(NamedTuple):
    """The task runs of one seed."""

    classifier: Future
    evaluation: Future


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
    with track_run(config, name=runtime.flow_run.name, tags=_prefect_tags()) as run:
        publish_link(run.url)
        data = submit_data_stages(config, run.run_id)
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
            for name, scores in outputs.evaluation.read_model(Metrics).test.by_model()
        },
        spread=spread,
        registration=answered,
        mlflow_url=run.url,
        flow_run_url=_flow_run_url(),
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


def submit_data_stages(config: PipelineConfig, run_id: str) -> DataStages:
    """Start everything that comes before training; stages that do not depend on each other run at the same time."""
    seed, wanted = config.seed, config.embeddings.source != "none"
    glove = find_vectors.submit(config.embeddings) if wanted else None
    vectors = download_glove.submit(glove, config.embeddings) if wanted else None
    corpus = find_corpus.submit(config.corpus)
    documents = ingest_corpus.submit(corpus, config.corpus, seed)
    tokenizer = identify_tokenizer(config.tokenization.tokenizer)
    tokens = tokenize_corpus.submit(documents, config.tokenization, tokenizer)
    baseline = train_baseline.submit(documents, config.baseline)
    if not _vectors_usable([glove, vectors], config, run_id):
        glove = vectors = None
    extension = vectors if config.vocabulary.extend_from_vectors else None
    vocabulary = build_vocabulary.submit(tokens, config.vocabulary, extension)
    buckets = bucket_corpus.submit(tokens, vocabulary, config.bucketing, seed)
    embeddings = vectors and align_embeddings.submit(vocabulary, vectors, tokens, config.alignment, seed)
    return DataStages(
        glove=glove,
        corpus=corpus,
        vectors=vectors,
        documents=documents,
        tokens=tokens,
        vocabulary=vocabulary,
        embeddings=embeddings,
        buckets=buckets,
        baseline=baseline,
    )


def submit_trainings(data: DataStages, config: PipelineConfig, run_id: str) -> list[Training]:
    """Start a training and its evaluation for each seed; a single training logs live metrics to the MLflow run."""
    seeds = config.training.seeds or (config.seed,)
    trainings = []
    for seed in seeds:
        classifier = train_classifier.submit(
            data.buckets,
            data.vocabulary,
            data.embeddings,
            config.embeddings.dim,
            config.bucketing.batch_size,
            config.model,
            config.training,
            seed,
            run_id=run_id if len(seeds) == 1 else None,
        )
        evaluation = evaluate_classifier.submit(
            classifier, data.buckets, data.baseline, data.documents, data.vocabulary, data.embeddings, config.evaluation
        )
        trainings.append(Training(classifier, evaluation))
    return trainings


def collect_outputs(data: DataStages, training: Training) -> RunOutputs:
    """Return the outputs of finished stages."""
    return RunOutputs(
        vectors=data.vectors.result() if data.vectors else None,
        documents=data.documents.result(),
        tokens=data.tokens.result(),
        vocabulary=data.vocabulary.result(),
        embeddings=data.embeddings.result() if data.embeddings else None,
        buckets=data.buckets.result(),
        baseline=data.baseline.result(),
        classifier=training.classifier.result(),
        evaluation=training.evaluation.result(),
    )


def list_stage_runs(data: DataStages, training: Training) -> list[Future]:
    """Return the task runs of stages that exist, in the order of the data."""
    _, _, *stages = data  # without the sources
    return [run for run in (*stages, *training) if run is not None]


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


def raise_first_error(futures: Sequence[PrefectFuture[Any] | None]) -> None:
    """Wait for task runs, given in the order of the data, and raise the error of the first that failed.

    A task run that never started, because one before it failed, is not a failure of its own.
    """
    for future in futures:
        if future is not None:
            future.wait()
            if future.state.is_failed() or future.state.is_crashed():
                future.result()


def summarize_stage(future: Future) -> StageSummary:
    """Return the summary of a finished stage."""
    output = future.result()
    facts = {key: value for key, value in output.facts.items() if key != "seconds"}
    return StageSummary(
        name=output.stage, cached=future.state.name == "Cached", seconds=output.facts["seconds"], facts=facts
    )


def _vectors_usable(futures: Sequence[PrefectFuture[Any] | None], config: PipelineConfig, run_id: str) -> bool:
    """Wait for the vectors if the run may go on without them, and return whether there are any.

    With `embeddings.on_failure=train_from_scratch` a failure is logged, here and in the MLflow run.
    """
    if config.embeddings.on_failure == "error":
        return True
    try:
        raise_first_error(futures)
    except GloveflowError as error:
        logger.warning(
            "NO PRE-TRAINED VECTORS: %s is not available (%s). The embedding layer is trained from scratch, as "
            "embeddings.on_failure says",
            config.embeddings.source,
            error,
        )
        log_tags_if_possible(run_id, {"gloveflow.embeddings": f"trained from scratch: {error}"[:4000]})
        return False
    return True


def _flow_run_url() -> str:
    return split_user(str(runtime.flow_run.ui_url or ""))[0]


def _prefect_tags() -> dict[str, str]:
    return {
        "prefect.flow_run_id": str(runtime.flow_run.id),
        "prefect.flow_run_name": str(runtime.flow_run.name),
        "prefect.flow_run_url": _flow_run_url(),
    }
