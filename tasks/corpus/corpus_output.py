"""The files of a corpus: documents with splits, their kept columns, rejected rows, unlabelled texts, the profile.

Reads the files that `tasks.reading.sources` finds, block by block (`tasks.reading.formats`). Every row is accounted
for: rows = documents + rejected rows + unlabelled texts + rows left out by `corpus.max_documents`. Commands that only
look at a corpus use it too, so nothing here imports prefect.

Memory does not grow with the texts: they go block by block to a spool file and, once the splits are drawn, from
there to the output. Memory holds about 150 bytes per document, 200 bytes per rejected row, and a few blocks of
`byte_stream.BLOCK_BYTES` (or of the longest row).
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.corpus import CorpusProfile, FileRows
from pipeline_config.contracts.reading import Reading
from pipeline_config.schemas import (
    DOCUMENTS,
    DOCUMENTS_FILE,
    KEPT_COLUMNS_FILE,
    REJECTED,
    REJECTED_FILE,
    SPLITS,
    UNLABELLED,
    UNLABELLED_FILE,
    kept_columns_schema,
)
from pipeline_config.settings import CorpusConfig
from tasks.corpus.choosing import Choice, choose_documents
from tasks.corpus.classes import check_label_map, find_near_equal
from tasks.corpus.documents import CorpusReader, make_rejected, read_spool
from tasks.corpus.findings import list_findings
from tasks.corpus.rejection import check_rejected, find_skew
from tasks.reading.blocks import KEPT
from tasks.reading.formats import resolve_reading
from tasks.reading.sources import CorpusRef
from tasks.store.output import StageOutput


class CorpusOutput(NamedTuple):
    """What was written of a corpus: its profile, the rejected rows, and what a user should know, in sentences."""

    profile: CorpusProfile
    rejected: pa.Table
    findings: tuple[str, ...]


def write_corpus(output: StageOutput, source: CorpusRef, config: CorpusConfig, seed: int) -> CorpusOutput:
    """Write the documents with their splits, the rejected rows, the unlabelled texts and a profile of the corpus.

    Raises:
        InputError: there are no usable documents, there is only one class, a class is too small, a split has no
            documents, or none of a class of the train split, too many rows are rejected, a column is missing, a label
            is a list or an object, or a key of `corpus.label_map` is no label.
    """
    spool = output.path("spool.arrow")
    reader = CorpusReader(source, config)
    with output.table_writer(UNLABELLED_FILE, UNLABELLED, packed=False) as writer:
        reader.read(spool, writer.write_table)
    check_rejected(reader.rejected, reader.count_reasons(), rows=reader.rows, config=config, source=source)
    check_label_map(config.label_map, reader.found)
    choice = choose_documents(reader, spool, config, seed=seed)
    rejected_later = _write_documents(output, choice, spool=spool, files=reader.files)
    if config.keep_columns:
        _write_kept(output, choice, spool=spool, names=config.keep_columns)
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
        readings=find_readings(source, config.reading),
        oddities=reader.oddities,
        normalization="NFC",
        splitter=config.splitter,
    )
    output.write_model(profile)
    skew = find_skew(reader.rejected_by_class, choice.sizes)
    findings = tuple(list_findings(profile, rejected, skew, config=config, source=source))
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
    return CorpusOutput(profile, rejected, findings)


def find_readings(source: CorpusRef, reading: Reading) -> dict[str, Reading]:
    """Return how the first file of each format is read."""
    first = {file.kind: file for file in reversed(source.files)}
    return {kind: resolve_reading(Path(file.path), kind, reading, file.constants) for kind, file in first.items()}


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
                table = block.select(["doc_id", "text", "label"]).append_column("split", names.take(pa.array(split)))
                writer.write_table(table.cast(DOCUMENTS))
            start += len(mask)
    return rejected


def _write_kept(output: StageOutput, choice: Choice, *, spool: Path, names: tuple[str, ...]) -> None:
    """Write the kept columns of the documents."""
    schema, start = kept_columns_schema(names), 0
    with output.table_writer(KEPT_COLUMNS_FILE, schema) as writer:
        for block in read_spool(spool):
            documents = block.filter(pa.array(choice.split[start : start + len(block)] >= 0))
            start += len(block)
            if len(documents):
                columns = ["doc_id", *(KEPT + name for name in names)]
                writer.write_table(documents.select(columns).rename_columns(schema.names).cast(schema))


def _nest(counts: Mapping[tuple[str, str], int]) -> dict[str, dict[str, int]]:
    """Return counts by reason and class, as a mapping of mappings."""
    return {reason: {c: n for (r, c), n in counts.items() if r == reason} for reason in {r for r, _ in counts}}
