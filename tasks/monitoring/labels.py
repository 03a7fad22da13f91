"""Labels that arrived later: read from a file, joined by id with scored texts, and turned into true metrics."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from tasks.reading.inputs import Inputs
from tasks.reading.sources import locate_files

_TEXT = pa.string()


class TrueMetrics(NamedTuple):
    """How the answers to texts compare with the labels that arrived.

    Attributes:
        labelled: texts with an answer and a label.
        accuracy: share of right answers.
        low: lower end of its 95 % interval (Wilson).
        high: upper end.
        macro_f1: mean F1 over the labels that arrived or were predicted.
        confidence: mean confidence of these answers.
        unmatched: labels whose id is in no scored file.
        confusions: the most frequent mistakes: label, answer, number.
    """

    labelled: int
    accuracy: float
    low: float
    high: float
    macro_f1: float
    confidence: float
    unmatched: int
    confusions: tuple[tuple[str, str, int], ...]


def read_columns(path: Path, names: Sequence[str]) -> pa.Table:
    """Return columns of a file as texts, null where a text is blank; every form that a corpus may have can be read.

    Raises:
        InputError: the file cannot be read, or lacks a column.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if path.is_dir() or path.suffix == ".parquet":  # numbers are ids and labels, too
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{path}: cannot be read: {error}") from error
    else:
        reading = Reading(text_column=tuple(names))
        inputs = Inputs(locate_files([str(path)], reading), reading)
        blocks = [block for file in inputs.files for block in inputs.read(file)]
        broken = sum(block.rejected["reason"].to_pylist().count("undecodable") for block in blocks)
        if broken:
            raise InputError(f"{path}: {broken:,} rows have bytes that are not UTF-8; save it as UTF-8")
        table = pa.concat_tables([inputs.schema.empty_table(), *(block.table for block in blocks)])
    if missing := [name for name in names if name not in table.column_names]:
        found = ", ".join(table.column_names)
        raise InputError(f"{path}: expected the column {missing[0]!r}, got {found}; set --id or --label")
    columns = {name: table[name].cast(_TEXT) for name in names}
    return pa.table({name: pc.if_else(pc.equal(column, ""), None, column) for name, column in columns.items()})


def read_labels(path: Path, id_column: str, label_column: str) -> dict[str, str]:
    """Return the label of each id in a file; rows without one of both are left out.

    Raises:
        InputError: the file cannot be read, an id has two labels, or none has a label.
    """
    labels: dict[str, str] = {}
    for identity, label in zip(
        *(column.to_pylist() for column in read_columns(path, [id_column, label_column]).columns), strict=True
    ):
        if identity is None or not label:
            continue
        if labels.setdefault(identity, label) != label:
            raise InputError(
                f"{path}: expected one label for each {id_column}, got {labels[identity]!r} and {label!r} for "
                f"{identity!r}"
            )
    if not labels:
        raise InputError(f"{path}: no row has both a value in {id_column!r} and one in {label_column!r}")
    return labels


def join_answers(labels: dict[str, str], outputs: Iterable[Path], id_column: str) -> pa.Table:
    """Return label, answer and confidence of the labelled texts; of a text that was scored twice, the last answer.

    Args:
        labels: by id.
        outputs: scored files, the oldest first; those without the column of the ids are left out.
        id_column: its name.
    """
    answers: dict[str, tuple[str, float]] = {}
    for path in outputs:
        try:
            table = read_columns(path, [id_column, "label", "score"]).drop_null()
        except InputError:
            continue
        table = table.filter(pc.is_in(table[id_column], value_set=pa.array(list(labels), _TEXT)))
        answers |= {row[id_column]: (row["label"], float(row["score"])) for row in table.to_pylist()}
    rows = [(labels[identity], *answer) for identity, answer in answers.items()]
    columns = list(zip(*rows, strict=True)) or [(), (), ()]
    return pa.table(
        [pa.array(columns[0], _TEXT), pa.array(columns[1], _TEXT), pa.array(columns[2], pa.float64())],
        names=["truth", "answer", "score"],
    )


def measure_answers(joined: pa.Table, labels: int) -> TrueMetrics:
    """Return the metrics of joined answers, given how many labels arrived; there has to be one answer."""
    from scipy.stats import binomtest
    from sklearn.metrics import f1_score

    truth, answers = joined["truth"].to_pylist(), joined["answer"].to_pylist()
    right = int(np.sum(np.array(truth) == np.array(answers)))
    interval = binomtest(right, len(truth)).proportion_ci(method="wilson")
    mistakes = Counter((label, answer) for label, answer in zip(truth, answers, strict=True) if label != answer)
    return TrueMetrics(
        labelled=len(truth),
        accuracy=right / len(truth),
        low=float(interval.low),
        high=float(interval.high),
        macro_f1=float(f1_score(truth, answers, average="macro", zero_division=0.0)),
        confidence=float(np.mean(joined["score"].to_numpy())),
        unmatched=labels - len(truth),
        confusions=tuple((*pair, count) for pair, count in mistakes.most_common(10)),
    )
