"""Stage `tokenize_corpus`: tokenize every document once and store the tokens dictionary-encoded.

Reads `documents`. Writes shards of `doc_id`, `label`, `split`, `codes` (int32 codes of a document's tokens)
and one dictionary: code, token, occurrences per split, train documents. Later stages look tokens up once per
distinct token, not once per occurrence.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import ConfigError
from pipeline_config.schemas import DICTIONARY, DICTIONARY_FILE, DOCUMENTS_FILE, SHARD_PATTERN, SPLITS, TOKENS
from pipeline_config.settings import TokenizationConfig
from tasks.progress import track_progress
from tasks.stage import stage
from tasks.store import ArtifactRef, StageOutput
from tasks.tokenizers import TEXT, load_tokenizer

CHUNK_DOCUMENTS = 1000  # documents per call of a tokenizer: small enough for the cache, large enough for Arrow
THREADS = 2


class TokenDictionary:
    """Codes and counts of the distinct tokens, in order of first appearance."""

    def __init__(self) -> None:
        self.codes: dict[str, int] = {}
        self._counts = {name: np.zeros(0, np.int64) for name in (*SPLITS, "train_documents")}

    def encode(self, tokens: pa.Array, split: np.ndarray) -> np.ndarray:
        """Return int32 codes for the flat tokens of documents and count them.

        Args:
            tokens: large_list<large_string>, one list per document.
            split: the split of each document, as text.
        """
        encoded = pc.list_flatten(tokens).dictionary_encode()
        local = [self.codes.setdefault(token, len(self.codes)) for token in encoded.dictionary.to_pylist()]
        codes: np.ndarray = np.asarray(local, np.int32)[encoded.indices.to_numpy()]
        parents = pc.list_parent_indices(tokens).to_numpy()
        for name in SPLITS:
            self._add(name, codes[split[parents] == name])
        train = split[parents] == "train"
        pairs = np.unique(parents[train].astype(np.int64) * max(len(self.codes), 1) + codes[train])
        self._add("train_documents", pairs % max(len(self.codes), 1))
        return codes

    def table(self) -> pa.Table:
        """Return the dictionary as a table of the schema `DICTIONARY`."""
        columns = [np.arange(len(self.codes), dtype=np.int32), list(self.codes)]
        columns += [self._grown(name) for name in self._counts]
        return pa.table([pa.array(c, f.type) for c, f in zip(columns, DICTIONARY, strict=True)], schema=DICTIONARY)

    def _grown(self, name: str) -> np.ndarray:
        counts = self._counts[name]
        return np.concatenate([counts, np.zeros(len(self.codes) - len(counts), np.int64)])

    def _add(self, name: str, codes: np.ndarray) -> None:
        self._counts[name] = self._grown(name) + np.bincount(codes, minlength=len(self.codes))


@stage(version=1)
def tokenize_corpus(output: StageOutput, documents: ArtifactRef, config: TokenizationConfig) -> None:
    """Write token shards and the token dictionary.

    Raises:
        ConfigError: there is no such tokenizer.
    """
    table = documents.read_table(DOCUMENTS_FILE)
    dictionary = TokenDictionary()
    total = 0
    with track_progress("tokenize", total=len(table), unit="documents") as advance:
        for number, start in enumerate(range(0, len(table), config.shard_documents)):
            shard = table.slice(start, config.shard_documents)
            encoded = encode_shard(shard, config.tokenizer, dictionary)
            output.write_table(SHARD_PATTERN.format(shard=number), encoded, TOKENS)
            total += pc.sum(pc.list_value_length(encoded["codes"])).as_py() or 0
            advance(len(shard))
    output.write_table(DICTIONARY_FILE, dictionary.table(), DICTIONARY)
    output.facts.update(tokens=total, distinct_tokens=len(dictionary.codes), tokenizer=config.tokenizer)


def encode_shard(shard: pa.Table, tokenizer: str, dictionary: TokenDictionary) -> pa.Table:
    """Return the documents of a shard with token codes instead of text, as a table of the schema `TOKENS`."""
    tokens = pa.concat_arrays(list(_tokenize_chunks(shard["text"].cast(TEXT), tokenizer)))
    codes = dictionary.encode(tokens, shard["split"].to_numpy())
    lists = pa.LargeListArray.from_arrays(_offsets(tokens), pa.array(codes))
    return pa.table([shard["doc_id"], shard["label"], shard["split"], lists], schema=TOKENS)


def iterate_shards(tokens: ArtifactRef) -> Iterator[pa.Table]:
    """Yield the token shards of a corpus in order."""
    number = 0
    while tokens.path(SHARD_PATTERN.format(shard=number)).exists():
        yield tokens.read_table(SHARD_PATTERN.format(shard=number))
        number += 1


def _tokenize_chunks(texts: pa.ChunkedArray, name: str) -> Iterator[pa.Array]:
    try:
        tokenize = load_tokenizer(name)
    except ValueError as error:
        raise ConfigError(f"tokenization.tokenizer: {error}") from error
    array = texts.combine_chunks()
    chunks = [array.slice(start, CHUNK_DOCUMENTS) for start in range(0, len(array), CHUNK_DOCUMENTS)]
    with ThreadPoolExecutor(THREADS) as pool:  # Arrow's kernels release the interpreter lock
        yield from pool.map(tokenize, chunks)


def _offsets(lists: pa.Array) -> pa.Array:
    lengths = pc.list_value_length(lists).cast(pa.int64())
    return pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
