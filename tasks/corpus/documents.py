"""Read a corpus once: reject unusable rows, normalize texts, and keep what splitting needs.

Takes the files of a corpus, writes usable rows to a spool file and keeps a few numbers per row in memory.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.corpus import FileRows
from pipeline_config.schemas import REJECTED, SPLITS
from pipeline_config.settings import CorpusConfig
from tasks.corpus.hashing import hash_texts
from tasks.corpus.near_duplicates import find_near_duplicates
from tasks.corpus.profile import count_oddities
from tasks.corpus.splitting import NOT_GIVEN, DocumentIndex
from tasks.reading.file_names import SPLIT_NAMES
from tasks.reading.formats import read_blocks
from tasks.reading.sources import CorpusRef
from tasks.runtime.arrow import whole_column
from tasks.runtime.parallel import HELPERS, map_ahead
from tasks.runtime.progress import track_progress
from tasks.served.text import normalize_texts, text_bytes

EXCERPT = 80  # characters of a rejected text to keep
_SPLIT_NAMES: dict[str, int] = {name: SPLITS.index(split) for name, split in SPLIT_NAMES.items()}
_SPOOL = pa.schema(
    [pa.field("doc_id", pa.int64()), pa.field("text", pa.large_string()), pa.field("label", pa.string())]
)


class PreparedBlock(NamedTuple):
    """A block of rows after all work that needs no other block.

    Attributes:
        table: the usable rows: normalized `text`, `label`, `group`, `time`.
        reason: string[rows], why a row cannot be used; null for a usable one.
        rejected: texts of the rows that cannot be used.
        given: int8[usable], the split that the corpus gives, or -1.
        keys: 16 bytes per usable row, equal for copies of a text.
        lengths: int64[usable], characters of the texts.
        oddities: texts by kind of oddity.
    """

    table: pa.Table
    reason: pa.Array
    rejected: pa.Array
    given: np.ndarray
    keys: list[bytes]
    lengths: np.ndarray
    oddities: Counter[str]


class CorpusReader:
    """Read a corpus once: texts and labels of usable rows go to a spool file, numbers about them stay in memory."""

    def __init__(self, source: CorpusRef, config: CorpusConfig) -> None:
        self.source, self.config = source, config
        self.rows = 0
        self.files: list[FileRows] = []
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
                blocks = read_blocks(Path(file.path), file.kind, self.config.reading, file.constants)
                for block in map_ahead(pool, prepare, blocks):
                    usable = self._take(block, Path(file.path).name)
                    if len(usable):  # `find_near_duplicates` needs one batch of the spool per array in `_columns`
                        writer.write_table(usable)
                    advance(len(block.reason))
                self.files.append(FileRows(name=Path(file.path).name, first_row=first, rows=self.rows - first))

    def build_index(self) -> DocumentIndex:
        """Return the index of the usable rows."""
        columns = {
            name: np.concatenate(parts) if parts else np.zeros(0, np.int64)
            for name, parts in self._columns.items()
            if name != "lengths"
        }
        texts = pa.array(self._keys, pa.binary(16)).dictionary_encode()
        first = np.frombuffer(texts.dictionary.buffers()[1], np.uint64)[: 2 * len(texts.dictionary) : 2]
        codes = texts.indices.to_numpy()
        return DocumentIndex(texts=codes, hashes=first[codes] if len(codes) else first, **columns)

    def lengths(self) -> np.ndarray:
        """Return int64[N], the number of characters in the text of each usable row."""
        return np.concatenate(self._columns["lengths"]) if self._keys else np.zeros(0, np.int64)

    def find_near_duplicates(self, spool: Path, kept: np.ndarray) -> np.ndarray:
        """Return int64[pairs, 2], positions in `kept` (int64[N], ascending) of documents with nearly the same text."""
        wanted = np.zeros(len(self._keys), bool)
        wanted[kept] = True
        ends = np.cumsum([0, *map(len, self._columns["doc_ids"])])
        blocks = (
            block["text"].filter(pa.array(wanted[start:end]))
            for block, start, end in zip(read_spool(spool), ends[:-1], ends[1:], strict=True)
        )
        return find_near_duplicates(blocks, threshold=self.config.near_duplicates or 1.0)

    def count_reasons(self) -> Counter[str]:
        """Return the number of rows rejected so far, by reason."""
        return Counter(reason for table in self.rejected for reason in table["reason"].to_pylist())

    def _take(self, block: PreparedBlock, file: str) -> pa.Table:
        """Add the unusable rows of a block to `rejected` and the numbers of the others; return these for the spool."""
        numbers = pa.array(np.arange(self.rows, self.rows + len(block.reason)))
        self.rows += len(block.reason)
        if block.reason.null_count < len(block.reason):
            bad = pc.is_valid(block.reason)
            self.rejected.append(
                make_rejected(numbers.filter(bad), files=file, reasons=block.reason.filter(bad), texts=block.rejected)
            )
            numbers = numbers.filter(pc.invert(bad))
        if not len(numbers):
            return _SPOOL.empty_table()
        self.oddities += block.oddities
        self._keys.extend(block.keys)
        self._columns["doc_ids"].append(numbers.to_numpy())
        self._columns["lengths"].append(block.lengths)
        self._columns["labels"].append(_encode(block.table["label"], self.labels))
        self._columns["given"].append(block.given)
        self._columns["groups"].append(_encode(block.table["group"], self._groups))
        self._columns["times"].append(block.table["time"].to_numpy())
        return pa.table([numbers, block.table["text"], block.table["label"]], schema=_SPOOL)


def prepare_block(block: pa.Table, config: CorpusConfig, split: str | None) -> PreparedBlock:
    """Find the unusable rows, and normalize and measure the texts of the others.

    Args:
        block: rows, in the schema `BLOCK`.
        config: the rules for usable rows.
        split: the split that the configuration gives to the whole file, if any.
    """
    given = _read_splits(block["split"], split, config)
    reason = find_reasons(block, config, given)
    usable = pc.is_null(reason)
    rejected = block["text"].filter(pc.invert(usable))
    if reason.null_count < len(reason):
        block, given = block.filter(usable), given[usable.to_numpy(zero_copy_only=False)]
    before = whole_column(block["text"])
    text = normalize_texts(before)
    label = _rename_labels(block["label"], config.label_map)
    table = pa.table({"text": text, "label": label, "group": block["group"], "time": block["time"]})
    lengths = pc.utf8_length(text).to_numpy()
    return PreparedBlock(table, reason, rejected, given, hash_texts(text), lengths, count_oddities(before, text))


def find_reasons(block: pa.Table, config: CorpusConfig, given: np.ndarray) -> pa.Array:
    """Return string[rows], why a row of a block (schema `BLOCK`) cannot be used; null for a usable one.

    The reasons are in order: a row gets the first that applies.
    """
    text = whole_column(block["text"])
    lengths = pa.array(measure_stripped(text.fill_null("")))
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


def measure_stripped(texts: pa.Array) -> np.ndarray:
    """Return int64[N], the number of characters in each text (large_string) without white space at its ends.

    Only texts whose first or last byte may belong to white space are stripped, since stripping takes time.
    """
    lengths: np.ndarray = pc.utf8_length(texts).to_numpy().copy()
    filled = np.flatnonzero(lengths)
    if len(filled):
        data, offsets = text_bytes(texts)
        ends = np.stack([data[offsets[:-1][filled]], data[offsets[1:][filled] - 1]])
        odd = filled[((ends <= 0x20) | (ends >= 0x80)).any(axis=0)]
        lengths[odd] = pc.utf8_length(pc.utf8_trim_whitespace(texts.take(pa.array(odd)))).to_numpy()
    return lengths


def read_spool(path: Path) -> Iterator[pa.Table]:
    """Yield the blocks of a spool file."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
        for i in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(i)])


def make_rejected(
    rows: pa.Array | pa.ChunkedArray, *, files: str | pa.Array, reasons: pa.Array, texts: pa.Array | pa.ChunkedArray
) -> pa.Table:
    """Return rejected rows as a table of the schema `REJECTED`; `files` is one name, or a name per row."""
    names = pa.array([files] * len(rows)) if isinstance(files, str) else files
    excerpts = pc.utf8_slice_codeunits(texts.fill_null(""), 0, EXCERPT).cast(pa.string())
    return pa.table([rows, names, reasons, excerpts], schema=REJECTED)


def _read_splits(column: pa.ChunkedArray, split: str | None, config: CorpusConfig) -> np.ndarray:
    """Return int8[rows], the split that the split column, or else the file, gives to each row, or -1."""
    if config.split_column:
        codes = whole_column(column).dictionary_encode()
        splits = [_SPLIT_NAMES.get(name.strip().lower(), NOT_GIVEN) for name in codes.dictionary.to_pylist()]
        given: np.ndarray = np.array([*splits, NOT_GIVEN], np.int8)[codes.indices.fill_null(-1).to_numpy()]
        return given
    return np.full(len(column), NOT_GIVEN if split is None else SPLITS.index(split), np.int8)


def _rename_labels(labels: pa.ChunkedArray, label_map: dict[str, str]) -> pa.Array:
    codes = whole_column(labels).dictionary_encode()
    names = [label_map.get(label, label) for label in codes.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(codes.indices)


def _encode(values: pa.ChunkedArray, numbers: dict[str, int]) -> np.ndarray:
    """Return int32[N], the number of each value, -1 for null; new values get the next numbers in `numbers`."""
    encoded = whole_column(values).dictionary_encode()
    shared = [numbers.setdefault(value, len(numbers)) for value in encoded.dictionary.to_pylist()]
    codes: np.ndarray = np.array([*shared, -1], np.int32)[encoded.indices.fill_null(-1).to_numpy()]
    return codes
