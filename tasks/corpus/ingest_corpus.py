"""Stage `ingest_corpus`: turn a labelled corpus into validated documents with a split.

Reads the files that `tasks.reading.sources` finds, block by block (`tasks.reading.formats`). Writes `documents`,
`rejected` (row, file, reason, excerpt) and a profile. Every row is accounted for: rows = documents + rejected rows
+ rows left out by `corpus.max_documents`.

Memory does not grow with the texts: they go block by block to a spool file and, once the splits are drawn, from
there to the output. Memory holds about 150 bytes per document, 200 bytes per rejected row, and a few blocks of
`byte_stream.BLOCK_BYTES` (or of the longest row).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from prefect import task

from pipeline_config.contracts.corpus import CorpusProfile, DocumentsProfile, FileRows
from pipeline_config.errors import InputError
from pipeline_config.masking import masked_errors
from pipeline_config.schemas import DOCUMENTS, DOCUMENTS_FILE, REJECTED, REJECTED_FILE, SPLITS
from pipeline_config.settings import CorpusConfig
from tasks.corpus.documents import CorpusReader, make_rejected, read_spool
from tasks.corpus.profile import profile_documents
from tasks.corpus.splitting import DocumentIndex, draw_splits, find_crossing
from tasks.reading.sources import CorpusRef, locate_corpus
from tasks.store.output import StageOutput
from tasks.store.stage import stage

find_corpus = task(name="find_corpus", task_run_name="find corpus", persist_result=False)(
    masked_errors()(locate_corpus)
)


@stage(version=3)
def ingest_corpus(output: StageOutput, source: CorpusRef, config: CorpusConfig, seed: int) -> None:
    """Write the documents with their splits, the rejected rows and a profile of the corpus.

    Raises:
        InputError: there are no usable documents, there is only one class, a class is too small, a split has no
            documents, or a column is missing.
    """
    spool = output.path("spool.arrow")
    reader = CorpusReader(source, config)
    reader.read(spool)
    choice = choose_documents(reader, spool, config, seed=seed)
    rejected_later = _write_documents(output, choice, spool=spool, files=reader.files)
    spool.unlink()
    rejected = pa.concat_tables([*reader.rejected, *rejected_later]).sort_by("row")
    output.write_table(REJECTED_FILE, rejected, REJECTED)
    profile = CorpusProfile(
        **dict(choice.profile),
        rows=reader.rows,
        left_out=choice.left_out,
        files=tuple(reader.files),
        rejected=Counter(rejected["reason"].to_pylist()),
        oddities=reader.oddities,
        normalization="NFC",
        splitter=config.splitter,
    )
    output.write_model(profile)
    output.facts.update(
        documents=int((choice.split >= 0).sum()),
        rows_rejected=len(rejected),
        classes=len(profile.labels),
        rows=profile.rows,
        rows_left_out=profile.left_out,
        duplicates=profile.duplicates,
        conflicting_labels=profile.conflicting_labels,
        leaked=profile.leaked,
        near_duplicates_leaked=profile.near_duplicates_leaked,
    )


class Choice(NamedTuple):
    """Which of the N usable rows are documents.

    Attributes:
        split: int8[N], the split of a document; -1 for a row that is rejected or left out.
        rejected: the reason of each rejected row, by position.
        left_out: number of rows beyond `corpus.max_documents`.
        profile: what the documents are like.
    """

    split: np.ndarray
    rejected: dict[int, str]
    left_out: int
    profile: DocumentsProfile


def choose_documents(reader: CorpusReader, spool: Path, config: CorpusConfig, *, seed: int) -> Choice:
    """Decide which usable rows become documents, and in which split.

    Raises:
        InputError: there are too few classes or documents, or a split has no documents.
    """
    index, labels, where = reader.build_index(), np.array(list(reader.labels), object), reader.source.location
    kept, rejected, left_out = select_documents(index, labels, config, earlier=reader.count_reasons(), where=where)
    near = reader.find_near_duplicates(spool, kept) if config.near_duplicates else None
    chosen = index.keep(kept)
    split = draw_splits(
        chosen,
        splitter=config.splitter,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        seed=seed,
        near_duplicates=near,
    )
    crossing = find_crossing(chosen.texts, split)
    profile = profile_documents(chosen, split, labels, characters=reader.lengths()[kept], crossing=crossing, near=near)
    copies = np.flatnonzero(crossing >= 0)
    rejected |= {int(kept[i]): f"copy_in_{SPLITS[crossing[i]]}" for i in copies}
    assigned = np.full(len(index), -1, np.int8)
    assigned[kept] = np.where(crossing >= 0, -1, split)
    _check_splits(assigned, where=where)
    return Choice(assigned, rejected, left_out, profile)


def select_documents(
    index: DocumentIndex, labels: np.ndarray, config: CorpusConfig, *, earlier: Counter[str], where: str
) -> tuple[np.ndarray, dict[int, str], int]:
    """Apply `max_documents` and the rule for small classes, and check that two classes are left.

    Args:
        index: the usable rows.
        labels: names of the classes.
        config: the rules.
        earlier: number of rows rejected so far, by reason.
        where: name of the corpus, for messages.

    Returns:
        Positions of the documents to use, the reason of each row to reject by position, and the number of usable
        rows beyond `max_documents`.

    Raises:
        InputError: there are fewer than two classes, or a class is too small.
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
        found = ", ".join(f"{labels[i]!r} with {distinct[i]}" for i in sorted(small, key=lambda i: labels[i]))
        raise InputError(
            f"{where}: expected at least {config.min_class_documents} distinct texts in every class "
            f"(corpus.min_class_documents), got: {found}; set corpus.small_classes=reject to leave such classes out"
        )
    is_small = np.isin(index.labels[kept], small)
    rejected = dict.fromkeys(kept[is_small].tolist(), "small_class")
    kept = kept[~is_small]
    classes = sorted(labels[np.unique(index.labels[kept])]) if len(kept) else []
    if len(classes) < 2:
        all_reasons = earlier + Counter(rejected.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in all_reasons.most_common())
        raise InputError(
            f"{where}: expected at least two classes with documents, got {', '.join(classes) or 'none'} "
            f"after rejecting {all_reasons.total()} rows ({reasons or 'none'})"
        )
    return kept, rejected, left_out


def _write_documents(output: StageOutput, choice: Choice, *, spool: Path, files: Sequence[FileRows]) -> list[pa.Table]:
    """Write the documents; return the rows that `choice` rejects, as tables of the schema `REJECTED`."""
    rejected, start = [], 0
    names = pa.array(SPLITS)
    starts, file_names = [file.first_row for file in files], [file.name for file in files]
    # not compressed, because that would be a quarter of the work
    with output.table_writer(DOCUMENTS_FILE, DOCUMENTS, packed=False) as writer:
        for block in read_spool(spool):
            split = choice.split[start : start + len(block)]
            bad = [i for i in np.flatnonzero(split < 0).tolist() if start + i in choice.rejected]
            if bad:
                table = block.take(bad)
                places = np.searchsorted(starts, table["doc_id"].to_numpy(), side="right") - 1
                reasons = pa.array([choice.rejected[start + i] for i in bad])
                from_files = pa.array([file_names[place] for place in places])
                rejected.append(make_rejected(table["doc_id"], files=from_files, reasons=reasons, texts=table["text"]))
            mask = split >= 0
            if not mask.all():
                block, split = block.filter(pa.array(mask)), split[mask]
            if len(block):
                writer.write_table(block.append_column("split", names.take(pa.array(split))).cast(DOCUMENTS))
            start += len(mask)
    return rejected


def _check_splits(assigned: np.ndarray, *, where: str) -> None:
    """Raise an InputError if a split has no documents."""
    counts = {split: int((assigned == code).sum()) for code, split in enumerate(SPLITS)}
    if not all(counts.values()):
        got = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(f"{where}: expected documents in every split, got {got}")
