"""A split as flat token ids, mapped into memory: training and evaluation take their batches from it."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from pipeline_config.contracts.batches import BatchingScheme, BucketsDescription
from pipeline_config.schemas import PADDING_IDX, Split, buckets_file
from tasks.batches import batching
from tasks.runtime.arrow import whole_column
from tasks.store.artifacts import ArtifactRef


@dataclass(frozen=True, kw_only=True)
class EncodedSplit:
    """Documents of a split as flat token ids: document i is `input_ids[offsets[i]:offsets[i + 1]]`.

    Shapes: `input_ids` int32[sum of lengths], `offsets` int64[N + 1], `label_ids`, `buckets` int32[N],
    `doc_ids` int64[N]. `scheme` and `token_budget` decide how batches are planned.

    This is a map-style dataset of torch: `split[positions]` is a padded batch, so a plain `DataLoader(split,
    batch_size=None, sampler=BatchSampler(...))` works.
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    label_ids: np.ndarray
    buckets: np.ndarray
    doc_ids: np.ndarray
    scheme: BatchingScheme
    token_budget: int | None

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per document, int64[N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.label_ids)

    def __getitem__(self, documents: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return padded ids int64[B, T], lengths int64[B] and label ids int64[B] of the documents at some positions."""
        documents = np.atleast_1d(documents)
        return *self.pad_batch(documents), self.label_ids[documents].astype(np.int64)

    def plan_batches(self, *, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
        """Plan an epoch by the scheme of this split, see `tasks.batches.batching.plan_batches`."""
        return batching.plan_batches(
            self.buckets,
            lengths=self.lengths,
            scheme=self.scheme,
            batch_size=batch_size,
            token_budget=self.token_budget,
            seed=seed,
            epoch=epoch,
        )

    def pad_batch(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return ids int64[B, T], padded at the end to the longest document, and lengths int64[B]."""
        lengths = self.lengths[documents]
        columns = np.arange(lengths.max())
        real = columns < lengths[:, None]
        positions = np.where(real, self.offsets[documents][:, None] + columns, 0)
        return np.where(real, self.input_ids[positions], PADDING_IDX).astype(np.int64), lengths


def load_split(buckets: ArtifactRef, split: Split) -> EncodedSplit:
    """Return a split of a bucketed corpus, mapped into memory."""
    description = buckets.read_model(BucketsDescription)
    table = buckets.map_table(buckets_file(split))
    lists = whole_column(table["input_ids"])
    return EncodedSplit(
        input_ids=lists.flatten().to_numpy(),
        offsets=lists.offsets.to_numpy() if len(lists) else np.zeros(1, np.int64),
        label_ids=table["label_id"].to_numpy(),
        buckets=table["bucket"].to_numpy(),
        doc_ids=table["doc_id"].to_numpy(),
        scheme=description.scheme,
        token_budget=description.token_budget,
    )
