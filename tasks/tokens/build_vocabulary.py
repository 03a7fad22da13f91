"""Stage `build_vocabulary`: give the frequent tokens of the train split an id.

Reads the token dictionary and, if configured, the first tokens of the vectors. Writes `vocabulary` in this order: the
special tokens; the tokens of the train split by falling count, ties in code point order; the tokens that only the
vectors have. A second file names the special tokens and the tokenizer.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_config.contracts.tokens import TokenizerDescription, VocabularyDescription
from pipeline_config.errors import InputError
from pipeline_config.schemas import DICTIONARY_FILE, VECTORS_FILE, VOCABULARY, VOCABULARY_FILE
from pipeline_config.settings import VocabularyConfig
from tasks.runtime.arrow import whole_column
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage
from tasks.tokens.unspaced import check_segmentation, describe_long_tokens


@stage(version=2)
def build_vocabulary(
    output: StageOutput, tokens: ArtifactRef, config: VocabularyConfig, vectors: ArtifactRef | None = None
) -> None:
    """Write the vocabulary of the train split.

    Args:
        output: where to write.
        tokens: the tokenized corpus.
        config: which tokens get an id.
        vectors: the set whose first tokens `extend_from_vectors` adds.

    Raises:
        InputError: no token of the train split is frequent enough, or the tokenizer did not split the texts.
    """
    dictionary, tokenizer = tokens.read_table(DICTIONARY_FILE), tokens.read_model(TokenizerDescription)
    check_segmentation(dictionary, tokenizer.name)
    vocabulary = select_vocabulary(
        dictionary, min_freq=config.min_freq, max_size=config.max_size, specials=config.specials
    )
    if len(vocabulary) == len(config.specials):
        raise InputError(
            f"vocabulary: no token occurs {config.min_freq} times in the train split, which has "
            f"{pc.sum(dictionary['train_count']).as_py() or 0:,} tokens; lower vocabulary.min_freq or use more "
            f"documents{describe_long_tokens(dictionary, tokenizer.name)}"
        )
    kept = pc.sum(vocabulary["count"]).as_py()
    frequent = len(vocabulary)
    if config.extend_from_vectors and vectors:
        first = next(
            pq.ParquetFile(vectors.path(VECTORS_FILE)).iter_batches(config.extend_from_vectors, columns=["token"])
        )
        vocabulary = extend_vocabulary(vocabulary, first["token"])
    output.write_table(VOCABULARY_FILE, vocabulary, VOCABULARY)
    output.write_model(VocabularyDescription(specials=config.specials, tokenizer=tokenizer.version))
    output.facts.update(
        vocabulary_size=len(vocabulary),
        train_token_coverage=kept / pc.sum(dictionary["train_count"]).as_py(),
        added_from_vectors=len(vocabulary) - frequent,
    )


def select_vocabulary(
    dictionary: pa.Table, *, min_freq: int, max_size: int | None, specials: Sequence[str]
) -> pa.Table:
    """Return the vocabulary (schema `VOCABULARY`) of a token dictionary (schema `DICTIONARY`).

    Args:
        dictionary: distinct tokens with their counts in the train split.
        min_freq: occurrences in the train split that a token needs.
        max_size: largest number of entries, special tokens included; None keeps all.
        specials: the special tokens, in the order of their ids.
    """
    special = pa.array(specials, pa.string())
    frequent = pc.and_(
        pc.greater_equal(dictionary["train_count"], min_freq), pc.invert(pc.is_in(dictionary["token"], special))
    )
    ranked = dictionary.filter(frequent).sort_by([("train_count", "descending"), ("token", "ascending")])
    if max_size is not None:
        ranked = ranked.slice(0, max_size - len(special))
    columns = [whole_column(ranked[name]) for name in ("token", "train_count", "train_document_count")]
    return _number_tokens(*(pa.concat_arrays(pair) for pair in zip(_without_counts(special), columns, strict=True)))


def extend_vocabulary(vocabulary: pa.Table, tokens: pa.Array) -> pa.Table:
    """Return the vocabulary with those of the tokens that it lacks appended in their order."""
    new = tokens.filter(pc.invert(pc.is_in(tokens, whole_column(vocabulary["token"]))))
    columns = [whole_column(vocabulary[name]) for name in ("token", "count", "document_count")]
    return _number_tokens(*(pa.concat_arrays(pair) for pair in zip(columns, _without_counts(new), strict=True)))


def _without_counts(tokens: pa.Array) -> tuple[pa.Array, pa.Array, pa.Array]:
    """Return the columns token, count and document count for tokens that were not counted in the train split."""
    zeros = pa.array(np.zeros(len(tokens), np.int64))
    return tokens, zeros, zeros


def _number_tokens(token: pa.Array, count: pa.Array, document_count: pa.Array) -> pa.Table:
    ids = pa.array(np.arange(len(token), dtype=np.int32))
    return pa.table([ids, token, count, document_count], schema=VOCABULARY)
