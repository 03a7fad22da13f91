"""Stage `bucket_corpus`: token ids per document, grouped by length.

Reads `tokens` and `vocabulary`, shard by shard. Writes `doc_id`, `label_id`, `length`, `bucket`, `input_ids` per
split as Arrow IPC, which training maps into memory; the class names; and a report that compares the padding of
all schemes on the train split. Planning of batches is in `tasks.batches.batching`; neither knows torch.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import InputError
from pipeline_config.schemas import (
    BUCKETS,
    DICTIONARY_FILE,
    PADDING_FILE,
    SPLITS,
    TOKENIZER_FILE,
    UNK_IDX,
    Split,
    buckets_file,
)
from pipeline_config.settings import BucketingConfig
from tasks.batches import batching
from tasks.runtime.arrow import whole_column
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage
from tasks.tokens.tokenize_corpus import iterate_shards
from tasks.tokens.vocabulary import Vocabulary


@stage(version=2)
def bucket_corpus(
    output: StageOutput, tokens: ArtifactRef, vocabulary: ArtifactRef, config: BucketingConfig, seed: int
) -> None:
    """Write the token ids of each split with their length buckets, and the padding report.

    Raises:
        InputError: the vocabulary was built for another tokenizer.
    """
    known = Vocabulary.read(vocabulary)
    _check_tokenizer(tokens, known)
    train, labels = _survey(tokens, config.max_length)
    schemes = batching.compare_schemes(
        train, num_buckets=config.num_buckets, batch_size=config.batch_size, seed=seed,
        token_budget=config.token_budget,
    )  # fmt: skip
    chosen = schemes[config.scheme]
    ids = known.encode(whole_column(tokens.read_table(DICTIONARY_FILE, columns=["token"])["token"]))
    counts: Counter[str] = Counter()
    with SplitWriter(output) as writer:
        for shard in iterate_shards(tokens):
            documents = encode_shard(shard, ids, labels, np.array(chosen["boundaries"]), config, counts)
            writer.add(documents, shard["split"])
    output.write_json(PADDING_FILE, {
        "labels": labels, "boundaries": chosen["boundaries"], "schemes": schemes, "scheme": config.scheme,
        "token_budget": config.token_budget, "truncation": dict(counts), "vocabulary": known.digest,
        "tokenizer": known.tokenizer,
    })  # fmt: skip
    output.facts.update(
        padding_efficiency=chosen["efficiency"], buckets=len(chosen["boundaries"]), batches=chosen["batches"],
        documents_truncated=counts["documents_cut"], tokens_truncated=counts["tokens_cut"],
        documents_empty=counts["documents_empty"],
        **{f"padding_efficiency_{name}": report["efficiency"] for name, report in schemes.items()},
    )  # fmt: skip


def read_labels(buckets: ArtifactRef) -> list[str]:
    """Return the class names; the position is the `label_id`."""
    return list(buckets.read_json(PADDING_FILE)["labels"])


class SplitWriter:
    """Write encoded documents split by split: columns are kept, token ids go to a file at once.

    So memory holds 24 bytes per document; on a clean end each split becomes one record batch.
    """

    def __init__(self, output: StageOutput) -> None:
        self.output = output
        self._columns: dict[str, list[pa.Table]] = {name: [] for name in SPLITS}
        self._files = {name: output.path(f"{name}.ids").open("wb") for name in SPLITS}

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        for file in self._files.values():
            file.close()
        for name in SPLITS:
            if kind is None:
                self._finish(name)
            self.output.path(f"{name}.ids").unlink()

    def add(self, documents: pa.Table, split: pa.ChunkedArray) -> None:
        """Add documents (schema `BUCKETS`)."""
        for name in SPLITS:
            chosen = pc.equal(split, name)
            part = documents if pc.all(chosen).as_py() else documents.filter(chosen)
            self._columns[name].append(part.drop_columns("input_ids"))
            for chunk in part["input_ids"].chunks:
                chunk.flatten().to_numpy().tofile(self._files[name])

    def _finish(self, name: Split) -> None:
        columns = pa.concat_tables(self._columns[name]).combine_chunks()
        path = self.output.path(f"{name}.ids")
        flat = np.memmap(path, np.int32, "r") if path.stat().st_size else np.zeros(0, np.int32)
        offsets = np.concatenate([[0], np.cumsum(columns["length"].to_numpy(), dtype=np.int64)])
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
        self.output.write_mapped(buckets_file(name), pa.table([*columns.columns, lists], schema=BUCKETS), BUCKETS)


def encode_shard(
    shard: pa.Table,
    ids: np.ndarray,
    labels: list[str],
    boundaries: np.ndarray,
    config: BucketingConfig,
    counts: Counter[str],
) -> pa.Table:
    """Return the documents of a token shard (schema `TOKENS`) in the schema `BUCKETS`.

    Args:
        shard: documents with the codes of their tokens.
        ids: int32, the token id of each code.
        labels: the class names.
        boundaries: of the buckets.
        config: how documents are cut.
        counts: `documents_cut`, `tokens_cut` and `documents_empty` are added to.
    """
    lists = whole_column(shard["codes"])
    codes, offsets = lists.flatten().to_numpy(), lists.offsets.to_numpy() - lists.offsets[0].as_py()
    kept, offsets, cut = truncate(codes, offsets, max_length=config.max_length, side=config.truncation)
    input_ids, offsets, empty = fill_empty(ids[kept], offsets)
    lengths = np.diff(offsets)
    counts.update(documents_cut=cut, tokens_cut=len(codes) - len(kept), documents_empty=empty)
    return pa.table(
        [
            shard["doc_id"],
            pc.index_in(shard["label"], pa.array(labels, pa.string())).cast(pa.int32()),
            pa.array(lengths, pa.int32()),
            pa.array(batching.assign_buckets(lengths, boundaries), pa.int32()),
            pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(input_ids, pa.int32())),
        ],
        schema=BUCKETS,
    )


def truncate(ids: np.ndarray, offsets: np.ndarray, *, max_length: int, side: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut documents to `max_length` tokens, keeping the `head`, the `tail`, or with `head_tail` half of each.

    Returns:
        Flat ids, int64[N + 1] offsets, and how many documents were cut.
    """
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, max_length)
    left_out = lengths - kept
    new_offsets = np.concatenate([[0], np.cumsum(kept)])
    if not left_out.any():
        return ids[offsets[0] : offsets[-1]], new_offsets, 0
    head = {"head": max_length, "tail": 0, "head_tail": (max_length + 1) // 2}[side]
    within = np.arange(new_offsets[-1]) - np.repeat(new_offsets[:-1], kept)
    positions = np.repeat(offsets[:-1], kept) + within + np.where(within >= head, np.repeat(left_out, kept), 0)
    return ids[positions], new_offsets, int((left_out > 0).sum())


def fill_empty(ids: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Give a document without tokens one `<unk>`, so that every document has a last real output."""
    lengths = np.diff(offsets)
    empty = lengths == 0
    if not empty.any():
        return ids, offsets, 0
    ids = np.insert(ids, offsets[:-1][empty], UNK_IDX)
    return ids, np.concatenate([[0], np.cumsum(np.where(empty, 1, lengths))]), int(empty.sum())


def _survey(tokens: ArtifactRef, max_length: int) -> tuple[np.ndarray, list[str]]:
    """Return the lengths of the train documents, cut and filled, and all class names in order."""
    lengths: list[np.ndarray] = []
    labels: set[str] = set()
    for shard in iterate_shards(tokens):
        labels.update(pc.unique(shard["label"]).to_pylist())
        lengths.append(shard["length"].filter(pc.equal(shard["split"], "train")).to_numpy())
    return np.clip(np.concatenate(lengths), 1, max_length).astype(np.int64), sorted(labels)


def _check_tokenizer(tokens: ArtifactRef, vocabulary: Vocabulary) -> None:
    got = tokens.read_json(TOKENIZER_FILE)["version"]
    if got != vocabulary.tokenizer:
        raise InputError(f"{tokens.directory}: tokens are of {got}, the vocabulary is of {vocabulary.tokenizer}")
