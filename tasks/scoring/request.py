"""What a scoring takes and returns: the request, the model, the result."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import ConfigError
from pipeline_config.operation import Runtime
from tasks.scoring.outputs import Output


def change_reading(reading: Reading, changes: Mapping[str, Any]) -> Reading:
    """Return a reading with other values in some fields.

    Raises:
        ConfigError: there is no such field, or a value does not fit.
    """
    try:
        return Reading.model_validate({**reading.model_dump(), **changes})
    except ValidationError as error:
        first = error.errors()[0]
        raise ConfigError(
            f"corpus.{'.'.join(map(str, first['loc']))}: {first['msg']}, got {first['input']!r}"
        ) from None


class Classifier(Protocol):
    """Classifies texts; while some are classified, others may be prepared in another thread."""

    def prepare(self, texts: pa.Array) -> Any:
        """Return texts (large_string, normalized, no nulls) as `classify` takes them.

        What is returned has `lengths` and `unknown`: the tokens of each text and how many of them are not in the
        vocabulary, int64[N], or None for both.
        """

    def classify(self, prepared: Any) -> np.ndarray:
        """Return the probabilities float64[N, C]."""

    def explain(self, texts: pa.Array, targets: np.ndarray, count: int) -> pa.Array:
        """Return up to `count` tokens of each text that weighed most for its class in `targets`, int64[N].

        Asked only of a model that `explains`; the array is one of `tasks.scoring.explanations.EXPLANATIONS`.
        """


class ScoringModel(NamedTuple):
    """A version of a registered model.

    Attributes:
        name: name of the model.
        version: its number.
        labels: the names of its classes.
        reading: how the corpus of the model was read.
        open: opens its classifier, as a context.
        explains: whether its classifier can tell which tokens weighed most.
        runtime: what computes its network.
    """

    name: str
    version: str
    labels: tuple[str, ...]
    reading: Reading
    open: Callable[[], AbstractContextManager[Classifier]]
    explains: bool = False
    runtime: Runtime = "torch"


class Request(NamedTuple):
    """What to score, and how.

    Attributes:
        sources: what `corpus.source` takes, .txt files with a text per line, or folders of .txt files.
        output: where to write.
        query: the SQL that selects the rows of a database.
        threshold: a label with a lower probability is marked as abstained.
        top_k: so many labels with their probabilities instead of the probabilities of all classes.
        explain: up to so many tokens that weighed most for the label; None is without them.
        runtime: what computes the network.
    """

    sources: Sequence[str]
    output: Output
    query: str | None = None
    threshold: float | None = None
    top_k: int | None = None
    explain: int | None = None
    runtime: Runtime = "torch"


class ScoringResult(BaseModel):
    """The result of a scoring.

    Attributes:
        output: where the rows and their answers are.
        digest: SHA-256 of the output; None for a table.
        input_digest: one SHA-256 over the input.
        rows: number of rows in the output.
        skipped: how many of them have no answer.
        labels: number of rows by label.
        abstained: number of answers below the threshold; None without one.
        rejected: number of rows without an answer, in the output or not, by reason.
        rejected_output: the file or table that lists these rows; None without any.
        undecodable: number of values of other columns than the text that are not in the encoding, by column.
        profile_output: the file or table with the profile of the texts.
        profile: the profile.
        sample: a sample of the texts as numbers (`tasks.monitoring.sample`), for monitoring.
        version: the version of the model.
        resumed_rows: how many rows an earlier, interrupted scoring had finished.
        seconds: how long it took.
        texts_per_second: answers that were computed this time, per second.
        mlflow_url: address of the page of the MLflow run, once there is one.
    """

    model_config = ConfigDict(frozen=True)

    output: str
    digest: str | None
    input_digest: str
    rows: int
    skipped: int
    labels: dict[str, int]
    abstained: int | None
    rejected: dict[str, int]
    rejected_output: str | None
    undecodable: dict[str, int]
    profile_output: str
    profile: list[dict[str, Any]]
    sample: Any = Field(None, exclude=True, repr=False)
    version: str
    resumed_rows: int
    seconds: float
    texts_per_second: float
    mlflow_url: str = ""
