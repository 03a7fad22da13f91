"""Stage `align_embeddings`: one vector for each token of the vocabulary, and where it comes from.

Reads `vocabulary`, `vectors` and the tokens. Writes `embeddings` (row i is the vector of token i), a description of the
matrix, and a coverage report.

A token is looked up unchanged. If the set lacks it, the configured fallbacks follow in order. Each changes the result
of the one before it and looks that up; the first one that finds a vector becomes the `source` of the row:

| fallback | looks up |
|---|---|
| `lowercase` | the token in lower case |
| `diacritics` | without combining marks: `café` as `cafe` |
| `digits` | each digit as 0: `1995` as `0000` |
| `number` | `<number>`, for a token that is a number |
| `hyphen` | the mean of the vectors of its hyphenated pieces, if each has one: `well-made` |
"""

import hashlib
import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.embeddings import CoverageReport, MatrixDescription
from pipeline_config.errors import GateError
from pipeline_config.schemas import EMBEDDINGS_FILE, PADDING_IDX, SPLITS, VECTORS_FILE, embeddings_schema
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


@stage(version=3)
def align_embeddings(
    output: StageOutput,
    vocabulary: ArtifactRef,
    vectors: ArtifactRef,
    tokens: ArtifactRef,
    config: AlignmentConfig,
    seed: int,
) -> None:
    """Write the aligned matrix, its description and its coverage report.

    Raises:
        GateError: the share of train tokens with a vector is below `alignment.min_token_coverage`.
    """
    vocab = Vocabulary.read(vocabulary)
    words = pa.array(vocab.itos, pa.string())
    set_tokens = whole_column(vectors.read_table(VECTORS_FILE, columns=["token"])["token"])
    pairs, source = look_up_rows(words, set_tokens, fallbacks=config.fallbacks, specials=vocab.specials)
    found = read_rows(vectors.path(VECTORS_FILE), np.unique(pairs[:, 1]))
    matrix = fill_matrix(words, pairs, found, missing=config.missing, seed=seed)
    report = measure_coverage(words, source, tokens)
    source[source == "missing"] = config.missing
    dim = matrix.shape[1]
    output.write_table(EMBEDDINGS_FILE, _make_table(words, source, matrix), embeddings_schema(dim))
    output.write_model(MatrixDescription(vocabulary_digest=vocab.digest, tokenizer=vocab.tokenizer, dim=dim))
    output.write_model(report)
    output.facts.update(
        token_coverage=report.tokens["train"],
        type_coverage=report.types,
        dim=dim,
        **{f"token_coverage_{split}": report.tokens[split] for split in SPLITS[1:]},
        **{f"rows_{name}": int(count) for name, count in zip(*np.unique(source, return_counts=True), strict=True)},
    )
    _check_gate(report, config)


def read_matrix(embeddings: ArtifactRef, vocabulary: Vocabulary) -> np.ndarray:
    """Return the aligned matrix float32[V, E] for a vocabulary.

    Raises:
        InputError: the matrix was made for another vocabulary.
    """
    expected = embeddings.read_model(MatrixDescription).vocabulary_digest
    check_vocabulary(vocabulary, expected, where=str(embeddings.path(EMBEDDINGS_FILE)))
    return as_matrix(embeddings.read_table(EMBEDDINGS_FILE, columns=["vector"])["vector"])


def look_up_rows(
    words: pa.Array, set_tokens: pa.Array, *, fallbacks: Sequence[str], specials: int
) -> tuple[np.ndarray, np.ndarray]:
    """Find the row of each word in a vector set.

    Args:
        words: tokens of the vocabulary, special tokens first.
        set_tokens: tokens of the vector set.
        fallbacks: names from the table in the module's docstring, in the order in which they are tried.
        specials: how many of the words are special tokens; these get no vector.

    Returns:
        int64[n, 2] pairs of position in `words` and row of the set, sorted by position. A word with several pairs
        gets the mean of these rows. And object[V], the source of each word: `special`, `exact`, the name of a
        fallback, or `missing`.
    """
    rows = find_rows(words, set_tokens)
    source = np.where(rows >= 0, "exact", "missing").astype(object)
    rows[:specials], source[:specials] = -1, "special"
    missing = np.flatnonzero(source == "missing")
    candidates = words.take(pa.array(missing)).to_pylist()
    pairs = [np.stack([np.flatnonzero(rows >= 0), rows[rows >= 0]], axis=1)]
    for name in fallbacks:
        if name != "hyphen":
            candidates = [_FALLBACKS[name](word) for word in candidates]
        pieces = [word.split("-") if name == "hyphen" and "-" in word else [word] for word in candidates]
        found = _find_pieces(pieces, set_tokens)
        hits = [i for i, row in enumerate(found) if row is not None]
        pairs.extend(np.array([[missing[i], row] for row in found[i] or ()]) for i in hits)
        source[missing[hits]] = name
        left = [i for i, row in enumerate(found) if row is None]
        missing, candidates = missing[left], [candidates[i] for i in left]
    all_pairs = np.concatenate(pairs)
    return all_pairs[np.argsort(all_pairs[:, 0], kind="stable")], source


def fill_matrix(words: pa.Array, pairs: np.ndarray, found: VectorRows, *, missing: str, seed: int) -> np.ndarray:
    """Return float32[V, E]: rows of the set, zeros for the padding, and random, mean or zero rows for the rest.

    A random row is drawn with the mean and the deviation of the set in each dimension. It depends only on the seed and
    the token, not on the order of the vocabulary.

    Args:
        words: tokens of the vocabulary.
        pairs: pairs of position and row, from `look_up_rows`.
        found: the rows in `pairs`, and the statistics of the set.
        missing: `random`, `mean` or `zero`.
        seed: of the random rows.
    """
    matrix = np.zeros((len(words), len(found.mean)), np.float32)
    vectors = found.vectors[np.searchsorted(found.rows, pairs[:, 1])]
    positions, first, counts = np.unique(pairs[:, 0], return_index=True, return_counts=True)
    matrix[positions] = vectors[first]
    for position, start, count in zip(*(a[counts > 1] for a in (positions, first, counts)), strict=True):
        matrix[position] = vectors[start : start + count].mean(axis=0, dtype=np.float64)
    rest = np.setdiff1d(np.arange(len(words)), [PADDING_IDX, *positions])
    if missing != "zero":
        matrix[rest] = found.mean
    if missing == "random" and len(rest):
        for i, word in zip(rest, words.take(pa.array(rest)).to_pylist(), strict=True):
            generator = np.random.Generator(np.random.PCG64(_seed_of_token(seed, word)))
            matrix[i] = found.mean + found.deviation * generator.standard_normal(len(found.mean))
    return matrix


def _make_table(words: pa.Array, source: np.ndarray, matrix: np.ndarray) -> pa.Table:
    """Return the matrix float32[V, E] with its words and their sources as a table of `embeddings_schema`."""
    schema = embeddings_schema(matrix.shape[1])
    ids = pa.array(np.arange(len(words), dtype=np.int32))
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), type=schema.field("vector").type)
    return pa.table([ids, words, pa.array(source.tolist(), pa.string()), vectors], schema=schema)


def _find_pieces(pieces: list[list[str]], set_tokens: pa.Array) -> list[list[int] | None]:
    """Return the rows of the pieces of each word, or None for a word with a piece that the set lacks."""
    flat = pa.array([piece for word in pieces for piece in word], set_tokens.type)
    rows = iter(pc.index_in(flat, set_tokens).to_pylist())
    found = [[next(rows) for _ in word] for word in pieces]
    return [None if None in rows_of_word else rows_of_word for rows_of_word in found]


def _strip_diacritics(word: str) -> str:
    letters = unicodedata.normalize("NFD", word)
    return unicodedata.normalize("NFC", "".join(c for c in letters if not unicodedata.combining(c)))


_FALLBACKS: dict[str, Callable[[str], str]] = {
    "lowercase": str.lower,
    "diacritics": _strip_diacritics,
    "digits": lambda word: _DIGIT.sub("0", word),
    "number": lambda word: "<number>" if _NUMBER.fullmatch(word) else word,
}


def _check_gate(report: CoverageReport, config: AlignmentConfig) -> None:
    covered = report.tokens["train"]
    if config.min_token_coverage is not None and covered < config.min_token_coverage:
        misses = ", ".join(list(report.misses)[:10])
        raise GateError(
            f"{covered:.1%} of the train tokens have a vector, expected at least {config.min_token_coverage:.1%} "
            f"(alignment.min_token_coverage); the most frequent tokens without a vector: {misses}"
        )


def _seed_of_token(seed: int, token: str) -> int:
    digest = hashlib.blake2b(token.encode(), digest_size=16, key=seed.to_bytes(8, "little")).digest()
    return int.from_bytes(digest, "little")
