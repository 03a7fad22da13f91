"""The vocabulary as a value: tokens and their ids, read as torchtext's vocabularies are."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import InputError
from pipeline_config.schemas import (
    SPECIALS_FILE,
    UNK_IDX,
    VOCABULARY_FILE,
)
from tasks.store.artifacts import ArtifactRef


class Vocabulary:
    """Tokens and their ids, read as torchtext's vocabularies are.

    `vocabulary[token]` is the id of a token, that of the unknown token for one outside; special tokens are found
    by their names, as in torchtext. Texts are another matter: see `encode`.

    Args:
        itos: tokens in the order of their ids.
        specials: how many of the first are special tokens.
        default_index: id of tokens outside; None makes them a `KeyError`.
        tokenizer: what the tokens come from, see `tasks.served.tokenizers.identify_tokenizer`.
    """

    def __init__(
        self, itos: Sequence[str], *, specials: int = 2, default_index: int | None = UNK_IDX, tokenizer: str = ""
    ) -> None:
        self.itos = list(itos)
        self.stoi = {token: token_id for token_id, token in enumerate(self.itos)}
        self.specials = specials
        self.default_index = default_index
        self.tokenizer = tokenizer

    @classmethod
    def read(cls, vocabulary: ArtifactRef) -> Self:
        """Read a vocabulary from the store."""
        about = vocabulary.read_json(SPECIALS_FILE)
        tokens = vocabulary.read_table(VOCABULARY_FILE, columns=["token"])["token"].to_pylist()
        return cls(tokens, specials=len(about["specials"]), tokenizer=about["tokenizer"])

    def __len__(self) -> int:
        return len(self.itos)

    def __contains__(self, token: str) -> bool:
        return token in self.stoi

    def __getitem__(self, token: str) -> int:
        if self.default_index is None:
            return self.stoi[token]
        return self.stoi.get(token, self.default_index)

    def lookup_indices(self, tokens: Iterable[str]) -> list[int]:
        """Return the ids of tokens."""
        return [self[token] for token in tokens]

    def lookup_token(self, token_id: int) -> str:
        """Return the token of an id.

        Raises:
            IndexError: there is no such id.
        """
        if not 0 <= token_id < len(self.itos):
            raise IndexError(f"token id {token_id}: expected 0 to {len(self.itos) - 1}")
        return self.itos[token_id]

    def lookup_tokens(self, token_ids: Iterable[int]) -> list[str]:
        """Return the tokens of ids."""
        return [self.lookup_token(token_id) for token_id in token_ids]

    def get_itos(self) -> list[str]:
        """Return the tokens in the order of their ids."""
        return self.itos

    def get_stoi(self) -> dict[str, int]:
        """Return the id of each token."""
        return self.stoi

    def get_default_index(self) -> int | None:
        """Return the id of tokens outside, None if they are an error."""
        return self.default_index

    def set_default_index(self, default_index: int | None) -> None:
        """Set the id of tokens outside; None makes them a `KeyError`."""
        self.default_index = default_index

    def encode(self, tokens: pa.Array) -> np.ndarray:
        """Return int32 ids for tokens of texts: there a word that looks like a special token is unknown."""
        words = pa.array(self.itos[self.specials :], tokens.type)
        ids: np.ndarray = pc.add(pc.index_in(tokens, words), self.specials).fill_null(UNK_IDX).to_numpy()
        return ids.astype(np.int32)

    @property
    def digest(self) -> str:
        """SHA-256 over tokenizer, number of special tokens, and tokens: what ids mean depends on these alone."""
        about = [self.tokenizer, str(self.specials), *self.itos]
        return hashlib.sha256(b"".join(f"{len(t.encode())}:{t}".encode() for t in about)).hexdigest()


def check_vocabulary(vocabulary: Vocabulary, expected: str, *, where: str) -> None:
    """Refuse what was made for another vocabulary.

    Args:
        vocabulary: the vocabulary in use.
        expected: digest of the one that `where` was made for.
        where: what was made for it, for the message.

    Raises:
        InputError: the digests differ.
    """
    if vocabulary.digest != expected:
        raise InputError(
            f"{where}: was made for the vocabulary {expected[:12]}, got {vocabulary.digest[:12]}; their token ids "
            "do not mean the same tokens"
        )
