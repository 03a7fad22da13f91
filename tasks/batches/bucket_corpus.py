"""Stage `bucket_corpus`: token ids per document, grouped by length.

Reads `vocabulary`, and `tokens` shard by shard. Writes `doc_id`, `label_id`, `length`, `bucket`, `input_ids` per split
as Arrow IPC, which training maps into memory; a description with the class names; and a report that compares the
padding of all schemes on the train split. Batches are planned in `tasks.batches.batching`. Nothing here uses torch.
"""

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.batches import BucketsDescription, PaddingReport, Truncation
from pipeline_config.contracts.tokens import TokenizerDescription
from pipeline_config.errors import InputError
from pipeline_config.schemas import BUCKETS, DICTIONARY_FILE, SPLITS, UNK_IDX, Split, buckets_file
from pipeline_config.settings import BucketingConfig
from tasks.batches import batching
from tasks.runtime.arrow import whole_column
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage
from tasks.tokens.tokenize_corpus import iterate_shards
from tasks.tokens.vocabulary import Vocabulary


@stage(version=3)
def bucket_corpus(
    output: StageOutput, tokens: ArtifactRef, vocabulary: ArtifactRef, config: BucketingConfig, seed: int
) -> None:
    """Write the token ids of each split with their length buckets, the description and the padding report.

    Raises:
        InputError: the vocabulary comes from another tokenizer.
    """
    vocab = Vocabulary.read(vocabulary)
    _check_tokenizer(tokens, vocab)
    train, labels = _survey(tokens, config.max_length)
    schemes = batching.compare_schemes(
        train, num_buckets=config.num_buckets, batch_size=config.batch_size, token_budget=config.token_budget, seed=seed
    )
    chosen = schemes[config.scheme]
    ids = vocab.encode(whole_column(tokens.read_table(DICTIONARY_FILE, columns=["token"])["token"]))
    counts: Counter[str] = Counter()
    with SplitWriter(output) as writer:
        for shard in iterate_shards(tokens):
            documents, cut = encode_shard(
                shard,
                ids=ids,
                labels=labels,
                boundaries=np.array(chosen.boundaries),
                max_length=config.max_length,
                truncation=config.truncation,
            )
            counts.update(cut)
            writer.add(documents, shard["split"])
    output.write_model(
        BucketsDescription(
            labels=tuple(labels),
            vocabulary_digest=vocab.digest,
            tokenizer=vocab.tokenizer,
            special_tokens=vocab.specials,
            scheme=config.scheme,
            token_budget=config.token_budget,
        )
    )
    truncation = Truncation.model_validate(counts)
    output.write_model(PaddingReport(scheme=config.scheme, schemes=schemes, truncation=truncation))
    output.facts.update(
        padding_efficiency=chosen.efficiency,
        buckets=len(chosen.boundaries),
        batches=chosen.batches,
        documents_truncated=truncation.documents_cut,
        tokens_truncated=truncation.tokens_cut,
        documents_empty=truncation.documents_empty,
        **{f"padding_efficiency_{name}": report.efficiency for name, report in schemes.items()},
    )


def read_labels(buckets: ArtifactRef) -> list[str]:
    """Return the class names; the position is the `label_id`."""
    return list(buckets.read_model(BucketsDescription).labels)


class SplitWriter:
    """Write encoded documents split by split.

    Token ids go to a temporary file of the split at once; memory holds the other columns, 24 bytes per document. When
    the `with` block ends without an error, each split becomes an Arrow IPC file of one record batch.
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
            of_split = documents if pc.all(chosen).as_py() else documents.filter(chosen)
            self._columns[name].append(of_split.drop_columns("input_ids"))
            for chunk in of_split["input_ids"].chunks:
                chunk.flatten().to_numpy().tofile(self._files[name])

    def _finish(self, name: Split) -> None:
        columns = pa.concat_tables(self._columns[name]).combine_chunks()
        path = self.output.path(f"{name}.ids")
        flat = np.memmap(path, np.int32, "r") if path.stat().st_size else np.zeros(0, np.int32)
        offsets = np.concatenate([[0], np.cumsum(columns["length"].to_numpy(), dtype=np.int64)])
        lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat))
        self.output.write_mapped(buckets_file(name), pa.table([*columns.columns, lists], schema=BUCKETS), BUCKETS)


def encode_shard(
    shard: pa.Table, *, ids: np.ndarray, labels: list[str], boundaries: np.ndarray, max_length: int, truncation: str
) -> tuple[pa.Table, dict[str, int]]:
    """Return the documents of a token shard (schema `TOKENS`) in the schema `BUCKETS`, and the fields of `Truncation`.

    Args:
        shard: documents with the codes of their tokens.
        ids: int32, the token id of each code.
        labels: class names in the order of their ids.
        boundaries: largest length of each bucket.
        max_length: tokens kept of a document.
        truncation: `head`, `tail` or `head_tail`, see `truncate`.
    """
    lists = whole_column(shard["codes"])
    codes, offsets = lists.flatten().to_numpy(), lists.offsets.to_numpy() - lists.offsets[0].as_py()
    kept, offsets, cut = truncate(codes, offsets, max_length=max_length, side=truncation)
    input_ids, offsets, empty = fill_empty(ids[kept], offsets)
    lengths = np.diff(offsets)
    documents = pa.table(
        [
            shard["doc_id"],
            pc.index_in(shard["label"], pa.array(labels, pa.string())).cast(pa.int32()),
            pa.array(lengths, pa.int32()),
            pa.array(batching.assign_buckets(lengths, boundaries), pa.int32()),
            pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(input_ids, pa.int32())),
        ],
        schema=BUCKETS,
    )
    return documents, {"documents_cut": cut, "tokens_cut": len(codes) - len(kept), "documents_empty": empty}


def truncate(ids: np.ndarray, offsets: np.ndarray, *, max_length: int, side: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Cut documents to `max_length` tokens: keep the `head`, the `tail`, or with `head_tail` half of each.

    Returns:
        Flat ids, offsets int64[N + 1], and the number of documents that were cut.
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
    """Put one unknown token into each document without tokens, so that every document has a last real output.

    Returns:
        Flat ids, offsets int64[N + 1], and the number of documents without tokens.
    """
    lengths = np.diff(offsets)
    empty = lengths == 0
    if not empty.any():
        return ids, offsets, 0
    ids = np.insert(ids, offsets[:-1][empty], UNK_IDX)
    return ids, np.concatenate([[0], np.cumsum(np.where(empty, 1, lengths))]), int(empty.sum())


def _survey(tokens: ArtifactRef, max_length: int) -> tuple[np.ndarray, list[str]]:
    """Return the lengths of the train documents, after truncation and filling, and all class names, sorted."""
    lengths: list[np.ndarray] = []
    labels: set[str] = set()
    for shard in iterate_shards(tokens):
        labels.update(pc.unique(shard["label"]).to_pylist())
        lengths.append(shard["length"].filter(pc.equal(shard["split"], "train")).to_numpy())
    return np.clip(np.concatenate(lengths), 1, max_length).astype(np.int64), sorted(labels)


def _check_tokenizer(tokens: ArtifactRef, vocabulary: Vocabulary) -> None:
    tokenizer = tokens.read_model(TokenizerDescription).version
    if tokenizer != vocabulary.tokenizer:
        raise InputError(
            f"{tokens.directory}: the tokens come from the tokenizer {tokenizer}, the vocabulary from "
            f"{vocabulary.tokenizer}; build the vocabulary from these tokens"
        )
