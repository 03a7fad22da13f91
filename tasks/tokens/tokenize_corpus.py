"""Stage `tokenize_corpus`: tokenize every document once and store the tokens dictionary-encoded.

Reads `documents`. Writes shards of `doc_id`, `label`, `split`, `length`, `codes` (int32 codes of a document's
tokens), one dictionary (code, token, occurrences per split, train documents), and the name and version of the
tokenizer. Later stages look up each distinct token once instead of each occurrence. Memory holds two shards and the
dictionary, which takes about 150 bytes per distinct token.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_config.contracts.tokens import TokenizerDescription
from pipeline_config.errors import ConfigError
from pipeline_config.schemas import DICTIONARY, DICTIONARY_FILE, DOCUMENTS_FILE, SHARD_PATTERN, SPLITS, TOKENS
from pipeline_config.settings import TokenizationConfig
from tasks.runtime.arrow import whole_column
from tasks.runtime.parallel import HELPERS, THREADS, map_ahead
from tasks.runtime.progress import track_progress
from tasks.served.text import TEXT
from tasks.served.tokenizers import Tokenize, load_tokenizer
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage

CHUNK_DOCUMENTS = 1000  # documents per call of a tokenizer: small enough for the cache, large enough for Arrow
CHUNKS_AHEAD = 4  # per thread
_COUNTED = (*SPLITS, "train_documents")


class Chunk(NamedTuple):
    """The tokens of some documents.

    Attributes:
        tokens: the distinct tokens of these documents.
        codes: int32, for each token of each document its position in `tokens`.
        lengths: int64, tokens per document.
        counts: int64[4, distinct]: occurrences in train, validation and test, and the number of train documents.
    """

    tokens: pa.Array
    codes: np.ndarray
    lengths: np.ndarray
    counts: np.ndarray


class TokenDictionary:
    """Codes and counts of the distinct tokens, in order of first appearance."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self._counts = np.zeros((len(_COUNTED), 1024), np.int64)

    def add(self, chunks: Sequence[Chunk]) -> np.ndarray:
        """Count the tokens of chunks and return the codes of all these tokens, one after the other, int32."""
        merged = pa.concat_arrays([chunk.tokens for chunk in chunks]).dictionary_encode()
        codes_of = self.codes
        shared = np.array(
            [codes_of.setdefault(token, len(codes_of)) for token in merged.dictionary.to_pylist()], np.int32
        )
        if len(codes_of) > self._counts.shape[1]:
            room = max(len(codes_of), 2 * self._counts.shape[1]) - self._counts.shape[1]
            self._counts = np.pad(self._counts, ((0, 0), (0, room)))
        ends = np.cumsum([len(chunk.tokens) for chunk in chunks])
        codes = []
        for chunk, local in zip(chunks, np.split(shared[merged.indices.to_numpy()], ends[:-1]), strict=True):
            self._counts[:, local] += chunk.counts
            codes.append(local[chunk.codes])
        return np.concatenate(codes)

    def table(self) -> pa.Table:
        """Return the dictionary as a table of the schema `DICTIONARY`."""
        columns = [np.arange(len(self.codes), dtype=np.int32), list(self.codes)]
        columns += list(self._counts[:, : len(self.codes)])
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, DICTIONARY, strict=True)], schema=DICTIONARY)


@stage(version=3)
def tokenize_corpus(output: StageOutput, documents: ArtifactRef, config: TokenizationConfig, tokenizer: str) -> None:
    """Write the token shards, the token dictionary and the description of the tokenizer.

    Args:
        output: where to write.
        documents: the corpus.
        config: name of the tokenizer, size of a shard.
        tokenizer: its version, from `tasks.served.tokenizers.identify_tokenizer`; part of the cache key.

    Raises:
        ConfigError: the tokenizer does not exist, its package is not installed, or it is a function that is not listed.
    """
    try:
        tokenize = load_tokenizer(config.tokenizer)
    except ValueError as error:
        raise ConfigError(f"tokenization.tokenizer: {error}") from error
    dictionary = TokenDictionary()
    path = documents.path(DOCUMENTS_FILE)
    total = 0
    with (
        track_progress("tokenize", total=pq.read_metadata(path).num_rows, unit="documents") as advance,
        ThreadPoolExecutor(HELPERS) as pool,  # Arrow's kernels release the interpreter lock
    ):
        shards = read_in_shards(path, config.shard_documents)
        for number, encoded in enumerate(encode_shards(shards, tokenize=tokenize, dictionary=dictionary, pool=pool)):
            output.write_mapped(SHARD_PATTERN.format(shard=number), encoded, TOKENS)
            total += pc.sum(encoded["length"]).as_py()
            advance(len(encoded))
    output.write_table(DICTIONARY_FILE, dictionary.table(), DICTIONARY)
    output.write_model(TokenizerDescription(name=config.tokenizer, version=tokenizer))
    output.facts.update(tokens=total, distinct_tokens=len(dictionary.codes), tokenizer=config.tokenizer)


def read_in_shards(path: Path, documents: int) -> Iterator[pa.Table]:
    """Yield a Parquet file as tables of `documents` rows; the last one may be shorter."""
    waiting: list[pa.Table] = []
    have = 0
    with pq.ParquetFile(path, pre_buffer=False) as file:  # pre_buffer reads all row groups at once
        for batch in file.iter_batches(batch_size=min(documents, CHUNK_DOCUMENTS)):
            waiting.append(pa.Table.from_batches([batch]))
            have += len(batch)
            if have >= documents:
                table = pa.concat_tables(waiting)
                yield table.slice(0, documents)
                waiting, have = [table.slice(documents)], have - documents
    if have:
        yield pa.concat_tables(waiting)


def encode_shards(
    shards: Iterable[pa.Table], *, tokenize: Tokenize, dictionary: TokenDictionary, pool: ThreadPoolExecutor
) -> Iterator[pa.Table]:
    """Yield shards with token codes instead of text, as tables of the schema `TOKENS`.

    While the chunks of a shard are joined, the pool tokenizes the next ones.
    """
    begun: deque[tuple[pa.Table, int]] = deque()

    def chunks() -> Iterator[pa.Table]:
        for shard in shards:
            whole = shard.combine_chunks()
            begun.append((whole, -(-len(whole) // CHUNK_DOCUMENTS)))
            yield from (whole.slice(start, CHUNK_DOCUMENTS) for start in range(0, len(whole), CHUNK_DOCUMENTS))

    encoded = map_ahead(pool, partial(encode_chunk, tokenize=tokenize), chunks(), ahead=THREADS * CHUNKS_AHEAD)
    for first in encoded:
        shard, count = begun.popleft()
        yield _join_chunks(shard, [first, *islice(encoded, count - 1)], dictionary)


def _join_chunks(shard: pa.Table, chunks: list[Chunk], dictionary: TokenDictionary) -> pa.Table:
    offsets = np.cumsum(np.concatenate([[0], *(chunk.lengths for chunk in chunks)]))
    lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(dictionary.add(chunks), pa.int32()))
    lengths = pa.array(np.diff(offsets), pa.int32())
    return pa.table([shard["doc_id"], shard["label"], shard["split"], lengths, lists], schema=TOKENS)


def encode_chunk(documents: pa.Table, tokenize: Tokenize) -> Chunk:
    """Tokenize some documents and count their distinct tokens."""
    tokens = tokenize(whole_column(documents["text"].cast(TEXT)))
    encoded = pc.list_flatten(tokens).dictionary_encode()
    codes = encoded.indices.to_numpy()
    lengths = pc.list_value_length(tokens).to_numpy().astype(np.int64)
    split = pc.index_in(documents["split"], pa.array(SPLITS)).to_numpy().astype(np.int64)
    counts = _count_codes(codes, lengths=lengths, split=split, size=len(encoded.dictionary))
    return Chunk(encoded.dictionary, codes, lengths, counts)


def _count_codes(codes: np.ndarray, *, lengths: np.ndarray, split: np.ndarray, size: int) -> np.ndarray:
    """Return int64[4, size]: occurrences of each code in train, validation and test, and its train documents."""
    counts = np.zeros((len(_COUNTED), size), np.int64)
    for name in np.unique(split):
        if (split == name).all():
            chosen, chosen_lengths = codes, lengths
        else:
            chosen, chosen_lengths = codes[np.repeat(split == name, lengths)], lengths[split == name]
        counts[name] = np.bincount(chosen, minlength=size)
        if name == SPLITS.index("train"):
            # pairs of document and code as one integer each: a code counts once per document
            pairs = np.repeat(np.arange(len(chosen_lengths)) << 32, chosen_lengths) | chosen
            pairs.sort()
            new = np.ones(len(pairs), bool)
            np.not_equal(pairs[1:], pairs[:-1], out=new[1:])
            counts[-1] = np.bincount(pairs[new] & 0xFFFFFFFF, minlength=size)
    return counts


def iterate_shards(tokens: ArtifactRef) -> Iterator[pa.Table]:
    """Yield the token shards of a corpus in order, mapped into memory."""
    number = 0
    while tokens.path(SHARD_PATTERN.format(shard=number)).exists():
        yield tokens.map_table(SHARD_PATTERN.format(shard=number))
        number += 1
