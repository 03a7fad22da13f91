"""What the linear model says of itself, as its training and the registered model write it."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.json_file import JsonFile

Weighting = Literal["idf", "log_ratio"]


class LinearOptions(BaseModel):
    """What `tasks.served.linear.LinearModel` needs besides its weights: `ngrams` and `pieces`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ngrams: int
    pieces: bool


class ServedLinear(BaseModel):
    """The linear part of a registered model; `temperature` divides its logits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    options: LinearOptions
    temperature: float


class LinearDescription(JsonFile):
    """`linear.json` of `train_baseline`: the linear model, and what was chosen for it.

    `labels` are the class names in the order of their ids. `temperature` divides the logits.
    """

    file_name: ClassVar[str] = "linear.json"

    options: LinearOptions
    weighting: Weighting
    regularization: float
    temperature: float
    labels: tuple[str, ...]
