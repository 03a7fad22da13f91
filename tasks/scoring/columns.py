"""The columns of the answers, beside those of the input."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import ConfigError
from tasks.scoring.explanations import EXPLANATIONS, MOST_EXPLAINED


class AnswerColumns(NamedTuple):
    """Which columns answers have.

    Attributes:
        labels: the names of the classes.
        model: name of the registered model.
        version: its version.
        threshold: a label with a lower probability is marked in `abstained`; None leaves this column out.
        top_k: so many best labels with their probabilities stand in place of the probabilities of all classes.
        explain: up to so many tokens that weighed most are in `explanation`; None leaves this column out.
    """

    labels: tuple[str, ...]
    model: str
    version: str
    threshold: float | None = None
    top_k: int | None = None
    explain: int | None = None

    @property
    def fields(self) -> list[pa.Field]:
        """The columns in their order."""
        number, text = pa.float64(), pa.string()
        if self.top_k is None:
            more = [pa.field(f"p_{label}", number) for label in self.labels]
        else:
            ranks = range(2, min(self.top_k, len(self.labels)) + 1)
            more = [field for k in ranks for field in (pa.field(f"label_{k}", text), pa.field(f"score_{k}", number))]
        abstained = [] if self.threshold is None else [pa.field("abstained", pa.bool_())]
        explanation = [] if self.explain is None else [pa.field("explanation", EXPLANATIONS)]
        own = [pa.field("label", text), pa.field("score", number), *more, *abstained, *explanation]
        return [*own, pa.field("model", text), pa.field("version", text)]

    def join(self, schema: pa.Schema) -> pa.Schema:
        """Return the columns of an input and of the answers."""
        own = self.fields
        names = name_columns(schema.names, [field.name for field in own])
        fields = [field.with_name(name) for field, name in zip(schema, names, strict=True)]
        kept = {k: v for k, v in (schema.metadata or {}).items() if k == b"pandas" and names == schema.names}
        return pa.schema([*fields, *own], metadata=kept)

    def fill(self, there: pa.Array, probabilities: np.ndarray, explanations: pa.Array | None = None) -> list[pa.Array]:
        """Return the columns for rows of which some have an answer.

        Args:
            there: bool[rows], which have one.
            probabilities: float64[answers, C].
            explanations: those of the answers, if there is a column for them.
        """
        ranks = 1 if self.top_k is None else min(self.top_k, len(self.labels))
        names, best = pa.array(self.labels, pa.string()), rank_classes(probabilities, ranks)
        places = pc.if_else(
            there, pc.subtract(pc.cumulative_sum(there.cast(pa.int64())), 1), pa.scalar(None, pa.int64())
        )

        def spread(values: pa.Array) -> pa.Array:
            return values.take(places)

        ranked = [
            (
                spread(names.take(pa.array(column))),
                spread(pa.array(np.take_along_axis(probabilities, column[:, None], 1)[:, 0])),
            )
            for column in best.T
        ]
        more = [spread(pa.array(column)) for column in probabilities.T] if self.top_k is None else []
        columns = [*ranked[0], *more, *(column for pair in ranked[1:] for column in pair)]
        if self.threshold is not None:
            columns.append(pc.less(ranked[0][1], self.threshold))
        if explanations is not None:
            columns.append(spread(explanations))
        return [*columns, *(pa.repeat(pa.scalar(text), len(there)) for text in (self.model, self.version))]


def rank_classes(probabilities: np.ndarray, count: int) -> np.ndarray:
    """Return int64[N, count]: the classes of the largest probabilities, the best first; of equal ones the first."""
    if count == 1:
        best: np.ndarray = probabilities.argmax(axis=1)[:, None]
        return best
    return np.argsort(-probabilities, axis=1, kind="stable")[:, :count]


def check_answers(threshold: float | None, top_k: int | None, explain: int | None = None) -> None:
    """Check the options of the answers.

    Raises:
        ConfigError: one is out of its range.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"--threshold: expected a probability from 0 to 1, got {threshold:g}")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"--top-k: expected a number of labels of at least 1, got {top_k}")
    if explain is not None and not 1 <= explain <= MOST_EXPLAINED:
        raise ConfigError(f"--explain: expected a number of tokens from 1 to {MOST_EXPLAINED}, got {explain}")


def name_columns(names: Sequence[str], taken: Sequence[str]) -> list[str]:
    """Return the names that the columns of an input get in the output, each once and none of those that are taken.

    A column keeps its name unless a column of the answers, or a column before it, has it. Then it gets `input_` in
    front, as often as is needed for a name that no column has.
    """
    used, result = set(taken), list[str]()
    everything = used | set(names)
    for name in names:
        if name in used:
            while name in everything:
                name = f"input_{name}"
        used.add(name)
        everything.add(name)
        result.append(name)
    return result
