"""The sections of a configuration that no training depends on: scoring, monitoring, housekeeping."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline_config.sections import Positive, Section

Runtime = Literal["torch", "onnx"]


class ScoringConfig(Section):
    """`gloveflow score`: how files of texts are classified."""

    runtime: Runtime = Field(
        "torch",
        description="what computes the network; onnx, which is ONNX Runtime, takes about two thirds of the time for "
        "the same labels and needs the extra onnx",
    )


class HousekeepingConfig(Section):
    """`gloveflow gc`: what it keeps, and how often `gloveflow serve` does it."""

    every_hours: Annotated[float, Field(ge=0.01, le=8760)] | None = Field(
        None, description="hours from one cleaning by gloveflow serve to the next; None: off"
    )
    keep: Positive = Field(
        10, description="newest runs of each experiment, versions of each model and flow runs that stay"
    )
    older_than_days: Annotated[float, Field(ge=0, le=36500)] = Field(
        7.0, description="days since the last use of what may go"
    )


class MonitoringConfig(Section):
    """`gloveflow monitor`: when retraining is recommended."""

    windows_in_a_row: Positive = Field(2, description="so many windows, one after the other, have to differ")
    cool_down_days: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        7.0, description="days after the registration of a version without a recommendation"
    )
    new_labels: Annotated[int, Field(ge=0)] = Field(
        200, description="texts whose labels have arrived, at least: `gloveflow labels`"
    )
