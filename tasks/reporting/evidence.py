"""What a report is made of: contracts of the stages and of the gate, and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

from pipeline_config.contracts.analysis import Analysis, PairedComparison
from pipeline_config.contracts.batches import PaddingReport
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.decision import Decision
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import MODEL_NAMES, Metrics, Scores
from tasks.reporting.subject import Subject


def name_scores(metrics: Metrics, split: Literal["test", "validation"] = "test") -> dict[str, Scores]:
    """Return the scores of the models by their names for people: the registered one first, then the others."""
    scores = dict(metrics.by_split())[split]
    ordered = sorted(MODEL_NAMES, key=lambda candidate: candidate != metrics.candidate)
    return {MODEL_NAMES[candidate]: scores.of(candidate) for candidate in ordered}


class Evidence(NamedTuple):
    """What a report is made of. A section whose part is None or empty is left out.

    Attributes:
        subject: what the report is about.
        labels: class names in the order of their ids.
        scores: scores on the test documents by the name of the model; the classifier is the first.
        analysis: what the evaluation found beyond the scores.
        validation: scores on the validation split by the name of the model.
        comparisons: comparisons with other models besides those of the analysis.
        decision: of the gate.
        epochs: rows of the training history.
        profile: of the corpus.
        lengths: tokens of each train document, as trained on.
        coverage: of the vectors.
        padding: of the batches.
    """

    subject: Subject
    labels: Sequence[str]
    scores: Mapping[str, Scores]
    analysis: Analysis
    validation: Mapping[str, Scores] = {}
    comparisons: Sequence[PairedComparison] = ()
    decision: Decision | None = None
    epochs: Sequence[Mapping[str, float]] = ()
    profile: CorpusProfile | None = None
    lengths: Sequence[int] = ()
    coverage: CoverageReport | None = None
    padding: PaddingReport | None = None
