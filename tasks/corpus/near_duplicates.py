"""Find texts that are nearly the same: MinHash signatures of their word sequences, compared band by band.

Takes blocks of texts, returns pairs of positions. Memory: 256 bytes per text, and one block. The method is
Broder's (1997) with the banding of Leskovec, Rajaraman and Ullman (2014, chapter 3).
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.corpus.hashing import hash_word, mix_hashes
from tasks.runtime.arrow import whole_column
from tasks.served.text import TEXT
from tasks.served.tokenizers import lower, whitespace

SHINGLE = 5  # words
BANDS, ROWS = 16, 4  # two texts with similarity 0.8 have an equal band with probability 0.9998


def find_near_duplicates(blocks: Iterable[pa.Array | pa.ChunkedArray], *, threshold: float) -> np.ndarray:
    """Return int64[pairs, 2]: positions of texts whose estimated Jaccard similarity reaches a threshold.

    Similarity is that of the sets of five-word sequences, in lower case; a text with fewer words is one sequence.
    The standard error of the estimate is at most 1 / 16. Texts without words have no pair.

    Args:
        blocks: texts (large_string), numbered from 0 across all blocks.
        threshold: smallest share of sequences in common.
    """
    signatures = np.concatenate([np.empty((0, BANDS * ROWS), np.uint32), *map(sign_texts, blocks)])
    return find_similar(signatures, threshold=threshold)


def find_similar(signatures: np.ndarray, *, threshold: float) -> np.ndarray:
    """Return int64[pairs, 2]: the candidates among signatures (uint32[N, 64]) with enough equal values.

    The share of equal values estimates the similarity; it must be at least `threshold`.
    """
    pairs = find_candidates(signatures)
    alike = (signatures[pairs[:, 0]] == signatures[pairs[:, 1]]).mean(axis=1) >= threshold
    found: np.ndarray = pairs[alike].astype(np.int64)
    return found


def find_candidates(signatures: np.ndarray) -> np.ndarray:
    """Return int64[pairs, 2]: positions, the smaller first, of signatures (uint32[N, 64]) with an equal band.

    A band is `ROWS` neighbouring values. Of the texts with equal values in a band, each is paired with the first and
    with the one before it, not with all others. Signatures of zeros have no pair.
    """
    candidates = []
    signed = np.flatnonzero(signatures.any(axis=1))
    for band in range(BANDS):
        values = np.ascontiguousarray(signatures[signed, band * ROWS : (band + 1) * ROWS])
        _, group = np.unique(values.view(f"V{4 * ROWS}").ravel(), return_inverse=True)
        order = np.argsort(group, kind="stable")
        same = np.flatnonzero(np.diff(group[order]) == 0)
        first = order[np.searchsorted(group[order], group[order[same + 1]])]
        candidates += [
            np.stack([signed[order[same]], signed[order[same + 1]]], axis=1),
            np.stack([signed[first], signed[order[same + 1]]], axis=1),
        ]
    found: np.ndarray = np.unique(np.concatenate(candidates), axis=0)
    return found


def sign_texts(texts: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """Return uint32[N, 64], the MinHash signature of each text; zeros for one without words."""
    array = whole_column(texts) if isinstance(texts, pa.ChunkedArray) else texts
    tokens = whitespace(lower(array.cast(TEXT)))
    encoded = pc.list_flatten(tokens).dictionary_encode()
    hashes = np.array([hash_word(word) for word in encoded.dictionary.to_pylist()], np.uint64)
    lengths = pc.list_value_length(tokens).to_numpy().astype(np.int64)
    padded = np.where(lengths > 0, np.maximum(lengths, SHINGLE), 0)
    starts = np.cumsum(padded) - padded
    words = np.zeros(padded.sum(), np.uint64)
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    if len(hashes):
        words[np.repeat(starts, lengths) + within] = hashes[encoded.indices.to_numpy()]
    signatures = np.zeros((len(lengths), BANDS * ROWS), np.uint32)
    filled = np.flatnonzero(padded)
    if len(filled):
        shingles, firsts = _hash_shingles(words, starts[filled], padded[filled])
        factors = mix_hashes(np.arange(BANDS * ROWS, dtype=np.uint64), 0) | np.uint64(1)
        for column, factor in enumerate(factors):
            with np.errstate(over="ignore"):
                values = ((shingles * factor) >> np.uint64(32)).astype(np.uint32)
            signatures[filled, column] = np.maximum(np.minimum.reduceat(values, firsts), 1)
    return signatures


def _hash_shingles(words: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return uint64 hashes of all sequences of words, text by text, and int64[N], where those of each text begin."""
    rolled = np.zeros(len(words) - SHINGLE + 1, np.uint64)
    with np.errstate(over="ignore"):
        for offset in range(SHINGLE):
            rolled = rolled * np.uint64(0x9E3779B97F4A7C15) + words[offset : offset + len(rolled)]
    counts = lengths - SHINGLE + 1
    firsts = np.cumsum(counts) - counts
    positions = np.arange(counts.sum()) + np.repeat(starts - firsts, counts)
    return mix_hashes(rolled[positions], 0), firsts
