"""Task `register_model`: log the classifier to MLflow, register it, and let the gate decide on the alias.

Reads weights, vocabulary, class names and metrics; writes a logged model, a model version, tags and aliases. It is
never cached and can be repeated: a model whose content is already registered keeps its version.
"""

import logging
import tempfile
from collections.abc import Callable
from pathlib import Path

from prefect import task
from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.analysis import Analysis, PairedComparison
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.decision import Decision
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.errors import GateError
from pipeline_config.masking import mask_secrets, masked_errors
from pipeline_config.settings import PipelineConfig
from tasks.evaluation.verdict import summarize_verdict
from tasks.monitoring.reference import make_reference
from tasks.registry.approval import ask_approval
from tasks.registry.bundle import SERVED_MODEL, build_bundle, pip_requirements
from tasks.registry.changes import give_alias, is_usable
from tasks.registry.gate import pass_gate
from tasks.registry.rivals import HeldOut, read_test_split
from tasks.registry.smoke import PASSED, try_version
from tasks.reporting.card import CardFacts, describe_version, write_card
from tasks.reporting.evidence import name_scores
from tasks.runtime.escaping import escape_markdown
from tasks.store.artifacts import ArtifactRef, tree_digest
from tasks.tracking import models, runs, versions
from tasks.tracking.model_files import Version
from tasks.tracking.version_list import (
    CORPUS_TAG,
    DECISION_TAG,
    DOCUMENTS_TAG,
    EVALUATION_TAG,
    OUTCOME_TAG,
    REGISTERED,
    RUN_TAG,
    SMOKE_TAG,
    VERDICT_TAG,
    score_tag,
)

logger = logging.getLogger(__name__)


class Registration(BaseModel):
    """What came of a registration: the version, the decision of the gate, and the comparison with the champion."""

    model_config = ConfigDict(frozen=True)

    model: str
    version: str
    created: bool
    alias: str
    decision: Decision
    comparison: PairedComparison | None = None

    @property
    def promoted(self) -> bool:
        """Whether the version has the alias."""
        return self.decision.promoted

    @property
    def reason(self) -> str:
        """Why it has it or not."""
        return self.decision.reason


@task(name="register_model", task_run_name="register model", persist_result=False)
@masked_errors()
def register_model(
    run: runs.TrackedRun,
    classifier: ArtifactRef,
    vocabulary: ArtifactRef,
    evaluation: ArtifactRef,
    documents: ArtifactRef,
    baseline: ArtifactRef,
    config: PipelineConfig,
) -> Registration:
    """Register the classifier, set the challenger alias, and set the champion alias if the gate lets it pass.

    What decides comes from verified files, never from the facts of an output, which no digest covers.
    """
    name, gate = config.registered_model, config.registration
    card = CardFacts(
        config=config,
        metrics=evaluation.read_model(Metrics),
        analysis=evaluation.read_model(Analysis),
        profile=documents.read_model(CorpusProfile),
        documents_digest=documents.digest,
        requirements=pip_requirements(config.tokenization.tokenizer),
    )
    split = read_test_split(classifier=classifier, evaluation=evaluation, baseline=baseline, documents=documents)

    def write_bundle(folder: Path) -> None:
        build_bundle(
            folder,
            classifier=classifier,
            vocabulary=vocabulary,
            baseline=baseline,
            training_texts=split.training_texts,
            reference=make_reference(documents, evaluation, vocabulary, config.tokenization.tokenizer),
            config=config,
            combination=card.metrics.combination,
            card=write_card(card),
        )

    with models.registry_lock():
        version, created = _ensure_version(run, card, evaluation, write_bundle)
        number = str(version.version)
        models.link_model(run.run_id, models.model_id_of(version), list_scores(card.metrics))
        models.set_alias(name, gate.challenger_alias, number)
        digest = version.tags[models.DIGEST_TAG]
        decision, comparison = pass_gate(number, digest=digest, split=split, config=config)
        if decision.promoted and decision.champion != number:
            decision = check_promotion(version, decision, split, config)
        versions.set_tag(name, number, DECISION_TAG, decision.reason)
        versions.set_tag(name, number, OUTCOME_TAG, decision.outcome or "none")
        if decision.promoted:
            broken = not decision.comparable and _is_broken(name, gate.alias)
            give_alias(name, number, gate, why=decision.reason, keep_previous=broken)
    logger.info("%-20s %s version %s: %s", "register_model", name, number, decision.reason)
    return Registration(
        model=name, version=number, created=created, alias=gate.alias, decision=decision, comparison=comparison
    )


def check_promotion(version: Version, decision: Decision, split: HeldOut, config: PipelineConfig) -> Decision:
    """Return a decision that promotes a version after its smoke test, and after the question to a person, if any.

    A version that passed the smoke test before is not tested again. The caller holds the lock of the registry.
    """
    name, number, gate = config.registered_model, str(version.version), config.registration
    if gate.smoke_documents and not version.tags.get(SMOKE_TAG, "").startswith(PASSED):
        tokenizer = config.tokenization.tokenizer
        result = try_version(version, split, documents=gate.smoke_documents, tokenizer=tokenizer)
        versions.set_tag(name, number, SMOKE_TAG, PASSED if result.passed else result.reason[:4000])
        decision = decision.model_copy(update={"rules": (*decision.rules, result)})
        if not result.passed:
            start = f"version {decision.champion} stays {gate.alias}" if decision.champion else f"not {gate.alias}"
            return decision.model_copy(update={"promoted": False, "reason": f"{start}: {result.reason}"})
    return decision if gate.approval == "none" else ask_approval(name, number, decision, gate)


def _ensure_version(
    run: runs.TrackedRun, card: CardFacts, evaluation: ArtifactRef, write_bundle: Callable[[Path], None]
) -> tuple[Version, bool]:
    """Return the version with this content, and whether it is new. The caller holds the lock of the registry."""
    config = card.config
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder, "bundle")
        write_bundle(bundle)
        digest = tree_digest({path.name: path for path in (*bundle.iterdir(), SERVED_MODEL)})
        version = models.find_version(config.registered_model, digest)
        if version is not None:
            return version, False
        facts = {
            DOCUMENTS_TAG: card.documents_digest,
            EVALUATION_TAG: f"{evaluation.key} {evaluation.digest}",
            models.DIGEST_TAG: digest,
            CORPUS_TAG: describe_corpus(config),
        }
        return _register_version(run, bundle, card, facts), True


def _register_version(run: runs.TrackedRun, bundle: Path, card: CardFacts, facts: dict[str, str]) -> Version:
    """Log the files of a bundle as a model of the run, and register them as a version with its scores and facts."""
    logged = models.log_model(
        run,
        code=SERVED_MODEL,
        bundle=bundle,
        digest=facts[models.DIGEST_TAG],
        requirements=list(card.requirements),
        example="what a fine day",
    )
    scores = {tag: str(score) for tag, score in list_scores(card.metrics).items()}
    scores[VERDICT_TAG] = summarize_verdict(card.analysis.verdict)
    return models.register_version(
        card.config.registered_model,
        run,
        logged,
        tags={**scores, **facts, RUN_TAG: run.run_id},
        description=describe_version(card),
    )


def _is_broken(name: str, alias: str) -> bool:
    version = models.find_alias(name, alias)
    return version is not None and not is_usable(version)


def require_champion(registration: Registration, config: PipelineConfig) -> None:
    """End a run whose champion cannot be used or compared, if the configuration says so.

    Raises:
        GateError: there is such a champion, and `registration.require_champion` is set.
    """
    if config.registration.require_champion and not registration.decision.comparable:
        raise GateError(
            f"{registration.model} version {registration.version} is registered, but {registration.reason} "
            "(registration.require_champion is set)"
        )


def describe_corpus(config: PipelineConfig) -> str:
    """Return the sources of the corpus as one line, without secrets."""
    source = config.corpus.source or ""
    return mask_secrets(source if isinstance(source, str) else ", ".join(source))


def list_scores(metrics: Metrics) -> dict[str, float]:
    """Return accuracy and macro F1 of the registered and of each single model on test, by the name of their tag."""
    test = metrics.test
    models = {REGISTERED: test.of(metrics.candidate), "lstm": test.lstm, "baseline": test.baseline}
    return {
        score_tag(model, metric): scores.value_of(metric)
        for model, scores in models.items()
        for metric in ("accuracy", "macro_f1")
    }


def describe_scores(metrics: Metrics) -> str:
    """Return the description of a run, in Markdown: its classes, and the test scores of all models."""
    rows = [
        f"| {title} | {' | '.join(f'{value:.4f}' for value in scores.headlines().values())} |"
        for title, scores in name_scores(metrics).items()
    ]
    head = ["| on the test split | accuracy | macro F1 | log-loss |", "|---|---|---|---|"]
    classes = ", ".join(escape_markdown(label) for label in metrics.test.lstm.classes)
    return "\n".join([f"Classes: {classes}", "", *head, *rows])
