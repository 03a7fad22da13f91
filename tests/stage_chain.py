"""All stages from the sources to the evaluation, one after the other, without a flow."""

from typing import NamedTuple

from pipeline_config.rules import choose_settings
from pipeline_config.settings import PipelineConfig
from tasks.store.artifacts import ArtifactRef


class ChainOutputs(NamedTuple):
    """A configuration and its stage outputs."""

    config: PipelineConfig
    documents: ArtifactRef
    vocabulary: ArtifactRef
    embeddings: ArtifactRef
    buckets: ArtifactRef
    baseline: ArtifactRef
    classifier: ArtifactRef
    evaluation: ArtifactRef


def run_chain(config: PipelineConfig) -> ChainOutputs:
    """Run the stages; what the store has is not made again. The configuration returned has no `auto`."""
    from tasks.batches.bucket_corpus import bucket_corpus
    from tasks.corpus.ingest_corpus import ingest_corpus, locate_corpus
    from tasks.embeddings.align_embeddings import align_embeddings
    from tasks.evaluation.evaluate_classifier import evaluate_classifier
    from tasks.served.tokenizers import identify_tokenizer
    from tasks.tokens.build_vocabulary import build_vocabulary
    from tasks.tokens.corpus_facts import measure_corpus
    from tasks.tokens.tokenize_corpus import iterate_shards, tokenize_corpus
    from tasks.training.train_baseline import train_baseline
    from tasks.training.train_classifier import train_classifier
    from tasks.vectors.download_glove import download_glove, locate_vectors

    vectors = download_glove.fn(locate_vectors(config.embeddings), config.embeddings)
    documents = ingest_corpus.fn(locate_corpus(config.corpus), config.corpus, config.seed)
    tokens = tokenize_corpus.fn(documents, config.tokenization, identify_tokenizer(config.tokenization.tokenizer))
    config = choose_settings(config, measure_corpus(iterate_shards(tokens))).config
    extension = vectors if config.vocabulary.extend_from_vectors else None
    vocabulary = build_vocabulary.fn(tokens, config.vocabulary, extension)
    buckets = bucket_corpus.fn(tokens, vocabulary, config.bucketing, config.seed)
    embeddings = align_embeddings.fn(vocabulary, vectors, tokens, config.alignment, config.seed)
    baseline = train_baseline.fn(tokens, config.baseline)
    classifier = train_classifier.fn(
        buckets,
        vocabulary,
        embeddings,
        config.embeddings.dim,
        config.bucketing.batch_size,
        config.model,
        config.training,
        config.seed,
    )
    evaluation = evaluate_classifier.fn(
        classifier,
        buckets,
        baseline,
        documents,
        vocabulary,
        embeddings,
        config.evaluation,
        config.registration.candidate,
    )
    return ChainOutputs(config, documents, vocabulary, embeddings, buckets, baseline, classifier, evaluation)
