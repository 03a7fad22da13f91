"""The stages of the flow `train-classifier`: which of them start when, and what they return.

Submits task runs to Prefect. Settings that depend on the corpus are chosen between its tokens and what follows.
"""

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

from prefect.futures import PrefectFuture

from flows.outputs import RunOutputs
from flows.publishing import publish_chosen
from pipeline_config.errors import GloveflowError
from pipeline_config.rules import choose_settings, list_open_settings
from pipeline_config.settings import PipelineConfig
from tasks.batches.bucket_corpus import bucket_corpus
from tasks.corpus.ingest_corpus import find_corpus, ingest_corpus
from tasks.embeddings.align_embeddings import align_embeddings
from tasks.evaluation.evaluate_classifier import evaluate_classifier
from tasks.reading.sources import CorpusRef
from tasks.served.tokenizers import identify_tokenizer
from tasks.store.artifacts import ArtifactRef, SourceRef
from tasks.tokens.build_vocabulary import build_vocabulary
from tasks.tokens.corpus_facts import measure_corpus
from tasks.tokens.tokenize_corpus import iterate_shards, tokenize_corpus
from tasks.tracking.runs import log_tags_if_possible
from tasks.training.train_baseline import train_baseline
from tasks.training.train_classifier import train_classifier
from tasks.vectors.download_glove import download_glove, find_vectors

logger = logging.getLogger(__name__)
Future: TypeAlias = PrefectFuture[ArtifactRef]


class Sources(NamedTuple):
    """The task runs that need no setting that depends on the corpus; None for those of vectors in a run without."""

    glove: PrefectFuture[SourceRef] | None
    corpus: PrefectFuture[CorpusRef]
    vectors: Future | None
    documents: Future
    tokens: Future
    baseline: Future


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


def submit_sources(config: PipelineConfig) -> Sources:
    """Start what comes before the settings that depend on the corpus; independent stages run at the same time."""
    seed, wanted = config.seed, config.embeddings.source != "none"
    glove = find_vectors.submit(config.embeddings) if wanted else None
    vectors = download_glove.submit(glove, config.embeddings) if wanted else None
    corpus = find_corpus.submit(config.corpus)
    documents = ingest_corpus.submit(corpus, config.corpus, seed)
    tokenizer = identify_tokenizer(config.tokenization.tokenizer)
    tokens = tokenize_corpus.submit(documents, config.tokenization, tokenizer)
    baseline = train_baseline.submit(tokens, config.baseline)
    return Sources(glove, corpus, vectors, documents, tokens, baseline)


def choose_open_settings(config: PipelineConfig, sources: Sources, run_id: str) -> PipelineConfig:
    """Return the configuration with the settings that are `auto` chosen by their rules, once the corpus is tokenized.

    What was chosen is logged, here and in the MLflow run.
    """
    if not list_open_settings(config):
        return config
    sources.tokens.wait()
    if not sources.tokens.state.is_completed():
        raise_first_error([sources.corpus, sources.documents, sources.tokens])
    chosen = choose_settings(config, measure_corpus(iterate_shards(sources.tokens.result())))
    publish_chosen(run_id, chosen)
    return chosen.config


def submit_data_stages(sources: Sources, config: PipelineConfig, run_id: str) -> DataStages:
    """Start what comes before training; stages that do not depend on each other run at the same time."""
    glove, corpus, vectors, documents, tokens, baseline = sources
    if not _vectors_usable([glove, vectors], config, run_id):
        glove = vectors = None
    extension = vectors if config.vocabulary.extend_from_vectors else None
    vocabulary = build_vocabulary.submit(tokens, config.vocabulary, extension)
    buckets = bucket_corpus.submit(tokens, vocabulary, config.bucketing, config.seed)
    embeddings = vectors and align_embeddings.submit(vocabulary, vectors, tokens, config.alignment, config.seed)
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
    """Start a training and its evaluation for each seed; a single training logs live metrics to the MLflow run.

    A training waits for the linear model: its threads want all processors, and one that has none holds up the others.
    """
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
            wait_for=[data.baseline],
        )
        evaluation = evaluate_classifier.submit(
            classifier,
            data.buckets,
            data.baseline,
            data.documents,
            data.vocabulary,
            data.embeddings,
            config.evaluation,
            config.registration.candidate,
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


def raise_first_error(futures: Sequence[PrefectFuture[Any] | None]) -> None:
    """Wait for task runs, given in the order of the data, and raise the error of the first that failed.

    A task run that never started, because one before it failed, is not a failure of its own.
    """
    for future in futures:
        if future is not None:
            future.wait()
            if future.state.is_failed() or future.state.is_crashed():
                future.result()


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
