"""The gate: decide whether a registered version takes the alias, and give the figures and the reason.

It decides by verified content only, and by the rules of `registration.rules`, all of which must let the version pass.
What cannot be told does not pass. See the README for what happens without a champion, and with a broken one.
"""

import logging
from typing import NamedTuple

import numpy as np

from pipeline_config.contracts.analysis import PairedComparison
from pipeline_config.contracts.decision import Decision, RuleResult
from pipeline_config.errors import UnusableModelError
from pipeline_config.registration import GateRule, RegistrationConfig
from pipeline_config.settings import PipelineConfig
from tasks.evaluation.analyse import compare_with
from tasks.evaluation.metrics import SplitAnswers
from tasks.evaluation.paired import Answers, count_effective, find_detectable_gain, measure_gain
from tasks.registry.looks import count_look
from tasks.registry.rivals import HeldOut, Rival, ask_champion
from tasks.registry.rules import Evidence, judge
from tasks.registry.slices import find_slice
from tasks.tracking import models
from tasks.tracking.model_files import Version
from tasks.tracking.version_files import describe_promotion

logger = logging.getLogger(__name__)


class _Case(NamedTuple):
    """What is decided about.

    Attributes:
        version: number of the new version.
        split: the test split of this run with the answers to it.
        champion: the version with the alias; None if there is none or it is the new version.
        rival: the champion's answers; None without a champion that can be compared.
        look: which look at the test split this is.
        gate: the configuration.
    """

    version: str
    split: HeldOut
    champion: Version | None
    rival: Rival | None
    look: int
    gate: RegistrationConfig

    @property
    def spent(self) -> bool:
        """Whether the test split was used for more decisions than planned."""
        return self.look > self.gate.looks

    @property
    def seen(self) -> np.ndarray:
        """Which documents one of both models was trained on, bool[N]."""
        seen = self.split.seen_by_classifier()
        return seen if self.rival is None else seen | self.rival.seen

    def alpha_of(self, rule: GateRule) -> float:
        """Return the level of a rule at this look."""
        return rule.level / self.gate.looks if _spends(rule) else rule.level


def _spends(rule: GateRule) -> bool:
    """Return whether a rule asks for a gain over a model: it shares its level among all planned looks."""
    return rule.require == "better" and rule.against in ("champion", "baseline")


class Ruling(NamedTuple):
    """A decision, and the comparison with the champion; None without a champion that can be compared."""

    decision: Decision
    comparison: PairedComparison | None = None


def pass_gate(version: str, *, digest: str, split: HeldOut, config: PipelineConfig) -> Ruling:
    """Decide whether a version takes the alias. The caller holds the lock of the registry.

    Args:
        version: number of the version.
        digest: digest of its content.
        split: the test split of this run with the answers to it.
        config: the configuration of this run.
    """
    name, gate = config.registered_model, config.registration
    champion = models.find_alias(name, gate.alias)
    if champion is not None and str(champion.version) == version:
        case = _Case(version, split, None, None, 0, gate)
        decision = _decide(case, name)
        reason = f"{gate.alias}: this version already has the alias"
        return Ruling(decision.model_copy(update={"promoted": True, "champion": version, "reason": reason}))
    rival, problem = None, None
    if champion is not None:
        try:
            rival = ask_champion(champion, split)
        except UnusableModelError as error:
            problem = str(error)
    rival_digest = "" if champion is None else champion.tags.get(models.DIGEST_TAG, str(champion.version))
    look = count_look(name, split.digest(), (digest, rival_digest))
    case = _Case(version, split, champion, rival, look, gate)
    decision = _decide(case, name, problem)
    if look >= gate.looks:
        logger.warning("%s", _describe_spent(look, gate))
    return Ruling(decision, _compare(case))


def _compare(case: _Case) -> PairedComparison | None:
    """Return the comparison with the champion, with examples, on the documents that neither was trained on."""
    split, kept = case.split, np.flatnonzero(~case.seen)
    if case.champion is None or case.rival is None or not len(kept):
        return None
    texts = dict(zip(split.doc_ids[kept].tolist(), split.texts.take(kept).to_pylist(), strict=True))
    ours, other = (
        SplitAnswers(split.doc_ids[kept], split.truth[kept], probabilities[kept])
        for probabilities in (split.ours, case.rival.probabilities)
    )
    return compare_with(f"version {case.champion.version}", ours, other, list(split.labels), lambda _: texts)


def _decide(case: _Case, name: str, problem: str | None = None) -> Decision:
    """Return the decision about a case; `problem` is why its champion cannot be compared."""
    gate, against_champion = case.gate, case.rival is not None or (problem and case.gate.on_incomparable == "keep")
    rules = [rule for rule in gate.rules if rule.against != "champion" or against_champion]
    results = tuple(_judge(rule, case, problem) for rule in rules)
    promoted = all(result.passed for result in results) and not (problem and gate.on_incomparable == "keep")
    alpha = min((case.alpha_of(rule) for rule in gate.rules if _spends(rule)), default=0.05 / gate.looks)
    outcome, detectable = None, None
    if case.rival is not None:
        compared = [result for result in results if result.against == "champion"]
        outcome = (compared or [_judge(GateRule(), case, None)])[0].outcome
        detectable = _find_detectable(case, alpha)
    elif problem:
        outcome = "unknown"
    seen = int(case.seen.sum())
    return Decision(
        version=case.version,
        champion=None if case.champion is None else str(case.champion.version),
        promoted=promoted,
        comparable=problem is None,
        outcome=outcome,
        reason=_describe(case, name, results, problem, promoted=promoted, detectable=detectable, outcome=outcome),
        rules=results,
        documents=len(case.seen) - seen,
        seen=seen,
        look=case.look,
        alpha=alpha,
        detectable=detectable,
    )


def _judge(rule: GateRule, case: _Case, problem: str | None) -> RuleResult:
    split, least = case.split, 1
    rivals = {"baseline": "the baseline", "chance": "chance", "value": "the rule asks for"}
    other, rival, kept = split.baseline, rivals.get(rule.against, ""), ~split.seen_by_classifier()
    if rule.against == "champion":
        rival, kept, least = (
            f"version {case.champion.version if case.champion else ''}",
            ~case.seen,
            case.gate.min_documents,
        )
        other = split.ours if case.rival is None else case.rival.probabilities
    if rule.slice:
        kept, least = kept & find_slice(rule.slice, split), case.gate.min_documents
    left, unknown = int(kept.sum()), None
    if rule.against == "champion" and problem:
        unknown = f"the champion cannot be compared: {problem}"
    elif left < least:
        unknown = f"{left} test documents are left, and {least} are needed (registration.min_documents)"
    elif _spends(rule) and case.spent:
        unknown = _describe_spent(case.look, case.gate)
    answers = Answers(*(values[kept] if left else values for values in (split.truth, split.ours, other)))
    metric = rule.metric or case.gate.metric
    return judge(rule, metric, Evidence(answers, rival, split.labels, unknown), case.alpha_of(rule))


def _find_detectable(case: _Case, alpha: float) -> float | None:
    kept = ~case.seen
    if case.rival is None or not kept.any():
        return None
    split, metric = case.split, case.gate.metric
    gain = measure_gain(Answers(split.truth[kept], split.ours[kept], case.rival.probabilities[kept]), metric)
    documents = count_effective(metric, np.bincount(split.truth[kept]))
    return find_detectable_gain(documents, documents * gain.error**2 + gain.value**2, alpha)


def _describe(
    case: _Case,
    name: str,
    results: tuple[RuleResult, ...],
    problem: str | None,
    *,
    promoted: bool,
    detectable: float | None,
    outcome: str | None,
) -> str:
    """Return the reason of a decision."""
    gate, champion = case.gate, case.champion
    failed = next((result.reason for result in results if not result.passed), None)
    told = next((result.reason for result in results if result.against == "champion"), "every rule lets it pass")
    if problem and champion is not None:
        return _describe_incomparable(case, name, problem, failed, promoted=promoted)
    if champion is None:
        return f"{gate.alias}: no version had this alias" if promoted else f"not {gate.alias}: {failed}"
    start = gate.alias if promoted else f"version {champion.version} stays {gate.alias}"
    parts = [f"{start}: {told if promoted else failed}"]
    if seen := int(case.seen.sum()):
        parts.append(
            f"{seen:,} test documents are left out, because one of both versions was trained on them; "
            f"{len(case.seen) - seen:,} are left"
        )
    if detectable is not None and outcome != "better":
        left, points = len(case.seen) - seen, 100 * detectable
        parts.append(f"With these {left:,} test documents a gain below {points:.1f} points cannot be seen")
    if case.look >= gate.looks and not case.spent:
        parts.append(_describe_spent(case.look, gate))
    return ". ".join(parts)


def _describe_incomparable(case: _Case, name: str, problem: str, failed: str | None, *, promoted: bool) -> str:
    number, alias = case.champion.version if case.champion else "", case.gate.alias
    if promoted:
        return (
            f"{alias}: it replaces version {number}, which cannot be compared: {problem} "
            "(registration.on_incomparable is replace)"
        )
    if case.gate.on_incomparable == "replace":
        problem = f"{problem}. Version {case.version} does not replace it: {failed}"
    return (
        f"version {number} stays {alias}, but it cannot be compared: {problem}. To use version {case.version} in its "
        f"place, run {describe_promotion(name, case.version)}; `gloveflow doctor` says what it can mend"
    )


def _describe_spent(look: int, gate: RegistrationConfig) -> str:
    return (
        f"The test split is spent: this is decision {look} of the {gate.looks} that it is planned for "
        "(registration.looks); give the corpus new documents for the test"
    )
