"""The gate: decide whether a registered version takes the alias, and say why."""

from pipeline_config.schemas import (
    DOCUMENTS_FILE,
)
from pipeline_config.settings import PipelineConfig
from tasks.store.artifacts import ArtifactRef
from tasks.tracking import models


def pass_gate(version: str, score: float, documents: ArtifactRef, config: PipelineConfig) -> tuple[bool, str]:
    """Decide whether a version takes the alias, and say why.

    It must reach `registration.minimum`, and beat the version that has the alias by
    `registration.min_improvement`, both measured on this run's test split.
    """
    gate = config.registration
    if gate.minimum is not None and score < gate.minimum:
        return False, f"no {gate.alias}: test {gate.metric} {score:.4f} is below registration.minimum {gate.minimum}"
    champion = models.find_alias(config.registered_model, gate.alias)
    if champion is None:
        return True, f"{gate.alias}: the first one"
    if str(champion.version) == version:
        return True, f"{gate.alias}: has been it already"
    rival = _champion_score(champion.tags, documents, config)
    if rival is None:
        return True, f"{gate.alias}: version {champion.version} cannot be compared, it knows other classes"
    verdict = f"test {gate.metric} {score:.4f} against {rival:.4f} of version {champion.version}"
    if score - rival >= gate.min_improvement:
        return True, f"{gate.alias}: {verdict}"
    return False, f"version {champion.version} stays {gate.alias}: {verdict}"


def _champion_score(tags: dict[str, str], documents: ArtifactRef, config: PipelineConfig) -> float | None:
    """Return the champion's metric on this run's test split; None when its classes differ."""
    metric = config.registration.metric
    if tags.get("gloveflow.documents_digest") == documents.digest:
        return float(tags[f"test_lstm_{metric}"])
    import pyarrow.compute as pc  # here: rarely needed, and scikit-learn is slow to import
    from sklearn.metrics import accuracy_score, f1_score

    table = documents.read_table(DOCUMENTS_FILE)
    test = table.filter(pc.equal(table["split"], "test"))
    truth = test["label"].to_pylist()
    champion = models.load_model(config.registered_model, config.registration.alias)
    answers = champion(test["text"].to_pylist())
    if set(answers[0]["probabilities"]) != set(truth):
        return None
    predicted = [answer["label"] for answer in answers]
    if metric == "accuracy":
        return float(accuracy_score(truth, predicted))
    return float(f1_score(truth, predicted, average="macro", zero_division=0.0))
