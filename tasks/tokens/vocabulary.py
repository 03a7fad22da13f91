"""The vocabulary in memory: tokens and their ids, with the methods of torchtext's `Vocab`."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.tokens import VocabularyDescription
from pipeline_config.errors import InputError
from pipeline_config.schemas import UNK_IDX, VOCABULARY_FILE
from tasks.store.artifacts import ArtifactRef


class Vocabulary:
    """Tokens and their ids, with the methods of torchtext's `Vocab`.

    `vocabulary[token]` is the id of a token, or `default_index` if the vocabulary lacks the token. Special tokens are
    looked up by name, as in torchtext; `encode` treats such a word in a text as unknown.

    Args:
        itos: tokens in the order of their ids.
        specials: how many of the first tokens are special tokens.
        default_index: id of every token outside the vocabulary; None raises a `KeyError` instead.
        tokenizer: version of the tokenizer of these tokens, from `tasks.served.tokenizers.identify_tokenizer`.
    """

    def __init__(
        self, itos: Sequence[str], *, specials: int, default_index: int | None = UNK_IDX, tokenizer: str = ""
    ) -> None:
        self.itos = list(itos)
        self.stoi = {token: token_id for token_id, token in enumerate(self.itos)}
        self.specials = specials
        self.default_index = default_index
        self.tokenizer = tokenizer

    @classmethod
    def read(cls, vocabulary: ArtifactRef) -> Self:
        """Read a vocabulary from the store."""
        description = vocabulary.read_model(VocabularyDescription)
        tokens = vocabulary.read_table(VOCABULARY_FILE, columns=["token"])["token"].to_pylist()
        return cls(tokens, specials=len(description.specials), tokenizer=description.tokenizer)

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
            IndexError: no token has this id.
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
        """Return the id of tokens outside the vocabulary, or None if looking them up raises a `KeyError`."""
        return self.default_index

    def set_default_index(self, default_index: int | None) -> None:
        """Set the id of tokens outside the vocabulary; None raises a `KeyError` for them."""
        self.default_index = default_index

    def encode(self, tokens: pa.Array) -> np.ndarray:
        """Return int32 ids for the tokens of texts; a word that looks like a special token is unknown."""
        words = pa.array(self.itos[self.specials :], tokens.type)
        ids: np.ndarray = pc.add(pc.index_in(tokens, words), self.specials).fill_null(UNK_IDX).to_numpy()
        return ids.astype(np.int32)

    @property
    def digest(self) -> str:
        """SHA-256 over everything that gives token ids their meaning: tokenizer, number of special tokens, tokens."""
        parts = [self.tokenizer, str(self.specials), *self.itos]
        return hashlib.sha256(b"".join(f"{len(part.encode())}:{part}".encode() for part in parts)).hexdigest()


def check_vocabulary(vocabulary: Vocabulary, expected: str, *, where: str) -> None:
    """Check that an output was made for the vocabulary in use.

    Args:
        vocabulary: the vocabulary in use.
        expected: digest of the vocabulary that the output was made for.
        where: path of the output, for the message.

    Raises:
        InputError: the digests differ.
    """
    if vocabulary.digest != expected:
        raise InputError(
            f"{where}: was made for the vocabulary {expected[:12]}, got {vocabulary.digest[:12]}, in which token ids "
            "mean other tokens; use outputs of the same run together"
        )
