"""Stage `ingest_corpus`: turn a labelled corpus into validated documents with a split.

Reads the files that `tasks.corpus.sources` finds, block by block (`tasks.corpus.formats`). Writes `documents`,
`rejected` (row, file, reason) and a profile. Every row is accounted for: rows = documents + rejected + rows
left out by `corpus.max_documents`.

Memory does not grow with the texts: they go block by block to a spool file and, once the splits are drawn, from
there to the output. What stays is about 150 bytes per document and 200 per rejected row, and a few blocks of
`byte_stream.BLOCK_BYTES` (or of the longest row).
"""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from prefect import task

from pipeline_config.errors import InputError
from pipeline_config.schemas import DOCUMENTS, DOCUMENTS_FILE, PROFILE_FILE, REJECTED, REJECTED_FILE, SPLITS
from pipeline_config.settings import CorpusConfig
from tasks.corpus.profile import profile_documents
from tasks.corpus.reading import CorpusReader, read_spool, rejected_table
from tasks.corpus.sources import CorpusRef, locate_corpus
from tasks.corpus.splitting import DocumentIndex, draw_splits, find_crossing
from tasks.store.output import StageOutput
from tasks.store.stage import stage

find_corpus = task(name="find_corpus", task_run_name="find corpus", persist_result=False)(locate_corpus)


@stage(version=3)
def ingest_corpus(output: StageOutput, source: CorpusRef, config: CorpusConfig, seed: int) -> None:
    """Write the documents with their splits, the rejected rows and a profile of the corpus.

    Raises:
        InputError: no usable documents, one class only, a class too small, a split without documents, or a column
            that is not there.
    """
    spool = output.path("spool.arrow")
    reader = CorpusReader(source, config)
    reader.read(spool)
    choice = choose_documents(reader, spool, config, seed)
    late = _write_documents(output, spool, choice, reader)
    spool.unlink()
    rejected = pa.concat_tables([*reader.rejected, *late]).sort_by("row")
    output.write_table(REJECTED_FILE, rejected, REJECTED)
    reasons = Counter(rejected["reason"].to_pylist())
    profile = {
        **choice.profile, "rejected": dict(sorted(reasons.items())), "rows": reader.rows, "left_out": choice.left_out,
        "files": reader.files, "oddities": dict(reader.oddities), "normalization": "NFC", "splitter": config.splitter,
    }  # fmt: skip
    output.write_json(PROFILE_FILE, profile)
    output.facts.update(
        documents=int((choice.split >= 0).sum()), rows_rejected=len(rejected),
        classes=len({label for counts in profile["documents"].values() for label in counts}), rows=reader.rows,
        rows_left_out=choice.left_out,
        **{name: profile[name] for name in ("duplicates", "conflicting_labels", "leaked", "near_duplicates_leaked")},
    )  # fmt: skip


class Choice(NamedTuple):
    """What becomes of the usable rows.

    `split` int8[N] is -1 for a row that is no document; `rejected` gives the reason by position, for those of them
    that are not left out; `profile` describes the documents.
    """

    split: np.ndarray
    rejected: dict[int, str]
    left_out: int
    profile: dict[str, Any]


def choose_documents(reader: CorpusReader, spool: Path, config: CorpusConfig, seed: int) -> Choice:
    """Decide which usable rows become documents, and of which split.

    Raises:
        InputError: there is not enough to learn from, or a split is without documents.
    """
    index, labels, where = reader.index(), np.array(list(reader.labels), object), reader.source.location
    kept, rejected, left_out = select_documents(index, labels, config, earlier=reader.reasons(), where=where)
    near = reader.near_duplicates(spool, kept) if config.near_duplicates else None
    chosen = index.keep(kept)
    split = draw_splits(
        chosen, splitter=config.splitter, validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction, seed=seed, near_duplicates=near,
    )  # fmt: skip
    crossing = find_crossing(chosen.texts, split)
    profile = profile_documents(chosen, split, labels, reader.lengths()[kept], crossing=crossing, near=near)
    copies = np.flatnonzero(crossing >= 0)
    rejected |= {int(kept[i]): f"copy_in_{SPLITS[crossing[i]]}" for i in copies}
    assigned = np.full(len(index), -1, np.int8)
    assigned[kept] = np.where(crossing >= 0, -1, split)
    _check_splits(assigned, where=where)
    return Choice(assigned, rejected, left_out, profile)


def select_documents(
    index: DocumentIndex, labels: np.ndarray, config: CorpusConfig, *, earlier: Counter[str], where: str
) -> tuple[np.ndarray, dict[int, str], int]:
    """Apply `max_documents` and the rule for small classes, and check that there is something to learn.

    Args:
        index: the usable rows.
        labels: names of the classes.
        config: the rules.
        earlier: rows rejected so far, by reason.
        where: name of the corpus, for messages.

    Returns:
        Positions of the documents to use, reason by position of those to reject, and how many usable rows were
        left out by `max_documents`.

    Raises:
        InputError: no documents, fewer than two classes, or a class too small.
    """
    usable, most = len(index), config.max_documents
    kept = np.arange(usable)
    if most and usable > most:
        kept = np.arange(most) * usable // most
    left_out = usable - len(kept)
    pairs = np.unique(index.labels[kept].astype(np.int64) << 32 | index.texts[kept])
    distinct = np.bincount(pairs >> 32, minlength=len(labels))
    small = np.flatnonzero((distinct > 0) & (distinct < config.min_class_documents))
    if len(small) and config.small_classes == "error":
        found = ", ".join(f"{labels[i]!r} has {distinct[i]}" for i in sorted(small, key=lambda i: labels[i]))
        raise InputError(
            f"{where}: a class needs {config.min_class_documents} distinct texts (corpus.min_class_documents), {found};"
            " corpus.small_classes=reject leaves such classes out"
        )
    is_small = np.isin(index.labels[kept], small)
    rejected = dict.fromkeys(kept[is_small].tolist(), "small_class")
    kept = kept[~is_small]
    classes = sorted(labels[np.unique(index.labels[kept])]) if len(kept) else []
    if len(classes) < 2:
        all_reasons = earlier + Counter(rejected.values())
        told = ", ".join(f"{count} {reason}" for reason, count in all_reasons.most_common())
        raise InputError(
            f"{where}: expected at least two classes with documents, got {', '.join(classes) or 'none'} "
            f"after rejecting {all_reasons.total()} rows ({told or 'none'})"
        )
    return kept, rejected, left_out


def _write_documents(output: StageOutput, spool: Path, choice: Choice, reader: CorpusReader) -> list[pa.Table]:
    """Write the documents that have a split; return the late rejected ones."""
    late, start = [], 0
    names = pa.array(SPLITS)
    starts, files = zip(*((file["first_row"], file["name"]) for file in reader.files), strict=True)
    with output.table_writer(DOCUMENTS_FILE, DOCUMENTS, packed=False) as writer:  # packing is a quarter of the work
        for block in read_spool(spool):
            split = choice.split[start : start + len(block)]
            bad = [i for i in np.flatnonzero(split < 0).tolist() if start + i in choice.rejected]
            if bad:
                table = block.take(bad)
                places = np.searchsorted(starts, table["doc_id"].to_numpy(), side="right") - 1
                reasons = pa.array([choice.rejected[start + i] for i in bad])
                late.append(
                    rejected_table(table["doc_id"], pa.array([files[p] for p in places]), reasons, table["text"])
                )
            mask = split >= 0
            if not mask.all():
                block, split = block.filter(pa.array(mask)), split[mask]
            if len(block):
                writer.write_table(block.append_column("split", names.take(pa.array(split))).cast(DOCUMENTS))
            start += len(mask)
    return late


def _check_splits(assigned: np.ndarray, *, where: str) -> None:
    counts = {split: int((assigned == code).sum()) for code, split in enumerate(SPLITS)}
    if not all(counts.values()):
        got = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(f"{where}: expected documents in every split, got {got}")
