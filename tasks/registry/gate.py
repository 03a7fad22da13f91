"""The gate: decide whether a registered version takes the alias, and give the reason.

It decides by verified content. The score of the new version comes from the `metrics.json` of a checked output. The
champion's files are checked against their digests in the registry, and it is measured on documents of a checked output.
The score in its tags is used where it was measured on the same documents; tags are as trustworthy as the registry, and
whoever can edit them can also move the alias. A champion that cannot be compared keeps the alias.
"""

import math
from typing import NamedTuple

from pipeline_config.errors import UnusableModelError
from pipeline_config.schemas import DOCUMENTS_FILE
from pipeline_config.settings import PipelineConfig
from tasks.store.artifacts import ArtifactRef
from tasks.tracking import models
from tasks.tracking.model_files import Version, verify_version
from tasks.tracking.version_list import DOCUMENTS_TAG, score_tag


class Decision(NamedTuple):
    """What the gate decided and why; `comparable` is False if there is a champion that cannot be used or compared."""

    promoted: bool
    reason: str
    comparable: bool = True


def pass_gate(version: str, *, score: float, documents: ArtifactRef, config: PipelineConfig) -> Decision:
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
    below = gate.minimum is not None and score < gate.minimum
    refusal = f"not {gate.alias}: test {gate.metric} {score:.4f} is below registration.minimum {gate.minimum}"
    champion = models.find_alias(config.registered_model, gate.alias)
    if champion is None:
        return Decision(False, refusal) if below else Decision(True, f"{gate.alias}: no version had this alias")
    if str(champion.version) == version:
        return Decision(not below, refusal if below else f"{gate.alias}: this version already has the alias")
    try:
        champion_score = _measure_champion(champion, documents, config)
    except UnusableModelError as error:
        return Decision(
            False,
            f"version {champion.version} stays {gate.alias}, but it cannot be compared: {error}. To use version "
            f"{version} in its place, run {models.describe_promotion(config.registered_model, version)}; "
            "`gloveflow doctor` says what it can mend",
            comparable=False,
        )
    if below:
        return Decision(False, refusal)
    comparison = f"test {gate.metric} {score:.4f}, version {champion.version} has {champion_score:.4f}"
    if score - champion_score >= gate.min_improvement:
        return Decision(True, f"{gate.alias}: {comparison}")
    return Decision(False, f"version {champion.version} stays {gate.alias}: {comparison}")


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
