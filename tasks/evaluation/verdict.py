"""The verdict in words, from the rules that the README of this room lists. Takes contract models; touches no file."""

from collections.abc import Sequence

import pyarrow as pa

from pipeline_config.contracts.analysis import Analysis, Finding, Slice
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import MODEL_NAMES, Scores
from tasks.evaluation.paired import find_detectable_gain

MOST_LINES = 8
SIGNIFICANT = 0.05
POOR_ECE = 0.05
SMALL_GAIN = 0.02  # a test split that cannot show a gain of this size is small
LOW_COVERAGE, HIGH_UNKNOWN = 0.9, 0.1  # shares of tokens
TRAINING = "training"  # the feature that tells texts of the training from new ones
_ADVICE = {MODEL_NAMES["linear"]: " registration.candidate=linear registers that one, which needs no network."}
MANY_SUSPECTS = 0.05  # share of the documents


def write_verdict(
    scores: Scores,
    analysis: Analysis,
    *,
    profile: CorpusProfile | None = None,
    epochs: pa.Table | None = None,
    best_epoch: int | None = None,
    coverage: CoverageReport | None = None,
) -> tuple[Finding, ...]:
    """Return what matters most about a classifier, in at most eight lines: against the other model, faults, notes.

    Args:
        scores: of the classifier on the test split.
        analysis: all of it except the verdict.
        profile: of the corpus; None leaves out what is told from it.
        epochs: the history of the training (schema `EPOCHS`), likewise.
        best_epoch: the epoch that was kept, from 1.
        coverage: of the vectors; None also for a run without vectors.
    """
    rules = [
        _against_chance(scores),
        _never_predicted(scores),
        _losing_slice(analysis),
        _slices_without_gain(analysis),
        _weak_slice(analysis.slices),
        _calibration(analysis),
        _still_improving(epochs, best_epoch),
        _few_documents(analysis),
        _suspected_labels(analysis, profile),
        _imbalance(profile),
        _low_coverage(coverage),
        _unknown_tokens(coverage),
    ]
    found = [finding for finding in rules if finding is not None]
    ordered = sorted(found, key=lambda finding: ("bad", "note", "good").index(finding.level))
    return (*_against_other(analysis, scores), *ordered)[:MOST_LINES]


def summarize_verdict(verdict: Sequence[Finding]) -> str:
    """Return a verdict in short: the beginning of its first line, and how many lines are bad."""
    if not verdict:
        return ""
    bad = sum(finding.level == "bad" for finding in verdict)
    start = verdict[0].text.partition(":")[0]
    return f"{start[:100]}{f'; {bad} bad' if bad else ''}"


def _against_other(analysis: Analysis, scores: Scores) -> tuple[Finding, ...]:
    """Say whether the classifier is better than what it is compared with first."""
    if not analysis.comparisons:
        return ()
    comparison = analysis.comparisons[0]
    gain, other = comparison.accuracy, comparison.other
    found = (
        f"accuracy {_percent(scores.accuracy)}, {_points(abs(gain.value))} {'more' if gain.value >= 0 else 'less'} "
        f"than the {other} (95 % interval {_range(gain.low, gain.high)})"
    )
    advice = _ADVICE.get(other, "")
    if gain.low > 0:
        return (Finding(level="good", text=f"Better than the {other}: {found}."),)
    if gain.high < 0:
        return (Finding(level="bad", text=f"Worse than the {other}: {found}.{advice}"),)
    return (Finding(level="note", text=f"Cannot be told apart from the {other}: {found}.{advice}"),)


def _against_chance(scores: Scores) -> Finding | None:
    """Say that the classifier is no better than guessing."""
    present = {label: part.support for label, part in scores.classes.items() if part.support}
    if len(present) < 2:
        return None
    chance = 1 / len(present)
    low, high = scores.intervals["balanced_accuracy"]
    if low <= chance:
        return Finding(
            level="bad",
            text=f"At chance: balanced accuracy {_percent(scores.balanced_accuracy)} (95 % interval {_percent(low)} to "
            f"{_percent(high)}), and guessing has {_percent(chance)}. Check the labels and corpus.text_column.",
        )
    largest = max(present, key=lambda label: present[label])
    share = present[largest] / sum(present.values())
    if scores.accuracy <= share:
        return Finding(
            level="bad",
            text=f"Always answering {_name(largest)} would be right as often: {_percent(share)} of the test documents. "
            "Look at macro F1, and try training.class_weights=balanced.",
        )
    return None


def _never_predicted(scores: Scores) -> Finding | None:
    names = [label for label, part in scores.classes.items() if part.support and not part.predicted]
    if not names:
        return None
    return Finding(
        level="bad",
        text=f"Never predicted: {_names(names)}, of {len(scores.classes)} classes. Give them more documents, or try "
        "training.class_weights=balanced.",
    )


def _losing_slice(analysis: Analysis) -> Finding | None:
    """Name the slice that loses most to the other model."""
    losing = [p for p in analysis.slices if not p.small and _differs(p) and _gain(p) < 0]
    if not losing:
        return None
    part = min(losing, key=_gain)
    return Finding(
        level="bad",
        text=f"Loses to the {_name_other(analysis)} on {_describe(part)}: accuracy {_percent(part.accuracy.value)} "
        f"against {_percent(part.accuracy.value - _gain(part))}{_more(losing)}. {_advise(part)}",
    )


def _slices_without_gain(analysis: Analysis) -> Finding | None:
    """Name slices in which a classifier that is better than the other model is not."""
    if not analysis.comparisons or analysis.comparisons[0].accuracy.low <= 0:
        return None
    parts = [p for p in analysis.slices if not p.small and _gain(p) <= 0 and not _differs(p)]
    if not parts:
        return None
    parts.sort(key=_gain)
    shown = [
        f"{_describe(part)}, {_percent(part.accuracy.value)} against {_percent(part.accuracy.value - _gain(part))}"
        for part in parts[:2]
    ]
    more = len(parts) - len(shown)
    others = f"; and {more} other slice{'s' * (more > 1)}" if more else ""
    return Finding(level="note", text=f"No gain over the {_name_other(analysis)} on {'; and '.join(shown)}{others}.")


def _weak_slice(slices: tuple[Slice, ...]) -> Finding | None:
    """Name the slice that is most below the rest."""
    parts = [p for p in slices if not p.small and p.feature != TRAINING]  # that slice is told otherwise
    weak = [p for p in parts if p.p_value < SIGNIFICANT and p.difference.value < 0]
    if not weak:
        return None
    part = min(weak, key=lambda part: part.difference.value)
    return Finding(
        level="note",
        text=f"Weak on {_describe(part)}: accuracy {_percent(part.accuracy.value)}, {_points(-part.difference.value)} "
        f"below the rest{_more(weak)}. {_advise(part)}",
    )


def _name_other(analysis: Analysis) -> str:
    """Return the name of the model that the slices are compared with."""
    return analysis.comparisons[0].other if analysis.comparisons else "baseline"


def _gain(part: Slice) -> float:
    """Return the accuracy less that of the other model; 0 without one."""
    return 0.0 if part.baseline_accuracy is None else part.accuracy.value - part.baseline_accuracy


def _differs(part: Slice) -> bool:
    """Return whether classifier and other model differ significantly."""
    return part.baseline_p_value is not None and part.baseline_p_value < SIGNIFICANT


def _describe(part: Slice) -> str:
    return f"{part.feature} {_name(part.value)} ({part.documents:,} documents)"


def _more(parts: list[Slice]) -> str:
    others = len(parts) - 1
    return f", and on {others} other slice{'s' * (others > 1)}" if others else ""


def _advise(part: Slice) -> str:
    """Return what to try for a weak slice."""
    if part.feature == "length":
        return "Try another model.pooling, or a larger bucketing.max_length."
    if part.feature == "unknown tokens":
        return "Try a smaller vocabulary.min_freq, or vocabulary.extend_from_vectors."
    if part.feature == "class":
        return "Give it more documents, or try training.class_weights=balanced."
    return "Give it more documents."


def _calibration(analysis: Analysis) -> Finding | None:
    calibration = analysis.calibration
    if calibration.ece.value <= POOR_ECE:
        return None
    count = sum(part.documents for part in calibration.bins)
    excess = sum(part.documents * (part.confidence - part.accuracy) for part in calibration.bins) / max(count, 1)
    side = "too sure" if excess > 0 else "not sure enough"
    return Finding(
        level="note",
        text=f"Probabilities are {_points(calibration.ece.value)} off on average (95 % interval "
        f"{_range(calibration.ece.low, calibration.ece.high)}): the classifier is {side}. Give the validation split "
        "more documents (corpus.validation_fraction), or try training.label_smoothing=0.1.",
    )


def _still_improving(epochs: pa.Table | None, best_epoch: int | None) -> Finding | None:
    """Say that the last epoch was the best, with a validation loss clearly below all before it."""
    if epochs is None or best_epoch is None or best_epoch < len(epochs):
        return None
    losses = epochs["validation_loss"].to_pylist()
    if len(losses) > 1 and losses[-1] > 0.99 * min(losses[:-1]):
        return None
    return Finding(
        level="note",
        text=f"Still improving when training ended: the last of {len(losses)} epochs was the best. Try "
        f"training.epochs={2 * len(losses)}.",
    )


def _few_documents(analysis: Analysis) -> Finding | None:
    if not analysis.comparisons:
        return None
    comparison = analysis.comparisons[0]
    disagreement = (comparison.only_classifier + comparison.only_other) / comparison.documents
    gain = find_detectable_gain(comparison.documents, disagreement, alpha=SIGNIFICANT / 2)
    if gain <= SMALL_GAIN:
        return None
    return Finding(
        level="note",
        text=f"Few test documents: with {comparison.documents:,}, differences below {_points(gain)} cannot be seen. "
        "Try a larger corpus.test_fraction, or corpus.test_source.",
    )


def _suspected_labels(analysis: Analysis, profile: CorpusProfile | None) -> Finding | None:
    if profile is None:
        return None
    documents = sum(sum(counts.values()) for counts in profile.documents.values())
    share = analysis.suspected / max(documents, 1)
    if share < MANY_SUSPECTS:
        return None
    return Finding(
        level="note",
        text=f"{analysis.suspected:,} labels are doubtful ({_percent(share)} of the documents): models that were not "
        "trained on them prefer another class. The report lists the most doubtful; correct those that are wrong.",
    )


def _imbalance(profile: CorpusProfile | None) -> Finding | None:
    if profile is None or profile.imbalance is None:
        return None
    found = profile.imbalance
    return Finding(
        level="note",
        text=f"Unequal classes: {found.largest_documents:,} train documents of {_name(found.largest)}, "
        f"{found.smallest_documents:,} of {_name(found.smallest)}. Look at macro F1, and try "
        "training.class_weights=balanced.",
    )


def _low_coverage(coverage: CoverageReport | None) -> Finding | None:
    share = coverage.tokens.get("train", 1.0) if coverage else 1.0
    if share >= LOW_COVERAGE:
        return None
    return Finding(
        level="note",
        text=f"Only {100 * share:.0f} % of the train tokens have a vector. Try other vectors (embeddings.source), "
        "another tokenization.tokenizer, or more alignment.fallbacks.",
    )


def _unknown_tokens(coverage: CoverageReport | None) -> Finding | None:
    share = coverage.oov_rate.get("test", 0.0) if coverage else 0.0
    if share <= HIGH_UNKNOWN:
        return None
    return Finding(
        level="note",
        text=f"{100 * share:.0f} % of the test tokens are outside the vocabulary. Try vocabulary.min_freq=1, a larger "
        "vocabulary.max_size, or vocabulary.extend_from_vectors.",
    )


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _points(difference: float) -> str:
    return f"{100 * difference:.1f} points"


def _range(low: float, high: float) -> str:
    return f"{100 * low:.1f} to {100 * high:.1f}"


def _name(label: str) -> str:
    return repr(label if len(label) <= 40 else f"{label[:37]}...")


def _names(labels: list[str]) -> str:
    more = f" and {len(labels) - 3} more" if len(labels) > 3 else ""
    return ", ".join(map(_name, labels[:3])) + more
