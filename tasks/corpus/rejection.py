"""Rejected rows: how many a corpus may have, what to do about each reason, and whether they fall on one class."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import InputError
from pipeline_config.settings import CorpusConfig
from tasks.reading.encodings import advise_encoding
from tasks.reading.sources import CorpusRef

EXAMPLES = 3
_EXCERPT = 40  # characters of an example
_SKEWED = 2  # times the share of the other classes
_SKEWED_ROWS = 5
# what the configuration asks to leave out, and copies, are no fault of the file
_EXPECTED = {"short_text", "small_class", "copy_in_test", "copy_in_validation"}
_REMEDIES = {
    "wrong_number_of_fields": "set corpus.separator or corpus.quoting (backslash escapes quotes, none keeps them)",
    "swallowed_by_quote": "a quote that is never closed joins rows: set corpus.quoting=none, or close the quote",
    "not_a_json_object": "expected one JSON object per line",
    "text_is_no_string": "set corpus.text_column to a column of texts",
    "null_text": "set corpus.text_column to a column with a text in every row",
    "empty_text": "set corpus.text_column to a column with a text in every row",
    "no_label": "expected a label in every row of the validation and test data; only train data may have rows without",
    "unknown_split": "expected train, validation or test in corpus.split_column",
    "no_time": "expected a number, a date or an ISO 8601 time in corpus.time_column",
    "class_not_in_train": "expected classes of the train split; corpus.label_map gives labels the names of classes",
}


def check_rejected(
    rejected: Iterable[pa.Table], counts: Mapping[str, int], *, rows: int, config: CorpusConfig, source: CorpusRef
) -> None:
    """Raise an InputError if a larger share of the rows is rejected than `corpus.max_rejected_fraction` allows.

    Rows that the configuration asks to leave out do not count: short texts, small classes, copies between splits.

    Args:
        rejected: rejected rows, in the schema `REJECTED`, for examples.
        counts: number of rejected rows by reason.
        rows: number of all rows.
        config: the bound, and how the files are read.
        source: the files.
    """
    faults = {reason: count for reason, count in counts.items() if reason not in _EXPECTED}
    total = sum(faults.values())
    if total <= config.max_rejected_fraction * rows:
        return
    table = pa.concat_tables(rejected)
    lines = [
        f"{source.location}: {total:,} of {rows:,} rows ({total / rows:.1%}) cannot be used; "
        f"corpus.max_rejected_fraction allows {config.max_rejected_fraction:.1%}"
    ]
    for reason, count in sorted(faults.items(), key=lambda item: (-item[1], item[0])):
        mine = table.filter(pc.equal(table["reason"], reason)).slice(0, EXAMPLES).to_pylist()
        examples = "; ".join(map(_show_example, mine))
        lines.append(f"  {count:,} {reason}: {advise(reason, table, source)}. Examples: {examples}")
    raise InputError("\n".join(lines))


def advise(reason: str, rejected: pa.Table, source: CorpusRef) -> str:
    """Return what to do about rows (schema `REJECTED`) that were rejected for a reason."""
    if reason != "undecodable":
        return _REMEDIES.get(reason, "see the README of tasks/corpus")
    first = rejected.filter(pc.equal(rejected["reason"], reason))["file"][0].as_py()
    file = next(file for file in source.files if Path(file.path).name == first)
    if file.kind == "parquet":
        return "write the Parquet file anew, with texts in UTF-8"
    return advise_encoding(Path(file.path))


def find_skew(
    rejected_by_class: Mapping[tuple[str, str], int], usable: Mapping[str, int]
) -> list[tuple[str, str, float, float]]:
    """Return the reasons that reject at least twice the share of one class that they reject of the others.

    Args:
        rejected_by_class: rows by reason and class.
        usable: rows that are not rejected, by class.

    Returns:
        Reason, class, its share and the share of the others, the largest share first.
    """
    sizes = Counter(usable)
    for (_, label), count in rejected_by_class.items():
        sizes[label] += count
    by_reason: Counter[str] = Counter()
    for (reason, _), count in rejected_by_class.items():
        by_reason[reason] += count
    found = []
    for (reason, label), count in rejected_by_class.items():
        others = sizes.total() - sizes[label]
        share, other = count / sizes[label], (by_reason[reason] - count) / max(others, 1)
        if count >= _SKEWED_ROWS and others and share >= _SKEWED * other:
            found.append((reason, label, share, other))
    return sorted(found, key=lambda item: (-item[2], item[:2]))


def _show_example(row: Mapping[str, object]) -> str:
    at = f" line {row['line']}" if row["line"] is not None else ""
    return f"{row['file']}{at} {str(row['excerpt'])[:_EXCERPT]!r}"
