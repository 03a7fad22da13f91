"""Stage `align_embeddings`: one vector per token of the vocabulary, and where each came from.

Reads `vocabulary`, `vectors` and the tokens. Writes `embeddings` (row i is token i's vector) and a coverage
report by type and by token, per split, class and source, with the most frequent misses.

A token is looked up as it is; then each configured fallback changes what the one before made of it, and that is
looked up. The first hit counts and is the row's source:

| fallback | looks up |
|---|---|
| `lowercase` | the token in lower case |
| `diacritics` | without combining marks: `café` as `cafe` |
| `digits` | each digit as 0: `1995` as `0000` |
| `number` | `<number>`, for a token that is a number |
| `hyphen` | the mean of the vectors of its parts, if each has one: `well-made` |
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import GateError
from pipeline_config.schemas import (
    COVERAGE_FILE,
    EMBEDDINGS_FILE,
    PADDING_IDX,
    SPLITS,
    VECTORS_FILE,
    embeddings_schema,
)
from pipeline_config.settings import AlignmentConfig
from tasks.embeddings.coverage import measure_coverage
from tasks.runtime.arrow import as_matrix, whole_column
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage
from tasks.tokens.vocabulary import Vocabulary, check_vocabulary
from tasks.vectors.rows import VectorRows, find_rows, read_rows

_NUMBER = re.compile(r"[+-]?\d+(?:[.,:/-]\d+)*%?")
_DIGIT = re.compile(r"\d")


@stage(version=2)
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
    known = Vocabulary.read(vocabulary)
    words = pa.array(known.itos, pa.string())
    names = whole_column(vectors.read_table(VECTORS_FILE, columns=["token"])["token"])
    parts, source = look_up_rows(words, names, fallbacks=config.fallbacks, specials=known.specials)
    found = read_rows(vectors.path(VECTORS_FILE), np.unique(parts[:, 1]))
    matrix = fill_matrix(words, parts, found, missing=config.missing, seed=seed)
    report = measure_coverage(words, source, tokens)
    source[source == "missing"] = config.missing
    schema = embeddings_schema(matrix.shape[1])
    flat = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=schema.field("vector").type)
    ids = pa.array(np.arange(len(words), dtype=np.int32))
    output.write_table(
        EMBEDDINGS_FILE, pa.table([ids, words, pa.array(source.tolist(), pa.string()), flat], schema=schema), schema
    )
    output.write_json(COVERAGE_FILE, {**report, "vocabulary": known.digest, "tokenizer": known.tokenizer})
    output.facts.update(
        token_coverage=report["tokens"]["train"], type_coverage=report["types"], dim=matrix.shape[1],
        **{f"token_coverage_{split}": report["tokens"][split] for split in SPLITS[1:]},
        **{f"rows_{name}": int(count) for name, count in zip(*np.unique(source, return_counts=True), strict=True)},
    )  # fmt: skip
    _check_gate(report, config)


def read_matrix(embeddings: ArtifactRef, vocabulary: Vocabulary) -> np.ndarray:
    """Return the aligned matrix float32[V, E] for a vocabulary.

    Raises:
        InputError: the matrix was made for another vocabulary.
    """
    expected = embeddings.read_json(COVERAGE_FILE)["vocabulary"]
    check_vocabulary(vocabulary, expected, where=str(embeddings.path(EMBEDDINGS_FILE)))
    return as_matrix(embeddings.read_table(EMBEDDINGS_FILE, columns=["vector"])["vector"])


def look_up_rows(
    words: pa.Array, known: pa.Array, *, fallbacks: Sequence[str], specials: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Find each word in a vector set.

    Args:
        words: tokens of the vocabulary, the special ones first.
        known: tokens of the set.
        fallbacks: names from the table above, in the order in which they are tried.
        specials: how many of the words are special tokens; these have no vector.

    Returns:
        int64[n, 2] pairs of position in `words` and row of the set, by position (more than one row of a word are
        to be averaged); and object[V] source: `special`, `exact`, the name of a fallback, or `missing`.
    """
    rows = find_rows(words, known)
    source = np.where(rows >= 0, "exact", "missing").astype(object)
    rows[:specials], source[:specials] = -1, "special"
    missing = np.flatnonzero(source == "missing")
    candidates = words.take(pa.array(missing)).to_pylist()
    pairs = [np.stack([np.flatnonzero(rows >= 0), rows[rows >= 0]], axis=1)]
    for name in fallbacks:
        if name != "hyphen":
            candidates = [_FALLBACKS[name](word) for word in candidates]
        pieces = [word.split("-") if name == "hyphen" and "-" in word else [word] for word in candidates]
        found = _find_all(pieces, known)
        hits = [i for i, got in enumerate(found) if got is not None]
        pairs.extend(np.array([[missing[i], row] for row in found[i] or ()]) for i in hits)
        source[missing[hits]] = name
        left = [i for i, got in enumerate(found) if got is None]
        missing, candidates = missing[left], [candidates[i] for i in left]
    together = np.concatenate(pairs)
    return together[np.argsort(together[:, 0], kind="stable")], source


def fill_matrix(words: pa.Array, parts: np.ndarray, found: VectorRows, *, missing: str, seed: int) -> np.ndarray:
    """Return float32[V, E]: found rows, zero padding, and random, mean or zero rows for the rest.

    A random row has the mean and deviation that the set has in each dimension. It depends on the seed and the
    token alone, not on the order of the vocabulary.

    Args:
        words: tokens of the vocabulary.
        parts: pairs of position and row, as `look_up_rows` returns them.
        found: the rows in `parts`, and the statistics of the set.
        missing: `random`, `mean` or `zero`.
        seed: of the random rows.
    """
    matrix = np.zeros((len(words), len(found.mean)), np.float32)
    vectors = found.vectors[np.searchsorted(found.rows, parts[:, 1])]
    places, first, counts = np.unique(parts[:, 0], return_index=True, return_counts=True)
    matrix[places] = vectors[first]
    for place, start, count in zip(*(a[counts > 1] for a in (places, first, counts)), strict=True):
        matrix[place] = vectors[start : start + count].mean(axis=0, dtype=np.float64)
    rest = np.setdiff1d(np.arange(len(words)), [PADDING_IDX, *places])
    if missing != "zero":
        matrix[rest] = found.mean
    if missing == "random" and len(rest):
        for i, word in zip(rest, words.take(pa.array(rest)).to_pylist(), strict=True):
            generator = np.random.Generator(np.random.PCG64(_token_seed(seed, word)))
            matrix[i] = found.mean + found.deviation * generator.standard_normal(len(found.mean))
    return matrix


def _find_all(pieces: list[list[str]], known: pa.Array) -> list[list[int] | None]:
    """Return the rows of each word's pieces, None when one of them is not in the set."""
    flat = pa.array([piece for word in pieces for piece in word], known.type)
    rows = iter(pc.index_in(flat, known).to_pylist())
    found = [[next(rows) for _ in word] for word in pieces]
    return [None if None in got else got for got in found]


def _strip_diacritics(word: str) -> str:
    letters = unicodedata.normalize("NFD", word)
    return unicodedata.normalize("NFC", "".join(c for c in letters if not unicodedata.combining(c)))


_FALLBACKS: dict[str, Callable[[str], str]] = {
    "lowercase": str.lower,
    "diacritics": _strip_diacritics,
    "digits": lambda word: _DIGIT.sub("0", word),
    "number": lambda word: "<number>" if _NUMBER.fullmatch(word) else word,
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
