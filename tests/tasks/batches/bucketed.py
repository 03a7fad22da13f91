"""A small corpus and the stages up to `bucket_corpus`; flat token ids and lists of them."""

import numpy as np
import pyarrow as pa

from pipeline_config.schemas import BUCKETS, DOCUMENTS, DOCUMENTS_FILE, buckets_file
from pipeline_config.settings import BucketingConfig, TokenizationConfig, VocabularyConfig
from tasks.batches.bucket_corpus import bucket_corpus
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.commit import commit_output
from tasks.tokens.build_vocabulary import build_vocabulary
from tasks.tokens.tokenize_corpus import tokenize_corpus

# (doc_id, text, label, split); in the train split a occurs 4 times, b twice, c once
CORPUS = [
    (3, "a b a", "y", "train"),
    (5, "a d", "x", "validation"),
    (7, "b c", "x", "train"),
    (8, '"', "z", "test"),
    (9, "a", "y", "train"),
]


def documents_of(corpus: list[tuple[object, ...]]) -> ArtifactRef:
    columns = zip(*corpus, strict=True)
    table = pa.table([pa.array(c, f.type) for c, f in zip(columns, DOCUMENTS, strict=True)], schema=DOCUMENTS)
    key = stage_key("ingest_corpus", 1, {"corpus": corpus})
    return commit_output("ingest_corpus", key, lambda out: out.write_table(DOCUMENTS_FILE, table, DOCUMENTS))[0]


IDS = {"a": 2, "b": 3, "c": 4}


def bucket(
    corpus: list[tuple[object, ...]] = CORPUS,
    *,
    seed: int = 0,
    specials: tuple[str, ...] = ("<pad>", "<unk>"),
    **options: object,
) -> ArtifactRef:
    """Run the stage, and those before it, on a corpus."""
    documents = documents_of(corpus)
    tokens = tokenize_corpus.fn(documents, TokenizationConfig(shard_documents=2), "basic_english 1")
    vocabulary = build_vocabulary.fn(tokens, VocabularyConfig(min_freq=1, extend_from_vectors=0, specials=specials))
    return bucket_corpus.fn(
        tokens, vocabulary, BucketingConfig(**{"max_length": 300, "batch_size": 64, **options}), seed
    )


def rows_of(buckets: ArtifactRef, split: str) -> list[tuple[object, ...]]:
    with pa.ipc.open_file(buckets.path(buckets_file(split))) as file:
        table = file.read_all()
    assert table.schema == BUCKETS
    return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def flat(lists: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    """Return flat ids and offsets of lists."""
    offsets = np.cumsum([0, *map(len, lists)])
    return np.array([i for ids in lists for i in ids], np.int32), offsets


def nested(ids: np.ndarray, offsets: np.ndarray) -> list[list[int]]:
    return [part.tolist() for part in np.split(ids, offsets[1:-1])]
