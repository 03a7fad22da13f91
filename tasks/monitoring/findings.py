"""What a monitoring found, in sentences: each change with what it looks like in the texts."""

from collections import Counter
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from tasks.monitoring.accuracy import AccuracyEstimate
from tasks.monitoring.drift import FEWEST, Comparison, Shift
from tasks.monitoring.examples import NamedShift
from tasks.monitoring.sample import token_coverage

Outcome = Literal["changed", "unchanged", "too_few"]
_WORDS = 5


class Finding(NamedTuple):
    """A sentence, and whether it is good news, bad news or a note."""

    level: Literal["good", "note", "bad"]
    text: str


def find_outcome(comparison: Comparison | None) -> Outcome:
    """Return what a comparison says of the window."""
    if comparison is None:
        return "too_few"
    return "changed" if comparison.changed else "unchanged"


def list_findings(
    comparison: Comparison | None,
    reference: pa.Table,
    window: pa.Table,
    words: tuple[Sequence[NamedShift], Sequence[NamedShift]],
    *,
    against: str,
) -> list[Finding]:
    """Return what changed in a window, a sentence for each change.

    Args:
        comparison: the tests; None if there are too few texts.
        reference: the sample that the window was compared with.
        window: the sample of the window.
        words: that came up, and that went away.
        against: what the reference is, for the sentences.
    """
    if comparison is None:
        return [
            Finding(
                "note",
                f"Too few texts to say anything: {len(window):,} in the window and {len(reference):,} in {against}; "
                f"{FEWEST} of each are needed.",
            )
        ]
    changes = [shift for shift in comparison.shifts if shift.changed]
    if not changes:
        return [Finding("good", f"The {len(window):,} texts of the window are like {against}, as far as can be seen.")]
    return [Finding("bad", _describe(shift, reference, window, words, against)) for shift in changes]


def describe_estimate(found: AccuracyEstimate | None) -> Finding:
    """Return what the estimates of the accuracy say."""
    if found is None:
        return Finding("note", "The accuracy cannot be estimated without texts, or without labels to start from.")
    band = f"{found.low:.1%} to {found.high:.1%}"
    text = f"Accuracy, estimated without labels: {band}; it was {found.before:.1%} on the held-out documents."
    return Finding("bad" if found.lower else "note", text)


def _describe(
    shift: Shift,
    reference: pa.Table,
    window: pa.Table,
    words: tuple[Sequence[NamedShift], Sequence[NamedShift]],
    against: str,
) -> str:
    if shift.measure == "words":
        parts = [_list_words(named, kind) for named, kind in zip(words, ("more often", "less often"), strict=True)]
        told = "; ".join(part for part in parts if part) or "no single word says how"
        return f"At least {shift.effect:.0%} of the texts are unlike {against}: {told}."
    if shift.measure == "labels":
        before, after = (Counter(sample["label"].to_pylist()) for sample in (reference, window))
        shares = {name: (before[name] / len(reference), after[name] / len(window)) for name in before | after}
        name = max(shares, key=lambda label: abs(shares[label][1] - shares[label][0]))
        return f"The label '{name}' is given to {shares[name][1]:.1%} of the texts instead of {shares[name][0]:.1%}."
    if shift.measure == "unknown words":
        shares_now = [1 - (token_coverage(sample) or 0) for sample in (window, reference)]
        return f"{shares_now[0]:.1%} of the tokens are not in the vocabulary instead of {shares_now[1]:.1%}."
    column, name, form = {
        "confidence": ("confidence", "confidence of the answers", ".2f"),
        "lengths": ("tokens", "number of tokens", ",.0f"),
    }[shift.measure]
    quarters = [np.quantile(sample[column].to_numpy(), (0.25, 0.5, 0.75)) for sample in (window, reference)]
    now, then = (f"{middle:{form}} (half of them {low:{form}} to {high:{form}})" for low, middle, high in quarters)
    return f"The {name} is {now} in the middle, instead of {then}."


def _list_words(named: Sequence[NamedShift], kind: str) -> str:
    known = [shift for shift in named if shift.word is not None][:_WORDS]
    parts = [f"'{shift.word}' ({shift.window:.1%} of the texts instead of {shift.reference:.1%})" for shift in known]
    return f"{kind}: {', '.join(parts)}" if parts else ""
