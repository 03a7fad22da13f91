"""Task `register_model`: log the classifier to MLflow, register it, and let the gate decide on the alias.

Reads weights, vocabulary, labels and metrics; writes a logged model, a model version, tags and aliases. It is
never skipped by a cache and can be repeated: a model whose content is registered already keeps its version.
"""

import logging
import tempfile
from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict

from pipeline_config.schemas import (
    METRICS_FILE,
)
from pipeline_config.settings import PipelineConfig
from tasks.registry.bundle import SERVED_MODEL, build_bundle, pip_requirements
from tasks.registry.gate import pass_gate
from tasks.store.artifacts import ArtifactRef, tree_digest
from tasks.tracking import models, runs

logger = logging.getLogger(__name__)


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
    run: runs.TrackedRun,
    classifier: ArtifactRef,
    vocabulary: ArtifactRef,
    evaluation: ArtifactRef,
    documents: ArtifactRef,
    config: PipelineConfig,
) -> Registration:
    """Register the classifier, point the challenger alias at it, and the champion alias if the gate says so."""
    name, gate = config.registered_model, config.registration
    scores = {key: value for key, value in evaluation.facts.items() if key.startswith(("lstm_", "baseline_"))}
    with tempfile.TemporaryDirectory() as folder, models.registry_lock():
        bundle = Path(folder, "bundle")
        build_bundle(bundle, classifier, vocabulary, config)
        digest = tree_digest({path.name: path for path in (*bundle.iterdir(), SERVED_MODEL)})
        version = models.find_version(name, digest)
        created = version is None
        if version is None:
            model_id = models.log_model(
                run, code=SERVED_MODEL, bundle=bundle, digest=digest,
                requirements=pip_requirements(config.tokenization.tokenizer), example="what a fine day",
            )  # fmt: skip
            tags = {**_tags(scores, documents), models.DIGEST_TAG: digest, "gloveflow.run_id": run.run_id}
            version = models.register_version(name, run, model_id, tags=tags, description=describe(evaluation))
        number = str(version.version)
        models.link_model(run.run_id, models.model_id_of(version), {f"test_{k}": v for k, v in scores.items()})
        models.set_alias(name, gate.challenger_alias, number)
        promoted, reason = pass_gate(number, scores[f"lstm_{gate.metric}"], documents, config)
        if promoted:
            models.set_alias(name, gate.alias, number)
    logger.info("%-20s %s version %s: %s", "register_model", name, number, reason)
    return Registration(model=name, version=number, created=created, promoted=promoted, alias=gate.alias, reason=reason)


def describe(evaluation: ArtifactRef) -> str:
    """Return the description of a model version, in Markdown."""
    test = evaluation.read_json(METRICS_FILE)["test"]
    rows = [
        f"| {title} | {test[name]['accuracy']:.4f} | {test[name]['macro_f1']:.4f} | {test[name]['log_loss']:.4f} |"
        for name, title in (("lstm", "LSTM"), ("baseline", "TF-IDF + logistic regression"))
    ]
    head = ["| on the test split | accuracy | macro F1 | log-loss |", "|---|---|---|---|"]
    return "\n".join([f"Classes: {', '.join(test['lstm']['classes'])}", "", *head, *rows])


def _tags(scores: dict[str, float], documents: ArtifactRef) -> dict[str, str]:
    return {
        **{f"test_{key}": str(value) for key, value in scores.items()},
        "gloveflow.documents_digest": documents.digest,
    }
