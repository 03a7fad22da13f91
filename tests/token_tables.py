"""Token dictionaries with counts by hand, and encoded splits, for tests of several packages."""

from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.batches import BatchingScheme
from pipeline_config.contracts.tokens import TokenizerDescription
from pipeline_config.schemas import DICTIONARY
from tasks.batches.encoded_split import EncodedSplit

BASIC_ENGLISH = TokenizerDescription(name="basic_english", version="basic_english 1")


def dictionary_table(counts: Sequence[tuple[object, ...]]) -> pa.Table:
    """Return a token dictionary of rows (token, train, validation, test occurrences, train documents)."""
    columns = [range(len(counts)), *zip(*counts, strict=True)] if counts else [[]] * len(DICTIONARY)
    return pa.table([pa.array(c, f.type) for c, f in zip(columns, DICTIONARY, strict=True)], schema=DICTIONARY)


def make_split(
    documents: Sequence[Sequence[int]],
    *,
    label_ids: Iterable[int] | None = None,
    buckets: Iterable[int] | None = None,
    scheme: BatchingScheme = "optimal",
) -> EncodedSplit:
    """Return a split of documents given as lists of token ids; label, bucket and doc_id default to 0, 0, position."""
    count = len(documents)
    return EncodedSplit(
        input_ids=np.array([token_id for ids in documents for token_id in ids], np.int32),
        offsets=np.cumsum([0, *map(len, documents)]),
        label_ids=np.array([0] * count if label_ids is None else list(label_ids), np.int32),
        buckets=np.array([0] * count if buckets is None else list(buckets), np.int32),
        doc_ids=np.arange(count),
        scheme=scheme,
        token_budget=None,
    )
