"""The decision of the gate: `decision.json` of a registration, from which the report and the pages are made."""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.analysis import Interval
from pipeline_config.contracts.json_file import JsonFile
from pipeline_config.schemas import DECISION_FILE

Outcome = Literal["better", "equivalent", "worse", "unknown"]


class RuleResult(BaseModel):
    """What one rule of the gate found.

    Attributes:
        rule: the rule in words.
        metric: the metric that it looks at, as configured.
        against: what the value is compared with: champion, baseline, chance or value.
        value: that of the new version; None if it could not be measured.
        other: that of what it is compared with; None if it could not be measured.
        difference: new less other with the interval that decides; None for a fixed value.
        outcome: better and worse are significant; equivalent is within the margin; unknown cannot be told.
        passed: whether the rule lets the version pass.
        reason: one sentence with the figures.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    rule: str
    metric: str
    against: Literal["champion", "baseline", "chance", "value"]
    value: float | None
    other: float | None
    difference: Interval | None
    outcome: Outcome
    passed: bool
    reason: str


class Decision(JsonFile):
    """The decision of the gate about a version.

    Attributes:
        version: the version that was decided about.
        champion: the version that had the alias; None if none had.
        promoted: whether the version gets the alias.
        comparable: False if there is a champion that cannot be used or compared.
        outcome: against the champion; None without one.
        reason: one or two sentences.
        waits_until: the version waits until then for the approval of a person (ISO 8601); None if it does not.
        rules: every rule with its figures.
        documents: test documents that were compared.
        seen: test documents that were left out because one of the models was trained on them.
        look: how many times this test set has been looked at for a decision, this one included.
        alpha: probability of a wrong promotion that this look may spend.
        detectable: smallest gain of the metric that these documents can show; None without a champion.
    """

    file_name: ClassVar[str] = DECISION_FILE

    version: str
    champion: str | None
    promoted: bool
    comparable: bool
    outcome: Outcome | None
    reason: str
    rules: tuple[RuleResult, ...]
    documents: int
    seen: int
    look: int
    alpha: float
    detectable: float | None
    waits_until: str | None = None
