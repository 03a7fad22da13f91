"""A sample of texts as numbers: length, unknown tokens, label, confidence, hashed words. It holds no texts.

A registered version carries the sample of its held-out documents, and every scoring keeps one of its texts, in the same
columns. Rows are drawn by numbers that depend only on the input and the row, so samples of parts can be joined, a
scoring that was interrupted has the sample of an unbroken one, and the same file scored twice counts once.

Hashed words do not hide them from someone who hashes a dictionary: a sample is as confidential as word lists are.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.corpus.hashing import hash_word, mix_hashes
from tasks.served.text import normalize_texts
from tasks.served.tokenizers import unicode_words

SAMPLE_FILE = "sample.parquet"  # of an MLflow run
LARGEST = 5000  # texts of a sample
MOST_CHARACTERS = 600  # of a text whose words are hashed, from its beginning
WORD_BITS = 20  # of a hash
_PART = 500  # texts that are split at once
SAMPLE = pa.schema(
    [
        pa.field("draw", pa.uint64(), nullable=False),  # texts with the smallest numbers are in the sample
        pa.field("row", pa.int64(), nullable=False),  # of the output, or the id of the document
        pa.field("label", pa.string(), nullable=False),  # predicted
        pa.field("confidence", pa.float64(), nullable=False),  # its probability
        pa.field("correct", pa.bool_()),  # null without a known label
        pa.field("tokens", pa.int32()),  # before the text is cut; null if the model does not tell
        pa.field("unknown", pa.int32()),  # how many of them are not in the vocabulary
        pa.field("words", pa.list_(pa.uint32()), nullable=False),  # hashes of the distinct words, sorted
    ]
)


class Answers(NamedTuple):
    """What is known of some texts.

    Attributes:
        labels: the predicted label of each.
        confidence: float64[N], its probability.
        tokens: int64[N], None if the model does not tell.
        unknown: int64[N], how many tokens are not in the vocabulary.
        correct: bool[N], whether the label is right; None if that is not known.
    """

    labels: list[str]
    confidence: np.ndarray
    tokens: np.ndarray | None = None
    unknown: np.ndarray | None = None
    correct: np.ndarray | None = None


def draw_sample(
    texts: pa.Array, rows: np.ndarray, answers: Answers, *, seed: int, before: pa.Table | None = None
) -> pa.Table:
    """Return a sample of texts, a table of the schema `SAMPLE`, in the order of its draws.

    Args:
        texts: large_string, without nulls.
        rows: int64[N], the number of each text in the input.
        answers: what is known of them.
        seed: of the draw, the same for all parts of an input.
        before: the sample of the parts before; texts that would not be in the joined one are left out.
    """
    draws = mix_hashes(rows, seed)
    chosen = np.argsort(draws, kind="stable")[:LARGEST]
    if before is not None and len(before) == LARGEST:
        chosen = chosen[draws[chosen] < before["draw"].to_numpy()[-1]]

    def pick(values: np.ndarray | None, kind: pa.DataType) -> pa.Array:
        return pa.nulls(len(chosen), kind) if values is None else pa.array(values[chosen], kind)

    columns = [
        pa.array(draws[chosen], pa.uint64()),
        pa.array(rows[chosen], pa.int64()),
        pa.array([answers.labels[place] for place in chosen.tolist()], pa.string()),
        pick(answers.confidence, pa.float64()),
        pick(answers.correct, pa.bool_()),
        pick(answers.tokens, pa.int32()),
        pick(answers.unknown, pa.int32()),
        hash_words(texts.take(pa.array(chosen))),
    ]
    return pa.table(columns, schema=SAMPLE)


def join_samples(samples: Iterable[pa.Table]) -> pa.Table:
    """Return the sample of all texts that samples were drawn from; more columns than those of `SAMPLE` are kept."""
    joined: pa.Table | None = None
    for sample in samples:
        joined = sample if joined is None else pa.concat_tables([joined, sample])
        _, first = np.unique(joined["draw"].to_numpy(), return_index=True)
        joined = joined.take(pa.array(first[:LARGEST]))
    return SAMPLE.empty_table() if joined is None else joined.combine_chunks()


def hash_words(texts: pa.Array) -> pa.Array:
    """Return the sorted hashes of the distinct words of each text, list<uint32>; only its beginning counts."""
    parts = [_hash_part(texts.slice(start, _PART)) for start in range(0, len(texts), _PART)]
    return pa.concat_arrays(parts) if parts else pa.array([], SAMPLE.field("words").type)


def _hash_part(texts: pa.Array) -> pa.Array:
    words = split_words(pc.utf8_slice_codeunits(texts, 0, MOST_CHARACTERS))
    rows = np.repeat(np.arange(len(words)), np.diff(words.offsets.to_numpy()))
    encoded = words.flatten().dictionary_encode()
    hashes = np.array([hash_word_bits(word) for word in encoded.dictionary.to_pylist()], np.int64)
    pairs = np.unique(rows << WORD_BITS | hashes[encoded.indices.to_numpy()]) if len(rows) else rows
    offsets = np.concatenate([[0], np.cumsum(np.bincount(pairs >> WORD_BITS, minlength=len(words)))])
    values = pa.array(pairs & (1 << WORD_BITS) - 1, pa.uint32())
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values)


def split_words(texts: pa.Array) -> pa.Array:
    """Return the words of texts, in lower case, whatever the tokenizer of the model is."""
    return unicode_words(normalize_texts(texts))


def hash_word_bits(word: str) -> int:
    """Return the hash of a word in a sample."""
    return hash_word(word) & (1 << WORD_BITS) - 1


def write_sample(path: Path, sample: pa.Table) -> None:
    """Write a sample to a Parquet file; equal samples give equal bytes."""
    pq.write_table(sample, path, compression="zstd")


def read_sample(path: Path) -> pa.Table:
    """Read a sample from a Parquet file.

    Raises:
        OSError, ValueError: it is no such file.
    """
    table = pq.read_table(path)
    return table.cast(pa.schema([*SAMPLE, *(field for field in table.schema if field.name not in SAMPLE.names)]))


def token_coverage(sample: pa.Table) -> float | None:
    """Return the share of all tokens that are in the vocabulary; None if the model does not tell."""
    tokens, unknown = (pc.sum(sample[name]).as_py() for name in ("tokens", "unknown"))
    return 1 - unknown / tokens if tokens else None
