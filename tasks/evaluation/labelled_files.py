"""Labelled files for the evaluation of a registered model: which of their documents it can be measured on."""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.evaluation.labelled import count_words
from tasks.reading.inputs import LabelledRows, read_labelled
from tasks.reading.sources import CorpusFile, digest_files, locate_files


class LabelledFiles(NamedTuple):
    """What was read: the files, their digest, and the documents whose label is a class of the model."""

    files: list[CorpusFile]
    digest: str
    texts: list[str]
    truth: np.ndarray
    columns: dict[str, list[str | None]]
    unknown: Counter[str]
    left_out: Counter[str]


def read_labelled_files(
    sources: Sequence[str], reading: Reading, labels: Sequence[str], query: str | None
) -> LabelledFiles:
    """Read labelled files, and keep the documents whose label is one of some classes.

    Raises:
        InputError: a file cannot be read or lacks a column, or no document has such a label.
    """
    reading = reading.model_copy(update=dict.fromkeys(("split_column", "group_column", "time_column")))
    files = locate_files(sources, reading, query)
    found = read_labelled(files, reading)
    ids = {label: number for number, label in enumerate(labels)}
    kept = [place for place, label in enumerate(found.labels) if label in ids]
    unknown = Counter(label for label in found.labels if label is not None and label not in ids)
    found.left_out.update({"no_label": sum(label is None for label in found.labels)})
    left_out = +found.left_out  # without zeros
    if not kept:
        raise InputError(_describe_none(files, found, unknown, left_out, reading, labels))
    return LabelledFiles(
        files=files,
        digest=digest_files(files),
        texts=[found.texts[place] for place in kept],
        truth=np.array([ids[str(found.labels[place])] for place in kept], np.int64),
        columns={column: [values[place] for place in kept] for column, values in found.columns.items()},
        unknown=unknown,
        left_out=left_out,
    )


def _describe_none(
    files: Sequence[CorpusFile],
    found: LabelledRows,
    unknown: Counter[str],
    left_out: Counter[str],
    reading: Reading,
    labels: Sequence[str],
) -> str:
    """Return why nothing can be scored."""
    parts = [f"labels in column {reading.label_column!r}: {count_words(unknown)}"] if unknown else []
    parts += [f"rows that were left out: {count_words(left_out)}"] if left_out else []
    rows = len(found.texts) + left_out.total() - left_out["no_label"]
    return (
        f"{', '.join(file.path for file in files[:3])}: none of {rows:,} rows has a label that the model knows; its "
        f"classes are {', '.join(labels[:20])}{'; ' if parts else ''}{'; '.join(parts)}. Name the column with --label, "
        "or give labels the names of classes with --set corpus.label_map"
    )
