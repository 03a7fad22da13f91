"""A small vector set, a vocabulary, and a tokenized corpus with counts by hand."""

import numpy as np
import pyarrow as pa

from pipeline_config.schemas import DICTIONARY, DICTIONARY_FILE, SHARD_PATTERN, TOKENS
from tasks.store.artifacts import ArtifactRef, stage_key
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tests.token_tables import BASIC_ENGLISH, dictionary_table

SET_TOKENS = ["the", "cat", "Paris", "i"]


# the last dimension is constant
VECTORS = np.array([[1, 2, 7], [3, 4, 7], [5, 6, 7], [-1, 0, 7]], np.float32)


WORDS = ["<pad>", "<unk>", "the", "CAT", "paris", "Paris", "dog", "zebra"]


# token, train, validation, test occurrences, train documents
COUNTS = [
    ("the", 10, 2, 3, 4),
    ("CAT", 4, 0, 1, 2),
    ("paris", 2, 0, 0, 1),
    ("Paris", 1, 1, 0, 1),
    ("dog", 2, 1, 0, 1),
    ("zebra", 2, 0, 0, 1),
    ("rare", 1, 0, 6, 1),
]


def strings(words: list[str]) -> pa.Array:
    return pa.array(words, pa.string())


def tokens_of() -> ArtifactRef:
    """Return a tokenized corpus with the counts above: class x has the train tokens, class y the others."""

    def write(out: StageOutput) -> None:
        out.write_table(DICTIONARY_FILE, dictionary_table(COUNTS), DICTIONARY)
        out.write_model(BASIC_ENGLISH)
        rows = []
        for place, (label, split) in enumerate([("x", "train"), ("y", "validation"), ("y", "test")]):
            codes = [code for code, row in enumerate(COUNTS) for _ in range(row[1 + place])]
            rows.append({"doc_id": place, "label": label, "split": split, "length": len(codes), "codes": codes})
        rows.append({"doc_id": 9, "label": "z", "split": "train", "length": 0, "codes": []})
        for shard, documents in enumerate((rows[:2], rows[2:])):
            out.write_mapped(SHARD_PATTERN.format(shard=shard), pa.Table.from_pylist(documents, schema=TOKENS), TOKENS)

    return commit_output("tokenize_corpus", stage_key("tokenize_corpus", 1, {}), write)[0]
