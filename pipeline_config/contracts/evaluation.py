"""The scores of the classifier and of the baseline on the held-out splits, as the evaluation writes them.

The order of the fields is the order in which reports list them.
"""

from collections.abc import Iterator
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.json_file import JsonFile
from pipeline_config.schemas import METRICS_FILE

Metric = Literal["macro_f1", "accuracy", "loss"]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassScores(_Part):
    """Scores of one class; `support` is the number of its documents. A class without documents has no scores."""

    precision: float | None
    recall: float | None
    f1: float | None
    support: float

    @classmethod
    def absent(cls) -> "ClassScores":
        """Return the scores of a class without documents."""
        return cls(precision=None, recall=None, f1=None, support=0.0)


class Scores(_Part):
    """Scores of one model on one split.

    `classes` are by name. `macro_f1` is the mean over those with documents in the split; `absent_classes` are the
    others. Rows (truth) and columns (prediction) of `confusion` are in the order of the class ids.
    """

    accuracy: float
    macro_f1: float
    log_loss: float
    documents: int
    absent_classes: tuple[str, ...]
    classes: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...]

    def value_of(self, metric: Metric) -> float:
        """Return the value of a metric by the name that the configuration has for it."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "loss": self.log_loss}[metric]

    def headlines(self) -> dict[str, float]:
        """Return accuracy, macro F1 and log-loss by name."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "log_loss": self.log_loss}


class ModelScores(_Part):
    """Scores of both models on one split."""

    baseline: Scores
    lstm: Scores

    def by_model(self) -> Iterator[tuple[str, Scores]]:
        """Yield `(name of the model, scores)`."""
        yield from (("baseline", self.baseline), ("lstm", self.lstm))


class Metrics(JsonFile):
    """`metrics.json` of `evaluate_classifier`: the scores of both models on both held-out splits."""

    file_name: ClassVar[str] = METRICS_FILE

    test: ModelScores
    validation: ModelScores

    def by_split(self) -> Iterator[tuple[str, ModelScores]]:
        """Yield `(name of the split, scores)`."""
        yield from (("test", self.test), ("validation", self.validation))
