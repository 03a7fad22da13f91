"""A linear classifier over n-grams of the tokens of a text, and over the pieces of its words.

An n-gram is one token or several in a row; a piece is 3 to 5 characters of a token, its edges included (Bojanowski et
al. 2017). Each counts once in a text (Wang & Manning 2012), and is known by a hash of 32 bits. The same functions serve
the training and the registered model. It imports only modules of this package, so that a registered model can carry it
unchanged. Shapes: N texts, D distinct tokens, F features, C classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np

PIECES = (3, 4, 5)  # characters
_STEP = np.uint64(0x9E3779B97F4A7C15)
_PLACES = np.array([1, 0x9FB21C651E98DF25, 0xC2B2AE3D27D4EB4F], np.uint64)  # of a token in an n-gram


class HashedTokens(NamedTuple):
    """Distinct tokens by what their features need.

    Attributes:
        words: uint64[D], the hash of each token.
        pieces: uint32, the hashes of the pieces of all tokens, joined.
        ends: int64[D + 1], where the pieces of each token begin in `pieces`.
    """

    words: np.ndarray
    pieces: np.ndarray
    ends: np.ndarray


class Features(NamedTuple):
    """The distinct features of texts: uint32 hashes, rising in each text, and int64[N + 1], where each text begins."""

    keys: np.ndarray
    offsets: np.ndarray

    def take(self, rows: np.ndarray) -> "Features":
        """Return those of some texts, by int64 positions."""
        sizes = np.diff(self.offsets)[rows]
        return Features(self.keys[_spread(self.offsets[rows], sizes)], np.concatenate([[0], np.cumsum(sizes)]))


class LinearModel:
    """The weights of a linear classifier.

    The logits of a text are the sum of the weights of its features that are known, divided by the square root of the
    sum of their sizes, plus the bias.

    Args:
        keys: uint32[F], the hashes of the features, in rising order.
        weights: float32[F, C].
        sizes: float32[F].
        bias: float32[C].
        ngrams: number of tokens of the longest n-gram.
        pieces: whether pieces of words are features.
    """

    def __init__(
        self, keys: np.ndarray, weights: np.ndarray, sizes: np.ndarray, bias: np.ndarray, *, ngrams: int, pieces: bool
    ) -> None:
        self.keys, self.weights, self.sizes, self.bias = keys, weights, sizes, bias
        self.ngrams, self.pieces = ngrams, pieces

    @classmethod
    def read(cls, path: Path, *, ngrams: int, pieces: bool) -> Self:
        """Read the weights that `write` wrote."""
        from safetensors.numpy import load_file

        arrays = load_file(path)
        return cls(arrays["keys"], arrays["weights"], arrays["sizes"], arrays["bias"], ngrams=ngrams, pieces=pieces)

    def write(self, path: Path) -> None:
        """Write the weights as safetensors."""
        from safetensors.numpy import save_file

        arrays = {"keys": self.keys, "weights": self.weights, "sizes": self.sizes, "bias": self.bias}
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, path)

    def answer_tokens(self, tokens: Any) -> np.ndarray:
        """Return the logits float64[N, C] of tokenized texts, an Arrow array of lists of strings."""
        if len(tokens) == 1:  # in half the time
            return self.answer_one(tokens[0].as_py())[None]
        distinct = tokens.flatten().dictionary_encode()
        offsets = tokens.offsets.to_numpy().astype(np.int64)
        hashed = hash_tokens(distinct.dictionary.to_pylist(), pieces=self.pieces)
        codes = distinct.indices.to_numpy(zero_copy_only=False)
        logits = np.zeros((len(tokens), len(self.bias)))
        for start, stop in plan_blocks(offsets, 1 << 17):
            part = codes[offsets[start] - offsets[0] : offsets[stop] - offsets[0]]
            features = find_features(part, offsets[start : stop + 1] - offsets[start], hashed, ngrams=self.ngrams)
            logits[start:stop] = self.answer(features)
        return logits

    def answer(self, features: Features) -> np.ndarray:
        """Return the logits float64[N, C] of the features of texts."""
        rows, lengths = self.select(features)
        logits: np.ndarray = (rows @ self.weights).astype(np.float64) / lengths[:, None] + self.bias
        return logits

    def answer_one(self, tokens: Sequence[str]) -> np.ndarray:
        """Return the logits float64[C] of one text, without scipy."""
        codes = {token: code for code, token in enumerate(dict.fromkeys(tokens))}
        ids, hashed = np.array([codes[token] for token in tokens], int), hash_tokens(list(codes), pieces=self.pieces)
        found = find_features(ids, np.array([0, len(ids)]), hashed, ngrams=self.ngrams).keys
        places = self._find(found)
        places = places[places >= 0]
        length = np.sqrt(self.sizes[places].sum(dtype=np.float64)) or 1.0
        logits: np.ndarray = self.weights[places].sum(axis=0, dtype=np.float64) / length + self.bias
        return logits

    def select(self, features: Features) -> tuple[Any, np.ndarray]:
        """Return the known features of texts, a sparse matrix [N, F] of ones, and float64[N], the divisor of each.

        It is 1 for a text without a known feature.
        """
        from scipy.sparse import csr_matrix  # not at the top: slow to import

        places = self._find(features.keys)
        known = places >= 0
        offsets = np.concatenate([[0], np.cumsum(known)])[features.offsets]
        columns, shape = places[known], (len(offsets) - 1, len(self.keys))
        rows = csr_matrix((np.ones(len(columns), np.float32), columns, offsets), shape=shape)
        lengths = np.sqrt((rows @ self.sizes).astype(np.float64))
        return rows, np.where(lengths > 0, lengths, 1.0)

    def _find(self, keys: np.ndarray) -> np.ndarray:
        """Return int64: the place of each key among those of the model, -1 for one that it does not know."""
        if not len(self.keys):
            return np.full(len(keys), -1)
        places = np.minimum(np.searchsorted(self.keys, keys), len(self.keys) - 1)
        found: np.ndarray = np.where(self.keys[places] == keys, places, -1)
        return found

    def attribute(self, tokens: Sequence[str], target: int) -> list[float]:
        """Return the weight of each token of a text for a class: its share of the features that it is part of.

        Looked at is the logit of the class less the mean logit of all. The weights sum to it, without the bias.
        """
        codes = {token: code for code, token in enumerate(dict.fromkeys(tokens))}
        hashed, ids = hash_tokens(list(codes), pieces=self.pieces), np.array([codes[token] for token in tokens], int)
        keys, owners = _list_occurrences(ids, hashed, self.ngrams)
        found, inverse = np.unique(keys, return_inverse=True)
        rows, lengths = self.select(Features(found, np.array([0, len(found)])))
        values = np.zeros(len(found))
        places = np.searchsorted(found, self.keys[rows.indices])
        weights = self.weights[rows.indices].astype(np.float64)
        values[places] = (weights[:, target] - weights.mean(axis=1)) / lengths[0]
        shares = np.bincount(owners, (values / np.bincount(inverse))[inverse], minlength=len(tokens))
        return [float(share) for share in shares]


def hash_tokens(tokens: Sequence[str], *, pieces: bool) -> HashedTokens:
    """Return the hashes of distinct tokens, and of their pieces if they are wanted."""
    marked = [f"<{token}>" for token in tokens]
    letters = np.frombuffer("".join(marked).encode("utf-32-le", "surrogatepass"), np.uint32).astype(np.uint64)
    sizes = np.array([len(token) for token in marked], np.int64)
    starts = np.cumsum(sizes) - sizes
    longest = int(sizes.max(initial=0))
    powers = np.cumprod(np.concatenate([np.ones(1, np.uint64), np.full(longest, _STEP)]), dtype=np.uint64)
    inside = np.arange(len(letters)) - np.repeat(starts, sizes)
    words = _mix(np.add.reduceat(letters * powers[inside], starts)) if len(tokens) else np.zeros(0, np.uint64)
    if not pieces:
        return HashedTokens(words, np.zeros(0, np.uint32), np.zeros(len(tokens) + 1, np.int64))
    return HashedTokens(words, *_cut_pieces(letters, sizes, powers))


def find_features(codes: np.ndarray, offsets: np.ndarray, hashed: HashedTokens, *, ngrams: int) -> Features:
    """Return the distinct features of texts.

    Args:
        codes: int[T], the tokens of all texts, as positions in `hashed`.
        offsets: int64[N + 1], where each text begins in `codes`.
        hashed: the distinct tokens.
        ngrams: number of tokens of the longest n-gram.
    """
    sizes = np.diff(offsets)
    texts = np.repeat(np.arange(len(sizes), dtype=np.uint64) << np.uint64(32), sizes)
    found = [
        texts[: len(keys)][inside] | keys[inside] for keys, inside in _hash_ngrams(codes, texts, hashed.words, ngrams)
    ]
    if len(hashed.pieces):
        pairs = _sort_distinct(texts | codes.astype(np.uint64))
        tokens = (pairs & np.uint64(0xFFFFFFFF)).astype(np.int64)
        counts = np.diff(hashed.ends)[tokens]
        pieces = hashed.pieces[_spread(hashed.ends[tokens], counts)].astype(np.uint64)
        found.append(np.repeat(pairs & ~np.uint64(0xFFFFFFFF), counts) | pieces)
    joined = _sort_distinct(np.concatenate(found))
    edges = np.arange(len(sizes) + 1, dtype=np.uint64) << np.uint64(32)
    return Features(joined.astype(np.uint32), np.searchsorted(joined, edges).astype(np.int64))


def plan_blocks(offsets: np.ndarray, tokens: int) -> list[tuple[int, int]]:
    """Return first and last position of blocks of texts with about so many tokens, and at least one text."""
    blocks, start, last = [], 0, len(offsets) - 1
    while start < last:
        stop = int(np.searchsorted(offsets, offsets[start] + tokens, side="right")) - 1
        stop = min(max(stop, start + 1), last)
        blocks.append((start, stop))
        start = stop
    return blocks


def _hash_ngrams(
    codes: np.ndarray, texts: np.ndarray, words: np.ndarray, ngrams: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return for each length the hashes of the n-grams that begin at each token, and which of them lie in one text."""
    hashes, found = words[codes], []
    for size in range(1, ngrams + 1):
        count = max(0, len(codes) - size + 1)
        total = np.zeros(count, np.uint64)
        for place in range(size):
            total += hashes[place : place + count] * _PLACES[place]
        keys = ((_mix(total) if size > 1 else total) >> np.uint64(32)) & np.uint64(0xFFFFFFFE)
        found.append((keys, texts[:count] == texts[size - 1 :]))
    return found


def _list_occurrences(codes: np.ndarray, hashed: HashedTokens, ngrams: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the hash of each occurrence of a feature in a text, once for each token in it, and that token's place."""
    keys, owners = [], []
    for size, (hashes, _) in enumerate(_hash_ngrams(codes, np.zeros(len(codes), np.uint64), hashed.words, ngrams), 1):
        keys += [hashes] * size
        owners += [np.arange(len(hashes)) + place for place in range(size)]
    counts = np.diff(hashed.ends)[codes]
    keys.append(hashed.pieces[_spread(hashed.ends[codes], counts)].astype(np.uint64))
    owners.append(np.repeat(np.arange(len(codes)), counts))
    return np.concatenate(keys).astype(np.uint32), np.concatenate(owners)


def _cut_pieces(letters: np.ndarray, sizes: np.ndarray, powers: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the hashes uint32 of the pieces of tokens, and where those of each token begin."""
    owners = np.repeat(np.arange(len(sizes)), sizes)
    keys, of = [np.zeros(0, np.uint32)], [np.zeros(0, np.int64)]
    for size in PIECES:
        count = max(0, len(letters) - size + 1)
        total = np.zeros(count, np.uint64)
        for place in range(min(size, len(powers))):
            total += letters[place : place + count] * powers[place]
        inside = owners[:count] == owners[len(owners) - count :]
        inside &= np.repeat(sizes, sizes)[:count] > size  # a whole token is a feature already
        keys.append((_mix(total[inside] ^ np.uint64(size)) >> np.uint64(32)).astype(np.uint32) | np.uint32(1))
        of.append(owners[:count][inside])
    order = np.argsort(np.concatenate(of), kind="stable")
    counts = np.bincount(np.concatenate(of), minlength=len(sizes))
    return np.concatenate(keys)[order], np.concatenate([[0], np.cumsum(counts)])


def _sort_distinct(values: np.ndarray) -> np.ndarray:
    """Return the distinct values in rising order; `np.unique`, which hashes integers, takes forty times as long."""
    ordered = np.sort(values)
    new = np.ones(len(ordered), bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    return ordered[new]


def _spread(starts: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return int64 positions: for each start that start and those behind it, as many as its count."""
    before = np.cumsum(counts) - counts
    return np.repeat(starts - before, counts) + np.arange(int(counts.sum()))


def _mix(hashes: np.ndarray) -> np.ndarray:
    """Return hashes whose high bits depend on all bits."""
    mixed = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xA0761D6478BD642F)
    result: np.ndarray = mixed ^ (mixed >> np.uint64(32))
    return result
