"""Read a corpus once: reject unusable rows, normalize texts, and keep what splitting needs.

Takes the files of a corpus, writes usable rows to a spool file, hands over unlabelled texts, and keeps a few numbers
per row in memory.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.corpus import FileRows
from pipeline_config.schemas import REJECTED, UNLABELLED
from pipeline_config.settings import CorpusConfig
from tasks.corpus.near_duplicates import find_near_duplicates
from tasks.corpus.prepared_blocks import PreparedBlock, prepare_block
from tasks.corpus.splitting import DocumentIndex
from tasks.reading.blocks import KEPT
from tasks.reading.formats import read_blocks
from tasks.reading.sources import CorpusRef
from tasks.runtime.arrow import whole_column
from tasks.runtime.parallel import HELPERS, map_ahead
from tasks.runtime.progress import track_progress

EXCERPT = 80  # characters of a rejected text to keep


class CorpusReader:
    """Read a corpus once: texts and labels of usable rows go to a spool file, numbers about them stay in memory.

    Attributes:
        source: the files.
        config: the rules for usable rows.
        rows: number of all rows.
        unlabelled: number of train rows without a label.
        files: the files and their rows.
        labels: number of each class, by name.
        found: the labels as the files have them, before `corpus.label_map`.
        rejected: rejected rows, in the schema `REJECTED`.
        rejected_by_class: number of rejected rows with a label, by reason and class.
        oddities: texts by kind of oddity.
    """

    def __init__(self, source: CorpusRef, config: CorpusConfig) -> None:
        self.source, self.config = source, config
        self.rows = self.unlabelled = 0
        self.files: list[FileRows] = []
        self.labels: dict[str, int] = {}
        self.found: set[str] = set()
        self.rejected: list[pa.Table] = [REJECTED.empty_table()]
        self.rejected_by_class: Counter[tuple[str, str]] = Counter()
        self.oddities: Counter[str] = Counter()
        self._spool = _spool_schema(config.keep_columns)
        self._groups: dict[str, int] = {}
        self._lengths: list[np.ndarray] = []  # an array per batch of the spool
        self._columns: dict[str, list[np.ndarray]] = {
            name: [] for name in ("keys", "doc_ids", "labels", "given", "groups", "times")
        }

    def read(self, spool: Path, keep_unlabelled: Callable[[pa.Table], None]) -> None:
        """Read all files, write their usable rows to a spool file, and hand over train texts without a label.

        Args:
            spool: path of the spool file.
            keep_unlabelled: takes tables of the schema `UNLABELLED`.
        """
        with (
            pa.OSFile(str(spool), "wb") as sink,
            pa.ipc.new_file(sink, self._spool) as writer,
            ThreadPoolExecutor(HELPERS) as pool,
            track_progress("ingest", total=None, unit="rows") as advance,
        ):
            for file in self.source.files:
                first = self.rows
                prepare = partial(prepare_block, config=self.config, split=file.split)
                blocks = read_blocks(Path(file.path), file.kind, self.config.reading, file.constants)
                for block in map_ahead(pool, prepare, blocks):
                    first_of_block = self.rows
                    usable = self._take(block, Path(file.path).name)
                    if len(usable):  # `find_near_duplicates` needs one batch of the spool per array in `_lengths`
                        writer.write_table(usable)
                    if len(block.unlabelled):
                        ids = pc.add(block.unlabelled["place"], first_of_block)
                        keep_unlabelled(pa.table([ids, block.unlabelled["text"]], schema=UNLABELLED))
                    advance(block.rows)
                self.files.append(FileRows(name=Path(file.path).name, first_row=first, rows=self.rows - first))

    def build_index(self) -> DocumentIndex:
        """Return the index of the usable rows, and forget the numbers of which it is made."""
        columns = {}
        for name in list(self._columns):
            parts = self._columns.pop(name)
            columns[name] = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        keys = pa.py_buffer(columns.pop("keys"))
        texts = pa.Array.from_buffers(pa.binary(16), keys.size // 16, [None, keys]).dictionary_encode()
        first = np.frombuffer(texts.dictionary.buffers()[1], np.uint64)[: 2 * len(texts.dictionary) : 2]
        codes = texts.indices.to_numpy()
        hashes = first[codes] if len(codes) else first
        pa.default_memory_pool().release_unused()  # the hash table that found the copies
        return DocumentIndex(texts=codes, hashes=hashes, **columns)

    def lengths(self) -> np.ndarray:
        """Return int32[N], the number of characters in the text of each usable row."""
        return np.concatenate(self._lengths) if self._lengths else np.zeros(0, np.int32)

    def find_near_duplicates(self, spool: Path, kept: np.ndarray) -> np.ndarray:
        """Return int64[pairs, 2], positions in `kept` (int64[N], ascending) of documents with nearly the same text."""
        ends = np.cumsum([0, *map(len, self._lengths)])
        wanted = np.zeros(ends[-1], bool)
        wanted[kept] = True
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
        first = self.rows
        self.rows += block.rows
        self.unlabelled += len(block.unlabelled)
        self.found |= block.labels
        if len(block.rejected):
            bad = block.rejected.set_column(0, "row", pc.add(block.rejected["place"], first))
            self.rejected.append(make_rejected(bad, file))
            pairs = zip(bad["reason"].to_pylist(), bad["label"].to_pylist(), strict=True)
            self.rejected_by_class.update((reason, label) for reason, label in pairs if label is not None)
        if not len(block.table):
            return self._spool.empty_table()
        numbers = pc.add(block.table["place"], first)
        self.oddities += block.oddities
        self._lengths.append(block.lengths)
        self._columns["keys"].append(block.keys)
        self._columns["doc_ids"].append(numbers.to_numpy())
        self._columns["labels"].append(_encode(block.table["label"], self.labels))
        self._columns["given"].append(block.given)
        self._columns["groups"].append(_encode(block.table["group"], self._groups))
        self._columns["times"].append(block.table["time"].to_numpy())
        return pa.table([numbers, *(block.table[name] for name in self._spool.names[1:])], schema=self._spool)


def read_spool(path: Path) -> Iterator[pa.Table]:
    """Yield the blocks of a spool file."""
    with pa.OSFile(str(path)) as source, pa.ipc.open_file(source) as reader:
        for i in range(reader.num_record_batches):
            yield pa.Table.from_batches([reader.get_batch(i)])


def make_rejected(rows: pa.Table, files: str | pa.Array) -> pa.Table:
    """Return rejected rows as a table of the schema `REJECTED`.

    Args:
        rows: the columns `row`, `line`, `reason` and `text`.
        files: one name, or a name per row.
    """
    names = pa.array([files] * len(rows)) if isinstance(files, str) else files
    excerpts = pc.utf8_slice_codeunits(rows["text"].fill_null(""), 0, EXCERPT).cast(pa.string())
    return pa.table([rows["row"], names, rows["line"], rows["reason"], excerpts], schema=REJECTED)


def _spool_schema(kept: tuple[str, ...]) -> pa.Schema:
    return pa.schema(
        [
            pa.field("doc_id", pa.int64()),
            pa.field("text", pa.large_string()),
            pa.field("label", pa.string()),
            pa.field("line", pa.int64()),
            *(pa.field(KEPT + name, pa.string()) for name in kept),
        ]
    )


def _encode(values: pa.ChunkedArray, numbers: dict[str, int]) -> np.ndarray:
    """Return int32[N], the number of each value, -1 for null; new values get the next numbers in `numbers`."""
    encoded = whole_column(values).dictionary_encode()
    shared = [numbers.setdefault(value, len(numbers)) for value in encoded.dictionary.to_pylist()]
    codes: np.ndarray = np.array([*shared, -1], np.int32)[encoded.indices.fill_null(-1).to_numpy()]
    return codes
