"""Hashes of texts and words, the same on every machine: copies have equal hashes, and hashes order the draws."""

import hashlib

import numpy as np
import pyarrow as pa

from tasks.served.text import largest_bytes, text_bytes

_WHITE_SPACE = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_LOWER = bytes(range(256)).lower()


def hash_texts(texts: pa.Array) -> list[bytes]:
    """Return 16 bytes per text (large_string), equal for texts that differ only in case and white space.

    They are the BLAKE2b digest of the case-folded text without its white space.
    """
    data, offsets = text_bytes(texts)
    whole, ends = data.tobytes(), offsets.tolist()
    keys = []
    for start, end, largest in zip(ends[:-1], ends[1:], largest_bytes(texts).tolist(), strict=True):
        folded = whole[start:end].translate(_LOWER, _WHITE_SPACE)
        if largest >= 0x80:
            folded = "".join(folded.decode().casefold().split()).encode()
        keys.append(hashlib.blake2b(folded, digest_size=16).digest())
    return keys


def hash_word(word: str) -> int:
    """Return the BLAKE2b digest of a word as a number of 64 bits."""
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def mix_hashes(hashes: np.ndarray, seed: int) -> np.ndarray:
    """Return uint64[N], hashes scrambled by a seed: the finalizer of SplitMix64 (Steele, Lea & Flood 2014)."""
    with np.errstate(over="ignore"):
        z = hashes.astype(np.uint64) + np.uint64(seed + 1) * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed: np.ndarray = z ^ (z >> np.uint64(31))
    return mixed
