"""The flow `train-classifier`: every stage from the sources to the registered model, in order.

Takes a `PipelineConfig`, runs the stages (independent ones at the same time), keeps one MLflow run per flow
run, and returns a summary.
"""

import logging
import resource
import time
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, cast

from prefect import flow, runtime
from prefect.context import FlowRunContext
from prefect.exceptions import TerminationSignal
from prefect.futures import PrefectFuture
from prefect.states import Cancelled
from pydantic import BaseModel, ConfigDict

from flows.publishing import close_flow_runs, log_results, publish_link, publish_results
from pipeline_config.errors import GloveflowError
from pipeline_config.settings import PipelineConfig
from tasks.batches.bucket_corpus import bucket_corpus
from tasks.corpus.ingest_corpus import find_corpus, ingest_corpus
from tasks.embeddings.align_embeddings import align_embeddings
from tasks.evaluation.evaluate_classifier import compare_seeds, evaluate_classifier
from tasks.registry.register_model import Registration, register_model
from tasks.runtime.cancellation import allow_work, stop_work
from tasks.runtime.loggers import open_loggers
from tasks.served.tokenizers import identify_tokenizer
from tasks.store.artifacts import ArtifactRef
from tasks.tokens.build_vocabulary import build_vocabulary
from tasks.tokens.tokenize_corpus import tokenize_corpus
from tasks.tracking.runs import log_tags, end_dead_runs, track_run
from tasks.training.train_baseline import train_baseline
from tasks.training.train_classifier import check_machine, train_classifier
from tasks.vectors.download_glove import download_glove, find_vectors

logger = logging.getLogger(__name__)
STOP_SECONDS = 3.0
Future: TypeAlias = PrefectFuture[ArtifactRef]


class StageSummary(BaseModel):
    """What a stage did: whether it was cached, the seconds it took when it was computed, its facts."""

    model_config = ConfigDict(frozen=True)

    name: str
    cached: bool
    seconds: float
    facts: dict[str, Any]


class PipelineResult(BaseModel):
    """The summary of a run; `spread` is empty for a single seed (see `compare_seeds`)."""

    model_config = ConfigDict(frozen=True)

    stages: list[StageSummary]
    spread: dict[str, float]
    registration: Registration
    mlflow_url: str
    flow_run_url: str
    store: dict[str, str]
    seconds: float
    peak_memory_mib: float


class DataStages(NamedTuple):
    """The runs of what comes before training: of the sources, and of the stages by the noun of their output."""

    sources: list[PrefectFuture[Any] | None]
    stages: dict[str, Future | None]


def name_flow_run() -> str:
    """Return a flow run's name: the configuration's name and the time."""
    config = runtime.flow_run.parameters.get("config")
    name = config.get("name") if isinstance(config, dict) else getattr(config, "name", None)
    return f"{name or PipelineConfig().name} {time.strftime('%Y-%m-%d %H:%M:%S')}"


@flow(name="train-classifier", flow_run_name=name_flow_run, persist_result=False)
def train_pipeline(config: PipelineConfig = PipelineConfig()) -> PipelineResult:  # noqa: B008 (it is frozen)
    """Train, evaluate and register a text classifier on pre-trained GloVe vectors."""
    open_loggers()
    allow_work()
    close_flow_runs(end_dead_runs())
    try:
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
    check_machine(config.training)
    with track_run(config, name=runtime.flow_run.name, tags=_prefect_tags()) as run:
        publish_link(run.url)
        data = submit_data_stages(config, run.run_id)
        classifiers, evaluations = submit_trainings(data, config, run.run_id)
        raise_first_error(data.sources)
        outputs = collect_outputs([*data.stages.values(), *classifiers, *evaluations])
        spread, best = compare_seeds([future.result() for future in evaluations], config.training.metric)
        references = {output.stage: output for output, _ in outputs}
        references |= {output.stage: output for output in (classifiers[best].result(), evaluations[best].result())}
        stages = [_summarize(output, future) for output, future in outputs if references[output.stage] == output]
        log_results(run, references, spread)
        registration = register_model(
            run,
            classifier=references["train_classifier"],
            vocabulary=references["build_vocabulary"],
            evaluation=references["evaluate_classifier"],
            documents=references["ingest_corpus"],
            config=config,
        )
        publish_results(references["evaluate_classifier"], registration, run.url, spread)
    return PipelineResult(
        stages=stages,
        spread=spread,
        registration=registration,
        mlflow_url=run.url,
        flow_run_url=_flow_run_url(),
        store={name: str(output.directory) for name, output in references.items()},
        seconds=time.perf_counter() - started,
        peak_memory_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    )


def submit_data_stages(config: PipelineConfig, run_id: str) -> DataStages:
    """Start everything that comes before training; what does not depend on each other runs at the same time."""
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
    stages = {
        "vectors": vectors, "documents": documents, "tokens": tokens, "vocabulary": vocabulary,
        "embeddings": embeddings, "buckets": buckets, "baseline": baseline,
    }  # fmt: skip
    return DataStages([glove, corpus], stages)


def submit_trainings(data: DataStages, config: PipelineConfig, run_id: str) -> tuple[list[Future], list[Future]]:
    """Start a training for each seed, and the evaluation of each; live metrics are those of a single training."""
    stages, seeds = data.stages, config.training.seeds or (config.seed,)
    classifiers = [
        train_classifier.submit(
            stages["buckets"], stages["vocabulary"], stages["embeddings"], config.embeddings.dim,
            config.bucketing.batch_size, config.model, config.training, seed,
            run_id=run_id if len(seeds) == 1 else None,
        )
        for seed in seeds
    ]  # fmt: skip
    evaluations = [
        evaluate_classifier.submit(
            classifier, stages["buckets"], stages["baseline"], stages["documents"], stages["embeddings"]
        )
        for classifier in classifiers
    ]
    return classifiers, evaluations


def abandon_tasks() -> None:
    """Stop the tasks that run in other threads; one that does not stop within `STOP_SECONDS` is left behind."""
    stop_work()
    context = FlowRunContext.get()
    runner: Any = context.task_runner if context else None
    executor = getattr(runner, "_executor", None)
    if executor is not None:
        runner._executor = None  # or leaving the flow would wait for every running thread
        executor.shutdown(wait=False, cancel_futures=True)
        deadline = time.monotonic() + STOP_SECONDS
        for thread in executor._threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def raise_first_error(futures: Sequence[PrefectFuture[Any] | None]) -> None:
    """Wait for tasks, given in the order of the data; the first that failed by itself raises its error."""
    for future in futures:
        if future is not None:
            future.wait()
            if future.state.is_failed() or future.state.is_crashed():
                future.result()


def collect_outputs(futures: Sequence[Future | None]) -> list[tuple[ArtifactRef, Future]]:
    """Wait for stages, given in the order of the data, and return their outputs; the first error is raised."""
    raise_first_error(futures)
    return [(future.result(), future) for future in futures if future is not None]


def _vectors_usable(futures: Sequence[PrefectFuture[Any] | None], config: PipelineConfig, run_id: str) -> bool:
    """Tell whether there are vectors; without them the configuration says if the run may go on, and it is told."""
    if config.embeddings.on_failure == "error":
        return True
    try:
        raise_first_error(futures)
    except GloveflowError as error:
        logger.warning(
            "NO PRE-TRAINED VECTORS: %s could not be had (%s). The embedding layer is trained from scratch, as "
            "embeddings.on_failure says", config.embeddings.source, error,
        )  # fmt: skip
        log_tags(run_id, {"gloveflow.embeddings": f"trained from scratch: {error}"[:4000]})
        return False
    return True


def _summarize(output: ArtifactRef, future: Future) -> StageSummary:
    facts = {key: value for key, value in output.facts.items() if key != "seconds"}
    return StageSummary(
        name=output.stage, cached=future.state.name == "Cached", seconds=output.facts["seconds"], facts=facts
    )


def _flow_run_url() -> str:
    return str(runtime.flow_run.ui_url or "")


def _prefect_tags() -> dict[str, str]:
    return {
        "prefect.flow_run_id": str(runtime.flow_run.id),
        "prefect.flow_run_name": str(runtime.flow_run.name),
        "prefect.flow_run_url": _flow_run_url(),
    }
