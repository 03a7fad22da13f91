"""Read a corpus once: tell usable rows from others, normalize their texts, and remember what splitting needs.

Takes the files of a corpus, writes usable rows to a spool file and keeps a few numbers per row in memory.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.schemas import REJECTED, SPLITS
from pipeline_config.settings import CorpusConfig
from tasks.corpus.formats import read_blocks
from tasks.corpus.near_duplicates import find_near_duplicates
from tasks.corpus.profile import count_oddities
from tasks.corpus.sources import CorpusRef
from tasks.corpus.splitting import NOT_GIVEN, DocumentIndex
from tasks.runtime.arrow import whole_column
from tasks.runtime.parallel import HELPERS, map_ahead
from tasks.runtime.progress import track_progress
from tasks.served.text import largest_bytes, normalize_texts, text_bytes

EXCERPT = 80  # characters of a rejected row that are kept
_SPLIT_NAMES: dict[str, int] = {"train": 0, "validation": 1, "val": 1, "valid": 1, "dev": 1, "test": 2}
_SPOOL = pa.schema(
    [pa.field("doc_id", pa.int64()), pa.field("text", pa.large_string()), pa.field("label", pa.string())]
)
_WHITE_SPACE = b" \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f"
_LOWER = bytes(range(256)).lower()


class PreparedBlock(NamedTuple):
    """A block of rows after everything that needs no other block.

    `table` has the usable rows with normalized text, `reason` why each row cannot be used, `rejected` the texts of
    those; the others are per usable row, but for the counts of `oddities`.
    """

    table: pa.Table
    reason: pa.Array
    rejected: pa.Array
    given: np.ndarray
    keys: list[bytes]
    lengths: np.ndarray
    oddities: Counter[str]


class CorpusReader:
    """Read a corpus once: usable rows go to a spool file, what is known of each stays in memory."""

    def __init__(self, source: CorpusRef, config: CorpusConfig) -> None:
        self.source, self.config = source, config
        self.rows = 0
        self.files: list[dict[str, Any]] = []
        self.labels: dict[str, int] = {}
        self.rejected: list[pa.Table] = [REJECTED.empty_table()]
        self.oddities: Counter[str] = Counter()
        self._groups: dict[str, int] = {}
        self._keys: list[bytes] = []
        self._columns: dict[str, list[np.ndarray]] = {
            name: [] for name in ("doc_ids", "labels", "given", "groups", "times", "lengths")
        }

    def read(self, spool: Path) -> None:
        """Read all files and write their usable rows to a spool file."""
        with (
            pa.OSFile(str(spool), "wb") as sink,
            pa.ipc.new_file(sink, _SPOOL) as writer,
            ThreadPoolExecutor(HELPERS) as pool,
            track_progress("ingest", total=None, unit="rows") as advance,
        ):
            for file in self.source.files:
                first = self.rows
                prepare = partial(prepare_block, config=self.config, split=file.split)
                blocks = read_blocks(Path(file.path), file.kind, self.config)
                for block in map_ahead(pool, prepare, blocks):
                    usable = self._take(block, Path(file.path).name)
                    if len(usable):  # so that there is a batch of the spool for each part of the columns
                        writer.write_table(usable)
                    advance(len(block.reason))
                self.files.append({"name": Path(file.path).name, "first_row": first, "rows": self.rows - first})

    def index(self) -> DocumentIndex:
        """Return what is known of the usable rows."""
        columns = {name: np.concatenate(parts) if parts else np.zeros(0, np.int64)
                   for name, parts in self._columns.items() if name != "lengths"}  # fmt: skip
        texts = pa.array(self._keys, pa.binary(16)).dictionary_encode()
        first = np.frombuffer(texts.dictionary.buffers()[1], np.uint64)[: 2 * len(texts.dictionary) : 2]
        codes = texts.indices.to_numpy()
        return DocumentIndex(texts=codes, hashes=first[codes] if len(codes) else first, **columns)

    def lengths(self) -> np.ndarray:
        """Return int64[N], the characters of each usable row's text."""
        return np.concatenate(self._columns["lengths"]) if self._keys else np.zeros(0, np.int64)

    def near_duplicates(self, spool: Path, kept: np.ndarray) -> np.ndarray:
        """Return int64[pairs, 2], positions in `kept` of documents with nearly the same text."""
        wanted = np.zeros(len(self._keys), bool)
        wanted[kept] = True
        ends = np.cumsum([0, *map(len, self._columns["doc_ids"])])
        blocks = (
            block["text"].filter(pa.array(wanted[start:end]))
            for block, start, end in zip(read_spool(spool), ends[:-1], ends[1:], strict=True)
        )
        return find_near_duplicates(blocks, threshold=self.config.near_duplicates or 1.0)

    def reasons(self) -> Counter[str]:
        """Return how many rows were rejected so far, by reason."""
        return Counter(reason for table in self.rejected for reason in table["reason"].to_pylist())

    def _take(self, block: PreparedBlock, file: str) -> pa.Table:
        """Set the unusable rows of a block aside and remember the others; return these for the spool."""
        numbers = pa.array(np.arange(self.rows, self.rows + len(block.reason)))
        self.rows += len(block.reason)
        if block.reason.null_count < len(block.reason):
            bad = pc.is_valid(block.reason)
            self.rejected.append(rejected_table(numbers.filter(bad), file, block.reason.filter(bad), block.rejected))
            numbers = numbers.filter(pc.invert(bad))
        if not len(numbers):
            return _SPOOL.empty_table()
        self.oddities += block.oddities
        self._keys.extend(block.keys)
        self._columns["doc_ids"].append(numbers.to_numpy())
        self._columns["lengths"].append(block.lengths)
        self._columns["labels"].append(_codes(block.table["label"], self.labels))
        self._columns["given"].append(block.given)
        self._columns["groups"].append(_codes(block.table["group"], self._groups))
        self._columns["times"].append(block.table["time"].to_numpy())
        return pa.table([numbers, block.table["text"], block.table["label"]], schema=_SPOOL)


def prepare_block(block: pa.Table, config: CorpusConfig, split: str | None) -> PreparedBlock:
    """Tell usable rows from others, and normalize and measure their texts.

    Args:
        block: rows, in the schema `BLOCK`.
        config: what makes a row usable.
        split: the split that the whole file is given to, if any.
    """
    given = _given_splits(block["split"], split, config)
    reason = find_reasons(block, config, given)
    usable = pc.is_null(reason)
    rejected = block["text"].filter(pc.invert(usable))
    if reason.null_count < len(reason):
        block, given = block.filter(usable), given[usable.to_numpy(zero_copy_only=False)]
    before = whole_column(block["text"])
    text = normalize_texts(before)
    label = _renamed(block["label"], config.label_map)
    table = pa.table({"text": text, "label": label, "group": block["group"], "time": block["time"]})
    lengths = pc.utf8_length(text).to_numpy()
    return PreparedBlock(table, reason, rejected, given, text_keys(text), lengths, count_oddities(before, text))


def find_reasons(block: pa.Table, config: CorpusConfig, given: np.ndarray) -> pa.Array:
    """Return why each row of a block (schema `BLOCK`) cannot be used; null for a usable one."""
    text = whole_column(block["text"])
    lengths = pa.array(stripped_lengths(text.fill_null("")))
    found = [
        (pc.is_null(text), "null_text"),
        (pc.equal(lengths, 0), "empty_text"),
        (pc.less(lengths, config.min_characters), "short_text"),
        (pc.is_null(whole_column(block["label"])), "no_label"),
    ]
    if config.split_column:
        found.append((pa.array(given == NOT_GIVEN), "unknown_split"))
    if config.splitter == "time":
        found.append((pc.is_null(whole_column(block["time"])), "no_time"))
    reason = whole_column(block["problem"])
    for mask, name in found:
        reason = pc.coalesce(reason, pc.if_else(mask.fill_null(False), name, pa.scalar(None, pa.string())))
    return reason


def stripped_lengths(texts: pa.Array) -> np.ndarray:
    """Return int64[N], the characters of each text (large_string) without white space at its ends.

    Only texts that begin or end with a byte that may be of white space are stripped.
    """
    lengths: np.ndarray = pc.utf8_length(texts).to_numpy().copy()
    filled = np.flatnonzero(lengths)
    if len(filled):
        data, offsets = text_bytes(texts)
        ends = np.stack([data[offsets[:-1][filled]], data[offsets[1:][filled] - 1]])
        odd = filled[((ends <= 0x20) | (ends >= 0x80)).any(axis=0)]
        lengths[odd] = pc.utf8_length(pc.utf8_trim_whitespace(texts.take(pa.array(odd)))).to_numpy()
    return lengths


def text_keys(texts: pa.Array) -> list[bytes]:
    """Return 16 bytes per text (large_string), equal for texts that differ in case and white space alone.

    It is the BLAKE2b digest of the case-folded text without its white space.
    """
    data, offsets = text_bytes(texts)
    whole, ends = data.tobytes(), offsets.tolist()
    keys = []
    for start, end, largest in zip(ends[:-1], ends[1:], largest_bytes(texts).tolist(), strict=True):
        folded = whole[start:end].translate(_LOWER, _WHITE_SPACE)
        if largest >= 0x80:
            folded = "".join(folded.decode().casefold().split()).encode()
        keys.append(hashlib.blake2b(folded, digest_size=16).digest())
    return keys


def read_spool(path: Path) -> Iterator[pa.Table]:
    """Yield the blocks of a spool file."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
        for i in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(i)])


def rejected_table(rows: Any, file: str | pa.Array, reason: pa.Array, text: Any) -> pa.Table:
    """Return rejected rows as a table of the schema `REJECTED`."""
    name = pa.array([file] * len(rows)) if isinstance(file, str) else file
    excerpt = pc.utf8_slice_codeunits(text.fill_null(""), 0, EXCERPT).cast(pa.string())
    return pa.table([rows, name, reason, excerpt], schema=REJECTED)


def _given_splits(column: pa.ChunkedArray, split: str | None, config: CorpusConfig) -> np.ndarray:
    if config.split_column:
        codes = whole_column(column).dictionary_encode()
        known = [_SPLIT_NAMES.get(name.strip().lower(), NOT_GIVEN) for name in codes.dictionary.to_pylist()]
        given: np.ndarray = np.array([*known, NOT_GIVEN], np.int8)[codes.indices.fill_null(-1).to_numpy()]
        return given
    return np.full(len(column), NOT_GIVEN if split is None else SPLITS.index(split), np.int8)


def _renamed(labels: pa.ChunkedArray, label_map: dict[str, str]) -> pa.Array:
    codes = whole_column(labels).dictionary_encode()
    names = [label_map.get(label, label) for label in codes.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(codes.indices)


def _codes(values: Any, known: dict[str, int]) -> np.ndarray:
    """Return int32 codes of texts, new ones added to `known`; -1 for null."""
    encoded = (whole_column(values) if isinstance(values, pa.ChunkedArray) else values).dictionary_encode()
    shared = [known.setdefault(value, len(known)) for value in encoded.dictionary.to_pylist()]
    codes: np.ndarray = np.array([*shared, -1], np.int32)[encoded.indices.fill_null(-1).to_numpy()]
    return codes
