"""Stage `ingest_corpus`: turn a labelled corpus into validated documents with a split.

Reads the files that `tasks.reading.sources` finds, block by block (`tasks.reading.formats`). Writes `documents`,
`rejected` (row, file, line, reason, excerpt), `unlabelled` (train texts without a label) and a profile. Every row is
accounted for: rows = documents + rejected rows + unlabelled texts + rows left out by `corpus.max_documents`.

Memory does not grow with the texts: they go block by block to a spool file and, once the splits are drawn, from
there to the output. Memory holds about 150 bytes per document, 200 bytes per rejected row, and a few blocks of
`byte_stream.BLOCK_BYTES` (or of the longest row).
"""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from prefect import task

from pipeline_config.contracts.corpus import CorpusProfile, DocumentsProfile, FileRows
from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from pipeline_config.masking import masked_errors
from pipeline_config.schemas import (
    DOCUMENTS,
    DOCUMENTS_FILE,
    REJECTED,
    REJECTED_FILE,
    SPLITS,
    UNLABELLED,
    UNLABELLED_FILE,
)
from pipeline_config.settings import CorpusConfig
from tasks.corpus.classes import check_label_map, describe_near_equal, find_near_equal, find_strangers
from tasks.corpus.documents import CorpusReader, make_rejected, read_spool
from tasks.corpus.findings import list_findings
from tasks.corpus.profile import profile_documents
from tasks.corpus.rejection import check_rejected, find_skew
from tasks.corpus.splitting import TRAIN, DocumentIndex, draw_splits, find_crossing
from tasks.reading.formats import resolve_reading
from tasks.reading.sources import CorpusRef, locate_corpus
from tasks.store.output import StageOutput
from tasks.store.stage import stage

find_corpus = task(name="find_corpus", task_run_name="find corpus", persist_result=False)(
    masked_errors()(locate_corpus)
)


logger = logging.getLogger(__name__)


@stage(version=4)
def ingest_corpus(output: StageOutput, source: CorpusRef, config: CorpusConfig, seed: int) -> None:
    """Write the documents with their splits, the rejected rows, the unlabelled texts and a profile of the corpus.

    Raises:
        InputError: there are no usable documents, there is only one class, a class is too small, a split has no
            documents, or none of a class of the train split, too many rows are rejected, a column is missing, a label
            is a list or an object, or a key of `corpus.label_map` is no label.
    """
    readings = find_readings(source, config.reading)
    for reading in readings.values():
        logger.info("read as %s", reading.describe())
    spool = output.path("spool.arrow")
    reader = CorpusReader(source, config)
    with output.table_writer(UNLABELLED_FILE, UNLABELLED, packed=False) as writer:
        reader.read(spool, writer.write_table)
    check_rejected(reader.rejected, reader.count_reasons(), rows=reader.rows, config=config, source=source)
    check_label_map(config.label_map, reader.found)
    choice = choose_documents(reader, spool, config, seed=seed)
    rejected_later = _write_documents(output, choice, spool=spool, files=reader.files)
    spool.unlink()
    rejected = pa.concat_tables([*reader.rejected, *rejected_later]).sort_by("row")
    reasons = Counter(rejected["reason"].to_pylist())
    check_rejected([rejected], reasons, rows=reader.rows, config=config, source=source)
    output.write_table(REJECTED_FILE, rejected, REJECTED)
    profile = CorpusProfile(
        **dict(choice.profile),
        rows=reader.rows,
        unlabelled=reader.unlabelled,
        left_out=choice.left_out,
        files=tuple(reader.files),
        rejected=reasons,
        rejected_by_class=_nest(reader.rejected_by_class + choice.rejected_by_class),
        near_equal_names=find_near_equal(choice.sizes),
        readings=readings,
        oddities=reader.oddities,
        normalization="NFC",
        splitter=config.splitter,
    )
    output.write_model(profile)
    skew = find_skew(reader.rejected_by_class, choice.sizes)
    for finding in list_findings(profile, rejected, skew, config=config, source=source):
        logger.warning(finding)
    output.facts.update(
        documents=int((choice.split >= 0).sum()),
        rows_rejected=len(rejected),
        classes=len(profile.labels),
        rows=profile.rows,
        rows_unlabelled=profile.unlabelled,
        rows_left_out=profile.left_out,
        duplicates=profile.duplicates,
        conflicting_labels=profile.conflicting_labels,
        leaked=profile.leaked,
        near_duplicates_leaked=profile.near_duplicates_leaked,
    )


def find_readings(source: CorpusRef, reading: Reading) -> dict[str, Reading]:
    """Return how the first file of each format is read."""
    first = {file.kind: file for file in reversed(source.files)}
    return {kind: resolve_reading(Path(file.path), kind, reading, file.constants) for kind, file in first.items()}


class Choice(NamedTuple):
    """Which of the N usable rows are documents.

    Attributes:
        split: int8[N], the split of a document; -1 for a row that is rejected or left out.
        rejected: the reason of each rejected row, by position.
        rejected_by_class: number of rejected rows, by reason and class.
        left_out: number of rows beyond `corpus.max_documents`.
        sizes: number of usable rows of each class.
        profile: what the documents are like.
    """

    split: np.ndarray
    rejected: dict[int, str]
    rejected_by_class: Counter[tuple[str, str]]
    left_out: int
    sizes: dict[str, int]
    profile: DocumentsProfile


def choose_documents(reader: CorpusReader, spool: Path, config: CorpusConfig, *, seed: int) -> Choice:
    """Decide which usable rows become documents, and in which split.

    Raises:
        InputError: there are too few classes or documents, or a split has no documents.
    """
    index, labels, where = reader.build_index(), np.array(list(reader.labels), object), reader.source.location
    sizes = dict(zip(map(str, labels), np.bincount(index.labels).tolist(), strict=True))
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
    left = np.where(crossing >= 0, -1, split)
    strange = find_strangers(left, chosen.labels, labels, where=where)
    left[strange] = -1
    profile = profile_documents(
        chosen, split, labels, characters=reader.lengths()[kept], crossing=crossing, near=near, kept=left >= 0
    )
    rejected |= {int(kept[i]): f"copy_in_{SPLITS[crossing[i]]}" for i in np.flatnonzero(crossing >= 0)}
    rejected |= dict.fromkeys(kept[strange].tolist(), "class_not_in_train")
    assigned = np.full(len(index), -1, np.int8)
    assigned[kept] = left
    _check_splits(assigned, where=where)
    by_class = Counter((reason, str(labels[index.labels[place]])) for place, reason in rejected.items())
    return Choice(assigned, rejected, by_class, left_out, sizes, profile)


def select_documents(
    index: DocumentIndex, labels: np.ndarray, config: CorpusConfig, *, earlier: Counter[str], where: str
) -> tuple[np.ndarray, dict[int, str], int]:
    """Apply `max_documents` and the rules for classes, and check that two classes are left.

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
        InputError: there are fewer than two classes, a class is too small, or a held-out split that the corpus gives
            has none of the classes of the train split.
    """
    usable, most = len(index), config.max_documents
    kept = np.arange(usable)
    if most and usable > most:
        kept = np.arange(most) * usable // most
    left_out = usable - len(kept)
    strange = find_strangers(np.maximum(index.given[kept], TRAIN), index.labels[kept], labels, where=where)
    rejected = dict.fromkeys(kept[strange].tolist(), "class_not_in_train")
    kept = kept[~strange]
    pairs = np.unique(index.labels[kept].astype(np.int64) << 32 | index.texts[kept])
    distinct = np.bincount(pairs >> 32, minlength=len(labels))
    small = np.flatnonzero((distinct > 0) & (distinct < config.min_class_documents))
    if len(small) and config.small_classes == "error":
        raise InputError(_describe_small(small, distinct, labels, config, where=where))
    is_small = np.isin(index.labels[kept], small)
    rejected |= dict.fromkeys(kept[is_small].tolist(), "small_class")
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


def _describe_small(
    small: np.ndarray, distinct: np.ndarray, labels: np.ndarray, config: CorpusConfig, *, where: str
) -> str:
    """Return the message about classes that are too small, which may be misspelt names of others."""
    sizes = {str(label): int(count) for label, count in zip(labels, distinct, strict=True) if count}
    names = sorted(str(labels[i]) for i in small)
    near = {name: larger for name, larger in find_near_equal(sizes).items() if name in names}
    join = f"{describe_near_equal(near, config.label_map)}; or " if near else ""
    found = ", ".join(f"{name!r} with {sizes[name]}" for name in names)
    return (
        f"{where}: expected at least {config.min_class_documents} distinct texts in every class "
        f"(corpus.min_class_documents), got: {found}; {join}set corpus.small_classes=reject to leave such classes out"
    )


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
                columns = {"row": table["doc_id"], "line": table["line"], "reason": reasons, "text": table["text"]}
                rejected.append(make_rejected(pa.table(columns), from_files))
            mask = split >= 0
            if not mask.all():
                block, split = block.filter(pa.array(mask)), split[mask]
            if len(block):
                table = block.drop_columns("line").append_column("split", names.take(pa.array(split)))
                writer.write_table(table.cast(DOCUMENTS))
            start += len(mask)
    return rejected


def _nest(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Return counts by reason and class, as a mapping of mappings."""
    return {reason: {c: n for (r, c), n in counts.items() if r == reason} for reason in {r for r, _ in counts}}


def _check_splits(assigned: np.ndarray, *, where: str) -> None:
    """Raise an InputError if a split has no documents."""
    counts = {split: int((assigned == code).sum()) for code, split in enumerate(SPLITS)}
    if not all(counts.values()):
        got = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(f"{where}: expected documents in every split, got {got}")
