"""The scores of the network, of the linear model and of both on the held-out splits, as the evaluation writes them.

The order of the fields is the order in which reports list them.
"""

from collections.abc import Iterator
from typing import ClassVar, Final, Literal, get_args, overload

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.json_file import JsonFile
from pipeline_config.schemas import METRICS_FILE

Candidate = Literal["lstm", "linear", "hybrid"]
MODEL_NAMES: Final[dict[Candidate, str]] = {
    "hybrid": "LSTM + linear",
    "lstm": "LSTM",
    "linear": "linear model",
}  # for people
Metric = Literal["macro_f1", "accuracy", "loss"]
ScoreName = Literal[
    "accuracy",
    "macro_f1",
    "log_loss",
    "balanced_accuracy",
    "micro_f1",
    "weighted_f1",
    "mcc",
    "brier",
    "ece",
    "roc_auc",
    "pr_auc",
]
SCORE_NAMES: Final[tuple[ScoreName, ...]] = get_args(ScoreName)


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ClassScores(_Part):
    """Scores of one class against the rest. A class without documents has no scores.

    `support` is the number of its documents, `predicted` how often it was predicted. An area under a curve is None
    where the split has no documents of other classes.
    """

    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None
    pr_auc: float | None
    support: float
    predicted: int

    @classmethod
    def absent(cls, predicted: int = 0) -> "ClassScores":
        """Return the scores of a class without documents, and how often it was predicted."""
        return cls(precision=None, recall=None, f1=None, roc_auc=None, pr_auc=None, support=0.0, predicted=predicted)


class Scores(_Part):
    """Scores of one model on one split.

    Means over classes (`macro_f1`, `balanced_accuracy`, `roc_auc`, `pr_auc`) are over those with documents in the
    split; `absent_classes` names the others.

    Attributes:
        micro_f1: F1 of all decisions together, which for texts with one label is the accuracy.
        weighted_f1: mean of the F1 of the classes, weighted with their documents.
        mcc: Matthews correlation coefficient, 0 for guesses.
        brier: mean over documents of the squared differences, summed over the classes: from 0 to 2.
        ece: expected calibration error.
        roc_auc: mean of the areas of each class against the rest; None where the split has only one class.
        pr_auc: the same of precision over recall (average precision).
        intervals: ends of the 95 % bootstrap interval of each score above that is a number.
        documents: their number.
        absent_classes: names of the classes without documents.
        classes: scores of each class by name, in the order of the class ids.
        confusion: rows (truth) and columns (prediction) in the same order.
    """

    accuracy: float
    macro_f1: float
    log_loss: float
    balanced_accuracy: float
    micro_f1: float
    weighted_f1: float
    mcc: float
    brier: float
    ece: float
    roc_auc: float | None
    pr_auc: float | None
    intervals: dict[ScoreName, tuple[float, float]]
    documents: int
    absent_classes: tuple[str, ...]
    classes: dict[str, ClassScores]
    confusion: tuple[tuple[int, ...], ...]

    @overload
    def value_of(self, metric: Metric) -> float: ...

    @overload
    def value_of(self, metric: ScoreName) -> float | None: ...

    def value_of(self, metric: Metric | ScoreName) -> float | None:
        """Return a score by its name, or by the name that the configuration has for it (`loss`); None without one."""
        value: float | None = getattr(self, "log_loss" if metric == "loss" else metric)
        return value

    def headlines(self) -> dict[str, float]:
        """Return accuracy, macro F1 and log-loss by name."""
        return {"accuracy": self.accuracy, "macro_f1": self.macro_f1, "log_loss": self.log_loss}


class ModelScores(_Part):
    """Scores of the linear model (`baseline`), of the network (`lstm`), and of both together on one split."""

    baseline: Scores
    lstm: Scores
    hybrid: Scores

    def by_model(self) -> Iterator[tuple[str, Scores]]:
        """Yield `(name of the model, scores)`."""
        yield from (("baseline", self.baseline), ("lstm", self.lstm), ("hybrid", self.hybrid))

    def of(self, candidate: Candidate) -> Scores:
        """Return the scores of a candidate."""
        return {"linear": self.baseline, "lstm": self.lstm, "hybrid": self.hybrid}[candidate]


class Combination(_Part):
    """Which model is registered, and how it is put together.

    Attributes:
        candidate: the network, the linear model, or both.
        share: of the network in both, from 0 to 1, fitted on the validation split.
        network_temperature: divides the logits of the network; None if the linear model is registered alone.
        linear_temperature: divides the logits of the linear model; None if the network is registered alone.
    """

    candidate: Candidate
    share: float
    network_temperature: float | None
    linear_temperature: float | None


class Metrics(JsonFile):
    """`metrics.json` of `evaluate_classifier`: which model is registered, and the scores of all models."""

    file_name: ClassVar[str] = METRICS_FILE

    combination: Combination
    test: ModelScores
    validation: ModelScores

    @property
    def candidate(self) -> Candidate:
        """The model that is registered."""
        return self.combination.candidate

    def by_split(self) -> Iterator[tuple[str, ModelScores]]:
        """Yield `(name of the split, scores)`."""
        yield from (("test", self.test), ("validation", self.validation))
