"""Stage `bucket_corpus`: token ids per document, grouped by length.

Reads `tokens` and `vocabulary`. Writes `doc_id`, `label_id`, `length`, `bucket`, `input_ids` per split, the
class names, and a report that compares the padding of all schemes on the train split. The planning and
padding of batches, which training uses, is here too; none of it knows torch.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_config.schemas import (
    BUCKETS,
    DICTIONARY_FILE,
    PADDING_FILE,
    PADDING_IDX,
    SPECIAL_TOKENS,
    SPLITS,
    UNK_IDX,
    VOCABULARY_FILE,
    Split,
    buckets_file,
)
from pipeline_config.settings import BucketingConfig
from tasks.stage import stage
from tasks.store import ArtifactRef, StageOutput
from tasks.tokenization import iterate_shards

SCHEMES = ("quantile", "fixed_width", "none")


@dataclass(frozen=True)
class EncodedSplit:
    """Documents of a split as flat token ids: document i is `input_ids[offsets[i]:offsets[i + 1]]`.

    Shapes: `input_ids` int32[sum of lengths], `offsets` int64[N + 1], `label_ids`, `buckets` int32[N],
    `doc_ids` int64[N].
    """

    input_ids: np.ndarray
    offsets: np.ndarray
    label_ids: np.ndarray
    buckets: np.ndarray
    doc_ids: np.ndarray

    @cached_property
    def lengths(self) -> np.ndarray:
        """Tokens per document, int64[N]."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.label_ids)

    def pad_batch(self, documents: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return int64[B, T] ids padded at the end to the longest, and int64[B] lengths, of some documents."""
        lengths = self.lengths[documents]
        columns = np.arange(lengths.max())
        real = columns < lengths[:, None]
        positions = np.where(real, self.offsets[documents][:, None] + columns, 0)
        return np.where(real, self.input_ids[positions], PADDING_IDX).astype(np.int64), lengths


@stage(version=1)
def bucket_corpus(
    output: StageOutput, tokens: ArtifactRef, vocabulary: ArtifactRef, config: BucketingConfig, seed: int
) -> None:
    """Write the token ids of each split with their length buckets, and the padding report."""
    codes, offsets, frame = _read_codes(tokens)
    ids = token_ids_of_codes(tokens.read_table(DICTIONARY_FILE), vocabulary.read_table(VOCABULARY_FILE))[codes]
    input_ids, offsets, cut = truncate(ids, offsets, max_length=config.max_length, side=config.truncation)
    input_ids, offsets, empty = fill_empty(input_ids, offsets)
    lengths = np.diff(offsets)
    split = frame["split"].to_numpy()
    labels = sorted(set(frame["label"].to_pylist()))
    label_ids = pc.index_in(frame["label"], pa.array(labels)).to_numpy()
    train = lengths[split == "train"]
    boundaries = draw_boundaries(train, scheme=config.scheme, num_buckets=config.num_buckets)
    table = pa.table(
        [
            frame["doc_id"],
            pa.array(label_ids, pa.int32()),
            pa.array(lengths, pa.int32()),
            pa.array(assign_buckets(lengths, boundaries), pa.int32()),
            pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(input_ids, pa.int32())),
        ],
        schema=BUCKETS,
    )
    for name in SPLITS:
        output.write_table(buckets_file(name), table.filter(pa.array(split == name)), BUCKETS)
    report = compare_schemes(train, num_buckets=config.num_buckets, batch_size=config.batch_size, seed=seed)
    output.write_json(PADDING_FILE, {"labels": labels, "boundaries": boundaries.tolist(), "schemes": report})
    output.facts.update(
        padding_efficiency=report[config.scheme]["efficiency"], buckets=len(boundaries),
        documents_truncated=cut, documents_empty=empty, batches=report[config.scheme]["batches"],
    )  # fmt: skip


def read_labels(buckets: ArtifactRef) -> list[str]:
    """Return the class names; the position is the `label_id`."""
    return list(buckets.read_json(PADDING_FILE)["labels"])


def read_split(path: Path) -> EncodedSplit:
    """Read the buckets of a split from its file."""
    table = pq.read_table(path, partitioning=None, memory_map=True)
    lists = table["input_ids"].combine_chunks()
    return EncodedSplit(
        input_ids=lists.flatten().to_numpy(),
        offsets=lists.offsets.to_numpy() - lists.offsets[0].as_py() if len(lists) else np.zeros(1, np.int64),
        label_ids=table["label_id"].to_numpy(),
        buckets=table["bucket"].to_numpy(),
        doc_ids=table["doc_id"].to_numpy(),
    )


def load_split(buckets: ArtifactRef, split: Split) -> EncodedSplit:
    """Return a split of a bucketed corpus."""
    return read_split(buckets.path(buckets_file(split)))


def token_ids_of_codes(dictionary: pa.Table, vocabulary: pa.Table) -> np.ndarray:
    """Return int32[codes]: the token id of each dictionary code, `<unk>` for tokens outside the vocabulary.

    A word of a text that looks like a special token is none: it is outside the vocabulary.
    """
    special = len(SPECIAL_TOKENS)
    ids = pc.index_in(dictionary["token"], vocabulary["token"].combine_chunks().slice(special))
    token_ids: np.ndarray = pc.add(ids, special).fill_null(UNK_IDX).to_numpy().astype(np.int32)
    return token_ids


def truncate(ids: np.ndarray, offsets: np.ndarray, *, max_length: int, side: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut documents to `max_length` tokens, keeping the `head` or the `tail`.

    Returns:
        Flat ids, int64[N + 1] offsets, and how many documents were cut.
    """
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, max_length)
    starts = offsets[:-1] + (lengths - kept if side == "tail" else 0)
    new_offsets = np.concatenate([[0], np.cumsum(kept)])
    positions = np.repeat(starts - new_offsets[:-1], kept) + np.arange(new_offsets[-1])
    return ids[positions], new_offsets, int((lengths > max_length).sum())


def fill_empty(ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Give a document without tokens one `<unk>`, so that every document has a last real output."""
    lengths = np.diff(offsets)
    empty = lengths == 0
    ids = np.insert(ids, offsets[:-1][empty], UNK_IDX)
    return ids, np.concatenate([[0], np.cumsum(np.where(empty, 1, lengths))]), int(empty.sum())


def draw_boundaries(lengths: np.ndarray, *, scheme: str, num_buckets: int) -> np.ndarray:
    """Return the largest length of each bucket, rising, int64; the last one is the longest document."""
    longest = int(lengths.max())
    if scheme == "none":
        return np.array([longest])
    if scheme == "fixed_width":
        return np.unique(np.ceil(np.linspace(0, longest, num_buckets + 1)[1:]).astype(np.int64))
    return np.unique(np.quantile(lengths, np.linspace(0, 1, num_buckets + 1)[1:], method="higher").astype(np.int64))


def assign_buckets(lengths: np.ndarray, boundaries: np.ndarray) -> np.ndarray:
    """Return int64[N]: the first bucket that a length fits in; longer ones go to the last."""
    return np.minimum(np.searchsorted(boundaries, lengths), len(boundaries) - 1)


def plan_batches(buckets: np.ndarray, *, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Plan an epoch: every document in exactly one batch, batch-mates from one bucket or adjacent ones.

    A pure function of its arguments: documents are shuffled within their buckets, cut into batches, and the
    batches are shuffled, by raw PCG64 draws (O'Neill 2014), whose stream is fixed.

    Returns:
        int64 arrays of positions in `buckets`.
    """
    bits = np.random.PCG64([seed, epoch])
    order = np.lexsort((bits.random_raw(len(buckets)), buckets))
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[i] for i in np.argsort(bits.random_raw(len(batches)), kind="stable")]


def padding_efficiency(lengths: np.ndarray, batches: list[np.ndarray]) -> float:
    """Return real tokens divided by tokens with padding."""
    padded = sum(int(lengths[batch].max()) * len(batch) for batch in batches)
    return float(lengths.sum() / padded) if padded else 1.0


def compare_schemes(lengths: np.ndarray, *, num_buckets: int, batch_size: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return efficiency, batches and bucket boundaries of each scheme for the first epoch."""
    report = {}
    for scheme in SCHEMES:
        boundaries = draw_boundaries(lengths, scheme=scheme, num_buckets=num_buckets)
        batches = plan_batches(assign_buckets(lengths, boundaries), batch_size=batch_size, seed=seed, epoch=0)
        report[scheme] = {
            "efficiency": padding_efficiency(lengths, batches),
            "batches": len(batches),
            "boundaries": boundaries.tolist(),
        }
    return report


def _read_codes(tokens: ArtifactRef) -> tuple[np.ndarray, np.ndarray, pa.Table]:
    table = pa.concat_tables(iterate_shards(tokens))
    lists = table["codes"].combine_chunks()
    return lists.flatten().to_numpy(), lists.offsets.to_numpy(), table.select(["doc_id", "label", "split"])
