"""The stage outputs of a run, one field for each."""

from typing import NamedTuple

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
