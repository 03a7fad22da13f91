"""Stage `build_vocabulary`: give the frequent tokens of the train split an id.

Reads the token dictionary and, if wanted, the first tokens of the vectors. Writes `vocabulary`: the special
tokens first, then tokens by falling count in the train split, ties in code point order of the token, then those
that only the vectors add; and beside it the special tokens and the tokenizer that the tokens come from.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_config.errors import InputError
from pipeline_config.schemas import (
    DICTIONARY_FILE,
    SPECIALS_FILE,
    TOKENIZER_FILE,
    VECTORS_FILE,
    VOCABULARY,
    VOCABULARY_FILE,
)
from pipeline_config.settings import VocabularyConfig
from tasks.runtime.arrow import whole_column
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage


@stage(version=2)
def build_vocabulary(
    output: StageOutput, tokens: ArtifactRef, config: VocabularyConfig, vectors: ArtifactRef | None = None
) -> None:
    """Write the vocabulary of the train split.

    Args:
        output: where to write.
        tokens: the tokenized corpus.
        config: what gets an id.
        vectors: the set that `extend_from_vectors` takes tokens from.

    Raises:
        InputError: no token of the train split is frequent enough.
    """
    dictionary = tokens.read_table(DICTIONARY_FILE)
    vocabulary = select_vocabulary(
        dictionary, min_freq=config.min_freq, max_size=config.max_size, specials=config.specials
    )
    if len(vocabulary) == len(config.specials):
        raise InputError(
            f"vocabulary: no token occurs {config.min_freq} times in the train split (vocabulary.min_freq); "
            f"it has {pc.sum(dictionary['train_count']).as_py() or 0:,} tokens"
        )
    kept = pc.sum(vocabulary["count"]).as_py()
    frequent = len(vocabulary)
    if config.extend_from_vectors and vectors:
        first = next(
            pq.ParquetFile(vectors.path(VECTORS_FILE)).iter_batches(config.extend_from_vectors, columns=["token"])
        )
        vocabulary = extend_vocabulary(vocabulary, first["token"])
    output.write_table(VOCABULARY_FILE, vocabulary, VOCABULARY)
    tokenizer = tokens.read_json(TOKENIZER_FILE)["version"]
    output.write_json(SPECIALS_FILE, {"specials": list(config.specials), "tokenizer": tokenizer})
    output.facts.update(
        vocabulary_size=len(vocabulary), train_token_coverage=kept / pc.sum(dictionary["train_count"]).as_py(),
        added_from_vectors=len(vocabulary) - frequent,
    )  # fmt: skip


def select_vocabulary(
    dictionary: pa.Table, *, min_freq: int, max_size: int | None, specials: Sequence[str] = ("<pad>", "<unk>")
) -> pa.Table:
    """Return the vocabulary (schema `VOCABULARY`) of a token dictionary (schema `DICTIONARY`).

    Args:
        dictionary: distinct tokens with their counts in the train split.
        min_freq: occurrences in the train split that a token needs.
        max_size: most entries, special tokens included; None keeps all.
        specials: the special tokens, in the order of their ids.
    """
    special = pa.array(specials, pa.string())
    frequent = pc.and_(
        pc.greater_equal(dictionary["train_count"], min_freq),
        pc.invert(pc.is_in(dictionary["token"], special)),
    )
    ranked = dictionary.filter(frequent).sort_by([("train_count", "descending"), ("token", "ascending")])
    if max_size is not None:
        ranked = ranked.slice(0, max_size - len(special))
    columns = [whole_column(ranked[name]) for name in ("token", "train_count", "train_document_count")]
    return _numbered(special, *columns)


def extend_vocabulary(vocabulary: pa.Table, tokens: pa.Array) -> pa.Table:
    """Return the vocabulary with the tokens that it lacks at its end, in their order."""
    new = tokens.filter(pc.invert(pc.is_in(tokens, whole_column(vocabulary["token"]))))
    columns = [whole_column(vocabulary[name]) for name in ("token", "count", "document_count")]
    zeros = pa.array(np.zeros(len(new), np.int64))
    return _numbered(
        pa.array([], pa.string()),
        *(pa.concat_arrays([c, n]) for c, n in zip(columns, (new, zeros, zeros), strict=True)),
    )


def _numbered(special: pa.Array, token: pa.Array, count: pa.Array, document_count: pa.Array) -> pa.Table:
    zeros = pa.array(np.zeros(len(special), np.int64))
    columns = [pa.concat_arrays(pair) for pair in ((special, token), (zeros, count), (zeros, document_count))]
    ids = pa.array(np.arange(len(columns[0]), dtype=np.int32))
    return pa.table([ids, *columns], schema=VOCABULARY)
