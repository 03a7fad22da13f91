"""Texts in Arrow columns: Unicode normalization and access to their UTF-8 bytes."""

import unicodedata

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.large_string()
TOKEN_LISTS = pa.large_list(TEXT)


def normalize_text(text: str) -> str:
    """Return a text in Unicode normalization form C, the form of GloVe's tokens."""
    return unicodedata.normalize("NFC", text)


def normalize_texts(texts: pa.Array) -> pa.Array:
    """Return texts (large_string, no nulls) in Unicode normalization form C.

    Only texts that may change are looked at one by one. Normalization leaves texts unchanged whose code points are all
    below U+0300, the first combining mark; in UTF-8, code points from U+0300 on begin with a byte of at least 0xCC.
    """
    odd = np.flatnonzero(largest_bytes(texts) >= 0xCC)
    candidates = texts.take(pa.array(odd)).to_pylist() if len(odd) else []
    changed = [i for i, text in enumerate(candidates) if not unicodedata.is_normalized("NFC", text)]
    if not changed:
        return texts
    mask = np.zeros(len(texts), bool)
    mask[odd[changed]] = True
    return pc.replace_with_mask(texts, mask, pa.array([normalize_text(candidates[i]) for i in changed], TEXT))


def text_bytes(texts: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Return the UTF-8 bytes of texts (large_string), joined, uint8, and the offset of each text, int64[N + 1]."""
    if not len(texts):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, ends, data = texts.buffers()
    offsets = np.frombuffer(ends, np.int64)[texts.offset : texts.offset + len(texts) + 1]
    if offsets[0] == offsets[-1]:
        return np.zeros(0, np.uint8), np.zeros(len(offsets), np.int64)
    return np.frombuffer(data, np.uint8)[offsets[0] : offsets[-1]], offsets - offsets[0]


def largest_bytes(texts: pa.Array) -> np.ndarray:
    """Return uint8[N]: the largest UTF-8 byte of each text, 0 for an empty text."""
    data, offsets = text_bytes(texts)
    largest = np.zeros(len(texts), np.uint8)
    filled = np.diff(offsets) > 0
    if filled.any():
        largest[filled] = np.maximum.reduceat(data, offsets[:-1][filled])
    return largest
