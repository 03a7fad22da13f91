"""Labels that arrived later: read from a file, joined by id with scored texts, and turned into true metrics."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from pipeline_config.errors import InputError

_TEXT = pa.string()
_SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson")


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
    """Return columns of a Parquet, CSV or JSON lines file as texts.

    Raises:
        InputError: the file cannot be read, has another ending, or lacks a column.
    """
    if path.suffix not in _SUFFIXES and not path.is_dir():
        raise InputError(f"{path}: expected a name that ends in {', '.join(_SUFFIXES)}")
    try:
        if path.suffix == ".csv":
            types = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, _TEXT))
            parsing = pyarrow.csv.ParseOptions(newlines_in_values=True)
            table = pyarrow.csv.read_csv(path, parse_options=parsing, convert_options=types)
        elif path.suffix == ".parquet" or path.is_dir():
            table = pq.read_table(path)
        else:
            table = pyarrow.json.read_json(path)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path}: cannot be read: {error}") from error
    if missing := [name for name in names if name not in table.column_names]:
        found = ", ".join(table.column_names)
        raise InputError(f"{path}: expected the column {missing[0]!r}, got {found}; set --id or --label")
    return pa.table({name: table[name].cast(_TEXT) for name in names})


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
