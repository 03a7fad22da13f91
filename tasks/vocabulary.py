"""Stage `build_vocabulary`: give the frequent tokens of the train split an id.

Reads the token dictionary. Writes `vocabulary`: the special tokens first, then tokens by falling count in the
train split, ties in code point order of the token.
"""

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import InputError
from pipeline_config.schemas import DICTIONARY_FILE, SPECIAL_TOKENS, VOCABULARY, VOCABULARY_FILE
from pipeline_config.settings import VocabularyConfig
from tasks.stage import stage
from tasks.store import ArtifactRef, StageOutput


@stage(version=1)
def build_vocabulary(output: StageOutput, tokens: ArtifactRef, config: VocabularyConfig) -> None:
    """Write the vocabulary of the train split.

    Raises:
        InputError: no token of the train split is frequent enough.
    """
    dictionary = tokens.read_table(DICTIONARY_FILE)
    vocabulary = select_vocabulary(dictionary, min_freq=config.min_freq, max_size=config.max_size)
    if len(vocabulary) == len(SPECIAL_TOKENS):
        raise InputError(
            f"vocabulary: no token occurs {config.min_freq} times in the train split (vocabulary.min_freq); "
            f"it has {pc.sum(dictionary['train_count']).as_py() or 0:,} tokens"
        )
    output.write_table(VOCABULARY_FILE, vocabulary, VOCABULARY)
    kept = pc.sum(vocabulary["count"]).as_py()
    output.facts.update(
        vocabulary_size=len(vocabulary), train_token_coverage=kept / pc.sum(dictionary["train_count"]).as_py()
    )


def select_vocabulary(dictionary: pa.Table, *, min_freq: int, max_size: int | None) -> pa.Table:
    """Return the vocabulary (schema `VOCABULARY`) of a token dictionary (schema `DICTIONARY`).

    Args:
        dictionary: distinct tokens with their counts in the train split.
        min_freq: occurrences in the train split that a token needs.
        max_size: most entries, special tokens included; None keeps all.
    """
    special = pa.array(SPECIAL_TOKENS)
    frequent = pc.and_(
        pc.greater_equal(dictionary["train_count"], min_freq),
        pc.invert(pc.is_in(dictionary["token"], special)),
    )
    ranked = dictionary.filter(frequent).sort_by([("train_count", "descending"), ("token", "ascending")])
    if max_size is not None:
        ranked = ranked.slice(0, max_size - len(special))
    zeros = pa.array([0] * len(special), pa.int64())
    token = pa.chunked_array([special, *ranked["token"].chunks])
    count = pa.chunked_array([zeros, *ranked["train_count"].chunks])
    document_count = pa.chunked_array([zeros, *ranked["train_document_count"].chunks])
    return pa.table([pa.array(range(len(token)), pa.int32()), token, count, document_count], schema=VOCABULARY)
