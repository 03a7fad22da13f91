"""Task `register_model`: log the classifier to MLflow, register it, and let the gate decide on the alias.

Reads weights, vocabulary, labels and metrics; writes a logged model, a model version, tags and aliases. It is
never skipped by a cache and can be repeated: a model whose content is registered already keeps its version.
"""

import json
import logging
import shutil
import tempfile
from importlib import metadata
from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict

from pipeline_config.schemas import (
    DOCUMENTS_FILE,
    METRICS_FILE,
    MODEL_FILE,
    PADDING_IDX,
    UNK_IDX,
    WEIGHTS_FILE,
)
from pipeline_config.settings import PipelineConfig
from tasks.tracking import runs as tracking
from tasks.store.artifacts import ArtifactRef, tree_digest
from tasks.served.tokenizers import is_columnar
from tasks.tokens.build_vocabulary import Vocabulary

logger = logging.getLogger(__name__)
_CODE = Path(__file__).parent
_SERVING = _CODE / "serving_model.py"
_REQUIRED = ("mlflow", "torch", "safetensors", "numpy", "pandas", "pyarrow")


class Registration(BaseModel):
    """What came of a registration."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: str
    created: bool
    promoted: bool
    alias: str
    reason: str


@task(name="register_model", task_run_name="register model", retries=2, retry_delay_seconds=2, persist_result=False)
def register_model(
    run: tracking.TrackedRun,
    classifier: ArtifactRef,
    vocabulary: ArtifactRef,
    evaluation: ArtifactRef,
    documents: ArtifactRef,
    config: PipelineConfig,
) -> Registration:
    """Register the classifier, point the challenger alias at it, and the champion alias if the gate says so."""
    name, gate = config.registered_model, config.registration
    scores = {key: value for key, value in evaluation.facts.items() if key.startswith(("lstm_", "baseline_"))}
    with tempfile.TemporaryDirectory() as folder, tracking.registry_lock():
        bundle = Path(folder, "bundle")
        build_bundle(bundle, classifier, vocabulary, config)
        digest = tree_digest({path.name: path for path in (*bundle.iterdir(), _SERVING)})
        version = tracking.find_version(name, digest)
        created = version is None
        if version is None:
            model_id = tracking.log_model(
                run, code=_SERVING, bundle=bundle, digest=digest,
                requirements=pip_requirements(config.tokenization.tokenizer), example="what a fine day",
            )  # fmt: skip
            tags = {**_tags(scores, documents), tracking.DIGEST_TAG: digest, "gloveflow.run_id": run.run_id}
            version = tracking.register_version(name, run, model_id, tags=tags, description=describe(evaluation))
        number = str(version.version)
        tracking.link_model(run.run_id, tracking.model_id_of(version), {f"test_{k}": v for k, v in scores.items()})
        tracking.set_alias(name, gate.challenger_alias, number)
        promoted, reason = pass_gate(number, scores[f"lstm_{gate.metric}"], documents, config)
        if promoted:
            tracking.set_alias(name, gate.alias, number)
    logger.info("%-20s %s version %s: %s", "register_model", name, number, reason)
    return Registration(model=name, version=number, created=created, promoted=promoted, alias=gate.alias, reason=reason)


def build_bundle(folder: Path, classifier: ArtifactRef, vocabulary: ArtifactRef, config: PipelineConfig) -> None:
    """Write the files that the served model is made of."""
    folder.mkdir()
    text = {
        "tokenizer": config.tokenization.tokenizer, "max_length": config.bucketing.max_length,
        "truncation": config.bucketing.truncation, "padding_idx": PADDING_IDX, "unk_idx": UNK_IDX,
    }  # fmt: skip
    known = Vocabulary.read(vocabulary)
    text |= {"specials": known.specials, "tokenizer_version": known.tokenizer}
    description = {**classifier.read_json(MODEL_FILE), "text": text, "vocabulary_digest": known.digest}
    for name, value in (("model.json", description), ("vocabulary.json", known.itos)):
        (folder / name).write_text(json.dumps(value, ensure_ascii=False, sort_keys=True, indent=0), "utf-8")
    shutil.copyfile(classifier.path(WEIGHTS_FILE), folder / "weights.safetensors")
    for name in ("network.py", "tokenizers.py"):
        shutil.copyfile(_CODE / name, folder / name)


def pip_requirements(tokenizer: str) -> list[str]:
    """Return what an environment needs to load the model, pinned to the versions of this one."""
    module, _, function = tokenizer.partition(":")
    names = list(_REQUIRED)
    if function:  # a function of the user's: the distribution that has its module, if one has
        names += metadata.packages_distributions().get(module.partition(".")[0], [])[:1]
    elif not is_columnar(tokenizer):
        names.append("torchtext")
    return [f"{name}=={metadata.version(name).partition('+')[0]}" for name in names]


def pass_gate(version: str, score: float, documents: ArtifactRef, config: PipelineConfig) -> tuple[bool, str]:
    """Decide whether a version takes the alias, and say why.

    It must reach `registration.minimum`, and beat the version that has the alias by
    `registration.min_improvement`, both measured on this run's test split.
    """
    gate = config.registration
    if gate.minimum is not None and score < gate.minimum:
        return False, f"no {gate.alias}: test {gate.metric} {score:.4f} is below registration.minimum {gate.minimum}"
    champion = tracking.find_alias(config.registered_model, gate.alias)
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


def describe(evaluation: ArtifactRef) -> str:
    """Return the description of a model version, in Markdown."""
    test = evaluation.read_json(METRICS_FILE)["test"]
    rows = [
        f"| {title} | {test[name]['accuracy']:.4f} | {test[name]['macro_f1']:.4f} | {test[name]['log_loss']:.4f} |"
        for name, title in (("lstm", "LSTM"), ("baseline", "TF-IDF + logistic regression"))
    ]
    head = ["| on the test split | accuracy | macro F1 | log-loss |", "|---|---|---|---|"]
    return "\n".join([f"Classes: {', '.join(test['lstm']['classes'])}", "", *head, *rows])


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
    champion = tracking.load_model(config.registered_model, config.registration.alias)
    answers = champion(test["text"].to_pylist())
    if set(answers[0]["probabilities"]) != set(truth):
        return None
    predicted = [answer["label"] for answer in answers]
    if metric == "accuracy":
        return float(accuracy_score(truth, predicted))
    return float(f1_score(truth, predicted, average="macro", zero_division=0.0))


def _tags(scores: dict[str, float], documents: ArtifactRef) -> dict[str, str]:
    return {
        **{f"test_{key}": str(value) for key, value in scores.items()},
        "gloveflow.documents_digest": documents.digest,
    }
