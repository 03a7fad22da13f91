"""The gate: decide whether a registered version takes the alias, and give the reason.

It decides by verified content: the score of the new version comes from the `metrics.json` of a checked output, and the
champion is measured on documents of a checked output. The score in the champion's tags is used where it was measured on
the same documents; it is as trustworthy as the registry, and whoever can edit a tag there can also move the alias.
"""

from pipeline_config.schemas import DOCUMENTS_FILE
from pipeline_config.settings import PipelineConfig
from tasks.store.artifacts import ArtifactRef
from tasks.tracking import models

DOCUMENTS_TAG = "gloveflow.documents_digest"


def pass_gate(version: str, *, score: float, documents: ArtifactRef, config: PipelineConfig) -> tuple[bool, str]:
    """Decide whether a version takes the alias, and give the reason.

    It must reach `registration.minimum`, and must be better by `registration.min_improvement` than the version that has
    the alias. Both are measured on the test split of this run.

    Args:
        version: number of the version.
        score: its value of `registration.metric` on the test split.
        documents: the documents of this run.
        config: the configuration of this run.
    """
    gate = config.registration
    if gate.minimum is not None and score < gate.minimum:
        return False, f"not {gate.alias}: test {gate.metric} {score:.4f} is below registration.minimum {gate.minimum}"
    champion = models.find_alias(config.registered_model, gate.alias)
    if champion is None:
        return True, f"{gate.alias}: no version had this alias"
    if str(champion.version) == version:
        return True, f"{gate.alias}: this version already has the alias"
    champion_score = _measure_champion(champion.tags, documents, config)
    if champion_score is None:
        return True, f"{gate.alias}: cannot be compared with version {champion.version}, which has other classes"
    comparison = f"test {gate.metric} {score:.4f}, version {champion.version} has {champion_score:.4f}"
    if score - champion_score >= gate.min_improvement:
        return True, f"{gate.alias}: {comparison}"
    return False, f"version {champion.version} stays {gate.alias}: {comparison}"


def score_tag(model: str, metric: str) -> str:
    """Return the name of the tag that holds a test score of a version; `model` is `lstm` or `baseline`."""
    return f"test_{model}_{metric}"


def _measure_champion(tags: dict[str, str], documents: ArtifactRef, config: PipelineConfig) -> float | None:
    """Return the champion's metric on the test split of this run; None if its classes differ."""
    metric = config.registration.metric
    if tags.get(DOCUMENTS_TAG) == documents.digest:
        return float(tags[score_tag("lstm", metric)])
    import pyarrow.compute as pc  # not at the top: rarely needed, and scikit-learn is slow to import
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
