"""The gate: decide whether a registered version takes the alias, and give the reason.

It decides by verified content. The score of the new version comes from the `metrics.json` of a checked output. The
champion's files are checked against their digests in the registry, and it is measured on documents of a checked output.
The score in its tags is used where it was measured on the same documents; tags are as trustworthy as the registry, and
whoever can edit them can also move the alias. A champion that cannot be compared keeps the alias.
"""

import math

from pipeline_config.errors import UnusableModelError
from pipeline_config.schemas import DOCUMENTS_FILE
from pipeline_config.settings import PipelineConfig
from tasks.store.artifacts import ArtifactRef
from tasks.tracking import models
from tasks.tracking.model_files import Version, verify_version

DOCUMENTS_TAG = "gloveflow.documents_digest"


def pass_gate(version: str, *, score: float, documents: ArtifactRef, config: PipelineConfig) -> tuple[bool, str]:
    """Decide whether a version takes the alias, and give the reason.

    It must reach `registration.minimum`, and must be better by `registration.min_improvement` than the version that has
    the alias. Both are measured on the test split of this run. A version with the alias that cannot be used, or has
    other classes, keeps it, because there is no comparison.

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
    try:
        champion_score = _measure_champion(champion, documents, config)
    except UnusableModelError as error:
        return False, (
            f"version {champion.version} stays {gate.alias}, but it cannot be compared: {error}. To use version "
            f"{version} in its place, {models.describe_alias(gate.alias)}"
        )
    comparison = f"test {gate.metric} {score:.4f}, version {champion.version} has {champion_score:.4f}"
    if score - champion_score >= gate.min_improvement:
        return True, f"{gate.alias}: {comparison}"
    return False, f"version {champion.version} stays {gate.alias}: {comparison}"


def score_tag(model: str, metric: str) -> str:
    """Return the name of the tag that holds a test score of a version; `model` is `lstm` or `baseline`."""
    return f"test_{model}_{metric}"


def _measure_champion(champion: Version, documents: ArtifactRef, config: PipelineConfig) -> float:
    """Return the champion's metric on the test split of this run.

    Raises:
        UnusableModelError: its files or its tags cannot be used, or its classes are others.
    """
    metric = config.registration.metric
    if champion.tags.get(DOCUMENTS_TAG) == documents.digest:
        verify_version(champion)
        return _read_score(champion, score_tag("lstm", metric))
    import pyarrow.compute as pc  # not at the top: rarely needed, and scikit-learn is slow to import
    from sklearn.metrics import accuracy_score, f1_score

    table = documents.read_table(DOCUMENTS_FILE)
    test = table.filter(pc.equal(table["split"], "test"))
    truth = test["label"].to_pylist()
    answers = models.load_version(champion)(test["text"].to_pylist())
    classes, needed = sorted(answers[0]["probabilities"]), sorted(set(table["label"].to_pylist()))
    if classes != needed:
        raise UnusableModelError(f"it has the classes {', '.join(classes)}, and the corpus has {', '.join(needed)}")
    predicted = [answer["label"] for answer in answers]
    if metric == "accuracy":
        return float(accuracy_score(truth, predicted))
    return float(f1_score(truth, predicted, labels=sorted(set(truth)), average="macro", zero_division=0.0))


def _read_score(champion: Version, tag: str) -> float:
    text = champion.tags.get(tag, "")
    try:
        score = float(text)
    except ValueError:
        score = math.nan
    if not 0 <= score <= 1:
        raise UnusableModelError(
            f"models:/{champion.name}/{champion.version}: its tag {tag} is {text!r}, expected a number from 0 to 1; "
            "set it to the test score of its MLflow run"
        )
    return score
