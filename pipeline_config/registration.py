"""The section `registration`: the rules of the gate, and the aliases. See `pipeline_config.settings`."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline_config.contracts.evaluation import Candidate
from pipeline_config.names import require_alias, require_gate_metric, require_model_name, require_slice
from pipeline_config.sections import Positive, Section

Alias = Annotated[str, AfterValidator(require_alias)]
GateMetric = Annotated[str, AfterValidator(require_gate_metric)]
SliceName = Annotated[str, AfterValidator(require_slice)]


class GateRule(Section):
    """A rule of the gate. A version takes the alias if every rule lets it pass; what cannot be told does not pass."""

    metric: GateMetric | None = Field(
        None,
        description="accuracy, macro_f1, micro_f1, weighted_f1, balanced_accuracy, mcc, log_loss, or f1[CLASS]; None "
        "is registration.metric",
    )
    slice: SliceName | None = Field(
        None,
        description="part of the test split that is looked at: class=NAME, length>=N or length<N in words, or "
        "COLUMN=VALUE of a kept column; None is all of it",
    )
    against: Literal["champion", "baseline", "chance", "value"] = Field(
        "champion",
        description="what it is compared with: the version with the alias, the baseline of this run, answers that "
        "take no notice of the text, or the number in value",
    )
    value: float | None = Field(None, description="the number to compare with")
    require: Literal["better", "not_worse", "not_clearly_worse", "any"] = Field(
        "not_worse",
        description="better: a significant gain of more than by; not_worse: significantly not worse by margin or "
        "more; not_clearly_worse: no significant loss; any: a measured gain of at least by, significant or not",
    )
    by: Annotated[float, Field(ge=-1, le=10)] | None = Field(
        None, description="gain that better and any ask for, as a share: 0.01 is one point; None is 0"
    )
    margin: Annotated[float, Field(gt=0, le=10)] | None = Field(
        None, description="loss that not_worse does not accept, as a share; None is 0.005, half a point"
    )
    level: Annotated[float, Field(ge=0.01, le=0.5)] = Field(
        0.05, description="probability that the rule lets a version pass that it should not"
    )

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if (self.against == "value") != (self.value is not None):
            raise ValueError("value is the number for against: value; set both or none of them")
        if self.margin is not None and self.require != "not_worse":
            raise ValueError(f"margin is for require: not_worse, and require is {self.require}")
        if self.by is not None and self.require not in ("better", "any"):
            raise ValueError(f"by is for require: better or any, and require is {self.require}")
        if self.by is not None and self.by < 0 and self.require == "better":
            raise ValueError("by should be at least 0 for require: better; a loss to accept is margin of not_worse")
        return self


DEFAULT_RULES = (
    GateRule(),
    GateRule(against="chance", require="better"),
    GateRule(against="baseline", require="not_clearly_worse"),
)


class RegistrationConfig(Section):
    """`register_model`: the gate and the aliases."""

    model: Annotated[str, AfterValidator(require_model_name)] | None = Field(
        None, description="registered model name; None is gloveflow-<name>"
    )
    candidate: Candidate | Literal["best"] = Field(
        "best",
        description="what is registered: lstm, the network alone; linear, the linear model alone; hybrid, both "
        "together; best, what validation documents show",
    )
    alias: Alias = Field("champion", description="alias of the model in use")
    challenger_alias: Alias = Field("challenger", description="alias of the newest version")
    previous_alias: Alias = Field(
        "previous", description="alias of the version that had the alias before; gloveflow models rollback goes there"
    )
    metric: Literal["macro_f1", "accuracy"] = Field(
        "macro_f1", description="test metric of the rules that name none, and of the outcome"
    )
    rules: tuple[GateRule, ...] = Field(
        DEFAULT_RULES,
        description="what a version must fulfil to take the alias; a list replaces the whole default: not worse than "
        "the champion by half a point, better than chance, not clearly worse than the baseline",
    )
    looks: Annotated[int, Field(ge=1, le=365)] = Field(
        52,
        description="decisions that one test split is planned for; rules that ask for better than champion or "
        "baseline share their level among them, and let nothing pass after the last",
    )
    min_documents: Positive = Field(
        20, description="test documents that a comparison with the champion needs; fewer decide nothing"
    )
    on_incomparable: Literal["keep", "replace"] = Field(
        "keep",
        description="what happens to a champion that cannot be used or compared: keep leaves the alias; replace gives "
        "it to a version that passes the rules without a champion",
    )
    smoke_documents: Annotated[int, Field(ge=0, le=1000)] = Field(
        20,
        description="test documents to which a clean process has to give the answers of the evaluation before a new "
        "version takes the alias; 0 leaves this out, which saves about 5 seconds",
    )
    approval: Literal["none", "person", "pause"] = Field(
        "none",
        description="person: a version that the gate lets pass waits, as challenger, until a person decides with "
        "gloveflow models approve or reject; pause: the flow run waits meanwhile, and asks on its Prefect page, too",
    )
    approval_hours: Annotated[float, Field(gt=0, le=8760)] = Field(
        24.0, description="hours that such a version waits; after them the champion stays"
    )
    require_champion: bool = Field(
        False,
        description="end the run with exit code 6, after registration, if the version with the alias cannot be used or "
        "compared; otherwise the run ends well and the reason says so",
    )

    @model_validator(mode="after")
    def _keep_the_aliases_apart(self) -> Self:
        if self.alias == self.challenger_alias:
            raise ValueError(
                f"alias and challenger_alias must differ, got {self.alias} for both: every version gets the second "
                "without passing the gate"
            )
        if self.previous_alias in (self.alias, self.challenger_alias):
            raise ValueError(f"previous_alias must differ from the other two aliases, got {self.previous_alias}")
        return self
