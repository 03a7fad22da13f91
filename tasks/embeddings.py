"""Stage `align_embeddings`: one vector per token of the vocabulary, and where each came from.

Reads `vocabulary`, `vectors` and the token dictionary. Writes `embeddings` (row i is token i's vector) and a
coverage report by type and by token, per split, with the most frequent misses.
"""

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import GateError
from pipeline_config.schemas import (
    COVERAGE_FILE,
    DICTIONARY_FILE,
    EMBEDDINGS_FILE,
    SPECIAL_TOKENS,
    SPLITS,
    VECTORS_FILE,
    VOCABULARY_FILE,
    embeddings_schema,
)
from pipeline_config.settings import AlignmentConfig
from tasks.stage import stage
from tasks.store import ArtifactRef, StageOutput

FOUND = ("exact", "lowercase")  # sources that count as covered
MOST_MISSES = 50


@stage(version=1)
def align_embeddings(
    output: StageOutput,
    vocabulary: ArtifactRef,
    vectors: ArtifactRef,
    tokens: ArtifactRef,
    config: AlignmentConfig,
    seed: int,
) -> None:
    """Write the aligned matrix and its coverage report.

    Raises:
        GateError: fewer train tokens have a vector than `alignment.min_token_coverage` demands.
    """
    words = vocabulary.read_table(VOCABULARY_FILE)["token"].combine_chunks()
    known = vectors.read_table(VECTORS_FILE, memory_map=True)
    rows, source = look_up_rows(words, known["token"].combine_chunks(), lowercase=config.lowercase_fallback)
    matrix = fill_matrix(words, rows, as_matrix(known["vector"]), missing=config.missing, seed=seed)
    report = measure_coverage(words, source, tokens.read_table(DICTIONARY_FILE))
    source[source == "missing"] = config.missing
    table = pa.table(
        [
            pa.array(np.arange(len(words), dtype=np.int32)),
            words,
            pa.array(source.tolist()),
            pa.FixedSizeListArray.from_arrays(
                pa.array(matrix.reshape(-1)), type=embeddings_schema(matrix.shape[1]).field("vector").type
            ),
        ],
        schema=embeddings_schema(matrix.shape[1]),
    )
    output.write_table(EMBEDDINGS_FILE, table, table.schema)
    output.write_json(COVERAGE_FILE, report)
    output.facts.update(
        token_coverage=report["tokens"]["train"], type_coverage=report["types"], dim=matrix.shape[1],
        **{f"rows_{name}": int(count) for name, count in zip(*np.unique(source, return_counts=True), strict=True)},
    )  # fmt: skip
    _check_gate(report, config)


def look_up_rows(words: pa.Array, known: pa.Array, *, lowercase: bool) -> tuple[np.ndarray, np.ndarray]:
    """Find each word in a vector set.

    Returns:
        int64[V] row of the set, -1 where there is none; and object[V] source: `special`, `exact`, `lowercase`
        or `missing`.
    """
    exact = found = pc.index_in(words, known)
    if lowercase:
        lowered = pa.array([word.lower() for word in words.to_pylist()], words.type)
        found = pc.coalesce(exact, pc.index_in(lowered, known))
    rows = found.fill_null(-1).to_numpy().astype(np.int64)
    source = np.where(rows >= 0, "lowercase", "missing").astype(object)
    source[exact.is_valid().to_numpy(zero_copy_only=False)] = "exact"
    special = len(SPECIAL_TOKENS)
    rows[:special], source[:special] = -1, "special"
    return rows, source


def fill_matrix(words: pa.Array, rows: np.ndarray, vectors: np.ndarray, *, missing: str, seed: int) -> np.ndarray:
    """Return float32[V, E]: found rows, zero padding, and random or zero rows for the rest.

    A random row has the mean and deviation that the set has in each dimension. It depends on the seed and the
    token alone, not on the order of the vocabulary.
    """
    matrix = np.zeros((len(words), vectors.shape[1]), np.float32)
    matrix[rows >= 0] = vectors[rows[rows >= 0]]
    if missing == "random":
        mean, deviation = vectors.mean(axis=0, dtype=np.float64), vectors.std(axis=0, dtype=np.float64)
        for i in np.flatnonzero(rows < 0)[1:]:  # the first one is the padding
            generator = np.random.Generator(np.random.PCG64(_token_seed(seed, words[int(i)].as_py())))
            matrix[i] = mean + deviation * generator.standard_normal(vectors.shape[1])
    return matrix


def as_matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a fixed-size list column of float32 as a matrix float32[rows, size]."""
    parts = [chunk.flatten().to_numpy().reshape(len(chunk), -1) for chunk in column.chunks]
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def measure_coverage(words: pa.Array, source: np.ndarray, dictionary: pa.Table) -> dict[str, Any]:
    """Say which share of the vocabulary and of the tokens of each split has a vector.

    A token outside the vocabulary counts as not covered. Misses are the most frequent train tokens without a
    vector, those outside the vocabulary included.
    """
    covered = words.filter(pa.array(np.isin(source, FOUND)))
    has_vector = pc.is_in(dictionary["token"], covered)
    in_vocabulary = pc.is_in(dictionary["token"], words)
    share = {}
    unknown = {}
    for split in SPLITS:
        counts = dictionary[f"{split}_count"]
        total = pc.sum(counts).as_py() or 1
        share[split] = (pc.sum(counts.filter(has_vector)).as_py() or 0) / total
        unknown[split] = 1 - (pc.sum(counts.filter(in_vocabulary)).as_py() or 0) / total
    misses = dictionary.filter(pc.invert(has_vector)).sort_by([("train_count", "descending"), ("token", "ascending")])
    misses = misses.slice(0, MOST_MISSES)
    names, counts = np.unique(source, return_counts=True)
    return {
        "types": len(covered) / max(len(words) - len(SPECIAL_TOKENS), 1),
        "tokens": share,
        "oov_rate": unknown,
        "rows": {str(name): int(count) for name, count in zip(names, counts, strict=True)},
        "misses": dict(zip(misses["token"].to_pylist(), misses["train_count"].to_pylist(), strict=True)),
    }


def _check_gate(report: dict[str, Any], config: AlignmentConfig) -> None:
    got = report["tokens"]["train"]
    if config.min_token_coverage is not None and got < config.min_token_coverage:
        misses = ", ".join(list(report["misses"])[:10])
        raise GateError(
            f"{got:.1%} of the train tokens have a vector, expected at least {config.min_token_coverage:.1%} "
            f"(alignment.min_token_coverage); the most frequent without: {misses}"
        )


def _token_seed(seed: int, token: str) -> int:
    digest = hashlib.blake2b(token.encode(), digest_size=16, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")
