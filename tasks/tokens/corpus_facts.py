"""Facts about the train split of a tokenized corpus, by which `pipeline_config.rules` chooses settings.

Imports no prefect: `gloveflow inspect` uses it.
"""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.tokens import CorpusFacts
from pipeline_config.rules import KEPT_TOKENS


def measure_corpus(shards: Iterable[pa.Table]) -> CorpusFacts:
    """Return the facts of a tokenized corpus, given its shards (schema `TOKENS`). Does not read the tokens."""
    lengths, labels = [], set()
    for shard in shards:
        train = shard.select(["label", "length"]).filter(pc.equal(shard["split"], "train"))
        lengths.append(train["length"].to_numpy())
        labels.update(pc.unique(train["label"]).to_pylist())
    return describe_lengths(np.concatenate(lengths), classes=len(labels))


def describe_lengths(lengths: np.ndarray, *, classes: int) -> CorpusFacts:
    """Return the facts of a corpus with train documents of some lengths, int[N], N >= 1."""
    return CorpusFacts(
        documents=len(lengths),
        classes=classes,
        tokens=int(lengths.sum()),
        usual_length=find_usual_length(lengths, KEPT_TOKENS),
    )


def find_usual_length(lengths: np.ndarray, share: float) -> int:
    """Return the smallest number of tokens with which a share of all tokens of documents is kept; at least 1.

    Args:
        lengths: int[N], tokens per document.
        share: of the tokens.
    """
    longer = len(lengths) - np.cumsum(np.bincount(lengths))  # documents with more tokens than each length
    kept = np.cumsum(np.concatenate([[0], longer[:-1]]), dtype=np.int64)  # tokens kept with each length
    return max(1, int(np.searchsorted(kept, share * kept[-1])))
