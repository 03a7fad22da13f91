"""What the evaluation found beyond the scores: `analysis.json` of `evaluate_classifier`, from which the report is made.

All figures are of the test split unless they say otherwise. An interval is a 95 % bootstrap interval over documents.
"""

from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.json_file import JsonFile
from pipeline_config.schemas import ANALYSIS_FILE, Split


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Interval(_Part):
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


class ReliabilityBin(_Part):
    """Documents whose confidence (probability of the predicted class) lies in a bin, after calibration."""

    documents: int
    confidence: float
    accuracy: float


class Calibration(_Part):
    """How far confidence agrees with accuracy.

    Attributes:
        temperature: the logits are divided by it; fitted on the validation split, 1.0 without a gain there.
        ece: expected calibration error with the temperature.
        ece_before: the same with the temperature 1.0.
        log_loss: of the answers with the temperature.
        log_loss_before: with the temperature 1.0.
        bins: bins of equal numbers of documents, by rising confidence.
    """

    temperature: float
    ece: Interval
    ece_before: float
    log_loss: float
    log_loss_before: float
    bins: tuple[ReliabilityBin, ...]


class KeptShare(_Part):
    """What remains if answers below a confidence are left to a person: `kept` is a share of the documents."""

    threshold: float
    kept: float
    accuracy: float


class ClassThreshold(_Part):
    """The smallest confidence with which ten or more answers of a class reach a precision on the validation split.

    `threshold` is None if none does, and 0 if all answers together do. `precision` and `recall` are those on the test
    split with this threshold.
    """

    label: str
    wanted_precision: float
    threshold: float | None
    precision: float | None
    recall: float | None


class Slice(_Part):
    """A part of the test split: its accuracy, and the difference from the rest of the split.

    Attributes:
        feature: what the split is cut by: length, unknown tokens, class, or a kept column.
        value: which part it is.
        documents: its size.
        small: it has too few documents for a statement.
        accuracy: of the classifier.
        baseline_accuracy: of the baseline on the same documents; None without a baseline.
        difference: accuracy less that of the rest.
        p_value: of the difference, corrected for the number of slices (Holm).
        baseline_p_value: of the difference between classifier and baseline here (McNemar), corrected likewise; None
            without a baseline.
    """

    feature: str
    value: str
    documents: int
    small: bool
    accuracy: Interval
    baseline_accuracy: float | None
    difference: Interval
    p_value: float
    baseline_p_value: float | None


class PairedComparison(_Part):
    """The classifier against another model on the same documents; differences are classifier less other.

    Attributes:
        other: name of the other model.
        documents: number of documents.
        accuracy: difference of accuracy.
        macro_f1: difference of macro F1.
        p_value: exact McNemar test of the accuracies, two-sided.
        only_classifier: documents that only the classifier gets right.
        only_other: documents that only the other gets right.
        examples: some of both, those of the highest confidence.
    """

    other: str
    documents: int
    accuracy: Interval
    macro_f1: Interval
    p_value: float
    only_classifier: int
    only_other: int
    examples: tuple["Disagreement", ...]


class Disagreement(_Part):
    """A document that one model gets right and the other wrong."""

    doc_id: int
    text: str
    label: str
    classifier: str
    other: str


class ErrorExample(_Part):
    """A wrong prediction; `copies` is the number of near-copies among the errors, which are not shown."""

    doc_id: int
    text: str
    label: str
    prediction: str
    probability: float
    copies: int


class SuspectLabel(_Part):
    """A document whose label is probably wrong: `suggested` got `probability` from a model that did not see it."""

    doc_id: int
    split: Split
    text: str
    label: str
    suggested: str
    probability: float


class TokenWeight(_Part):
    """A token and how much it speaks for (above 0) or against the predicted class."""

    token: str
    weight: float


class Attribution(_Part):
    """The tokens of a document with their weights (integrated gradients), which sum to the change of the logit."""

    doc_id: int
    label: str
    prediction: str
    probability: float
    tokens: tuple[TokenWeight, ...]


class Finding(_Part):
    """A line of the verdict, in words."""

    level: Literal["good", "note", "bad"]
    text: str


class Analysis(JsonFile):
    """What the evaluation found beyond the scores.

    Attributes:
        verdict: the findings that matter most, the most important first.
        calibration: of the classifier.
        kept_shares: by rising threshold.
        class_thresholds: one for each class.
        slices: by feature, in the order of their values.
        comparisons: the classifier against the baseline.
        errors: the most confident wrong predictions.
        suspects: probably wrong labels, the most probable first; all splits.
        suspected: their number, of which `suspects` shows some.
        attributions: a sample of right and wrong predictions.
    """

    file_name: ClassVar[str] = ANALYSIS_FILE

    verdict: tuple[Finding, ...]
    calibration: Calibration
    kept_shares: tuple[KeptShare, ...]
    class_thresholds: tuple[ClassThreshold, ...]
    slices: tuple[Slice, ...]
    comparisons: tuple[PairedComparison, ...]
    errors: tuple[ErrorExample, ...]
    suspects: tuple[SuspectLabel, ...]
    suspected: int
    attributions: tuple[Attribution, ...]
