"""Encoded splits made by hand, for tests and campaigns."""

from collections.abc import Sequence

import numpy as np

from tasks.batches.encoded_split import EncodedSplit


def make_split(
    documents: Sequence[Sequence[int] | np.ndarray],
    label_ids: Sequence[int] | np.ndarray | None = None,
    *,
    bucket_width: int = 1000,
    first_doc_id: int = 0,
) -> EncodedSplit:
    """Return a split of documents, given as token ids; without `label_ids` all are of class 0.

    A document is in bucket `length // bucket_width`.
    """
    lengths = np.array([len(tokens) for tokens in documents])
    return EncodedSplit(
        input_ids=np.concatenate(documents).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        label_ids=np.zeros(len(documents), np.int32) if label_ids is None else np.array(label_ids, np.int32),
        buckets=(lengths // bucket_width).astype(np.int32),
        doc_ids=np.arange(first_doc_id, first_doc_id + len(documents)),
        scheme="optimal",
        token_budget=None,
    )
