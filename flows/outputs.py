"""The stage outputs of a run, one field for each, and the summary of a run."""

from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.analysis import Finding
from tasks.registry.register_model import Registration
from tasks.store.artifacts import ArtifactRef


class RunOutputs(NamedTuple):
    """Stage outputs in the order of the data; `vectors` and `embeddings` are None in a run without vectors."""

    vectors: ArtifactRef | None
    documents: ArtifactRef
    tokens: ArtifactRef
    vocabulary: ArtifactRef
    embeddings: ArtifactRef | None
    buckets: ArtifactRef
    baseline: ArtifactRef
    classifier: ArtifactRef
    evaluation: ArtifactRef

    def by_stage(self) -> dict[str, ArtifactRef]:
        """Return the outputs that exist, by the name of their stage."""
        return {output.stage: output for output in self if output is not None}


class StageSummary(BaseModel):
    """A stage of a run: whether it was cached, the seconds it took when it was computed, its facts."""

    model_config = ConfigDict(frozen=True)

    name: str
    cached: bool
    seconds: float
    facts: dict[str, Any]


class Scores(BaseModel):
    """Scores of a model on a split."""

    model_config = ConfigDict(frozen=True)

    accuracy: float
    macro_f1: float


class PipelineResult(BaseModel):
    """The summary of a run.

    Attributes:
        stages: the stages in the order of the data; with several seeds, those of the best one.
        test_scores: scores on the test split by model, the registered one first, from the verified metrics file.
        spread: mean and deviation over seeds (see `compare_seeds`); empty for a single seed.
        store: directory of each stage's output, by stage.
        report: path of the HTML report.
        verdict: what the evaluation says in words, the most important first.
    """

    model_config = ConfigDict(frozen=True)

    stages: list[StageSummary]
    test_scores: dict[str, Scores]
    spread: dict[str, float]
    registration: Registration
    mlflow_url: str
    flow_run_url: str
    store: dict[str, str]
    report: str
    verdict: tuple[Finding, ...] = ()
    seconds: float
    peak_memory_mib: float
