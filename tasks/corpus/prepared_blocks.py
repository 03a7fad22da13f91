"""Blocks of rows made ready: unusable rows found, labels renamed, texts normalized and measured.

Takes blocks of `tasks.reading`, one at a time. Nothing here knows of another block, so that threads share the work.
"""

from collections import Counter
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.schemas import SPLITS
from pipeline_config.settings import CorpusConfig
from tasks.corpus.classes import normalize_label_map
from tasks.corpus.hashing import hash_texts
from tasks.corpus.profile import count_oddities
from tasks.corpus.splitting import NOT_GIVEN, TRAIN
from tasks.reading.blocks import KEPT
from tasks.reading.file_names import SPLIT_NAMES
from tasks.runtime.arrow import whole_column
from tasks.served.text import normalize_texts, text_bytes

_SPLIT_NAMES: dict[str, int] = {name: SPLITS.index(split) for name, split in SPLIT_NAMES.items()}
_UNLABELLED = "unlabelled"  # in place of a reason


class PreparedBlock(NamedTuple):
    """A block of rows after all work that needs no other block.

    Attributes:
        rows: number of rows.
        table: the usable rows: `place` in the block, normalized `text`, `label`, `group`, `time`, `line`, and the
            kept columns.
        rejected: the rows that cannot be used: `place`, `text`, `label`, `line`, `reason`.
        unlabelled: the train rows without a label: `place` and normalized `text`.
        labels: the distinct labels of all rows, as the file has them.
        given: int8[usable], the split that the corpus gives, or -1.
        keys: uint64[usable, 2], equal for copies of a text.
        lengths: int32[usable], characters of the texts.
        oddities: texts by kind of oddity.
    """

    rows: int
    table: pa.Table
    rejected: pa.Table
    unlabelled: pa.Table
    labels: set[str]
    given: np.ndarray
    keys: np.ndarray
    lengths: np.ndarray
    oddities: Counter[str]


def prepare_block(block: pa.Table, config: CorpusConfig, split: str | None) -> PreparedBlock:
    """Find the unusable rows, and normalize and measure the texts of the others.

    Args:
        block: rows, in the schema `BLOCK`.
        config: the rules for usable rows.
        split: the split that the configuration gives to the whole file, if any.
    """
    given = _read_splits(block["split"], split, config)
    reason = find_reasons(block, config, given)
    labels = set(pc.unique(block["label"]).to_pylist()) - {None}
    label = _rename_labels(block["label"], config.label_map)
    kept = [KEPT + name for name in config.keep_columns]
    others = {name: block[name] for name in ("text", "group", "time", "line", *kept)}
    rest = pa.table({"place": np.arange(len(block)), "label": label, "reason": reason, **others})
    rows, usable = len(rest), pc.is_null(reason)
    unlabelled = rest.filter(pc.equal(reason, _UNLABELLED)).select(["place", "text"])
    rejected = rest.filter(pc.not_equal(reason, _UNLABELLED)).drop_columns(["group", "time", *kept])
    if reason.null_count < len(reason):
        rest, given = rest.filter(usable), given[usable.to_numpy(zero_copy_only=False)]
    before = whole_column(rest["text"])
    text = normalize_texts(before)
    return PreparedBlock(
        rows=rows,
        table=_set_text(rest, text),
        rejected=rejected,
        unlabelled=_set_text(unlabelled, normalize_texts(whole_column(unlabelled["text"]))),
        labels=labels,
        given=given,
        keys=np.frombuffer(b"".join(hash_texts(text)), np.uint64).reshape(-1, 2),
        lengths=pc.utf8_length(text).to_numpy().astype(np.int32),
        oddities=count_oddities(before, text),
    )


def find_reasons(block: pa.Table, config: CorpusConfig, given: np.ndarray) -> pa.Array:
    """Return string[rows], why a row of a block (schema `BLOCK`) cannot be used; null for a usable one.

    The reasons are in order: a row gets the first that applies. The last, for a row without a label that is not in a
    held-out split, is no reason to reject it: it is unlabelled text.
    """
    text = whole_column(block["text"])
    lengths = pa.array(measure_stripped(text.fill_null("")))
    no_label = pc.is_null(whole_column(block["label"]))
    found = [
        (pc.is_null(text), "null_text"),
        (pc.equal(lengths, 0), "empty_text"),
        (pc.less(lengths, config.min_characters), "short_text"),
        (pc.and_(no_label, pa.array(given > TRAIN)), "no_label"),
    ]
    if config.split_column:
        found.append((pa.array(given == NOT_GIVEN), "unknown_split"))
    if config.splitter == "time":
        found.append((pc.and_not(pc.is_null(whole_column(block["time"])), no_label), "no_time"))
    found.append((no_label, _UNLABELLED))
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
    new_names = normalize_label_map(label_map)
    names = [new_names.get(label, label) for label in codes.dictionary.to_pylist()]
    return pa.array(names, pa.string()).take(codes.indices)


def _set_text(table: pa.Table, text: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index("text"), "text", text)
