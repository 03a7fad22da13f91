"""The page of a monitoring: what changed, the words and texts that show it, and the estimated accuracy."""

from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from tasks.monitoring.accuracy import BLIND, AccuracyEstimate
from tasks.monitoring.drift import LEVEL, SMALLEST, Comparison
from tasks.monitoring.examples import Example, NamedShift
from tasks.monitoring.findings import Finding, Outcome
from tasks.monitoring.retraining import Recommendation
from tasks.reporting.page import open_environment, read_source

TITLES = {"changed": "Changed", "unchanged": "Not changed", "too_few": "Too few texts"}


class Monitoring(NamedTuple):
    """What the page shows.

    Attributes:
        model: name of the model.
        version: its version.
        window: the time of the window, in words.
        date: of this page.
        texts: texts of the window with an answer.
        scorings: how many scorings they come from.
        outcome: against the reference.
        findings: against the reference, and on the accuracy.
        before: findings against the window before; none without one.
        comparison: the tests against the reference.
        more: words that came up.
        less: words that went away.
        examples: texts that are least like the reference.
        missing: texts of the sample that could not be read for the words and examples.
        estimate: of the accuracy.
        recommendation: whether to retrain.
    """

    model: str
    version: str
    window: str
    date: str
    texts: int
    scorings: int
    outcome: Outcome
    findings: Sequence[Finding]
    before: Sequence[Finding]
    comparison: Comparison | None
    more: Sequence[NamedShift]
    less: Sequence[NamedShift]
    examples: Sequence[Example]
    missing: int
    estimate: AccuracyEstimate | None
    recommendation: Recommendation


def render_monitoring(found: Monitoring) -> str:
    """Return the page as HTML, which fetches nothing and runs no script."""
    return (
        open_environment()
        .get_template("monitoring.html")
        .render(
            **found._asdict(),
            title=TITLES[found.outcome],
            blind=BLIND,
            level=LEVEL,
            smallest=SMALLEST,
            style=Markup(read_source("report.css")),  # noqa: S704 - a file of this project
        )
    )
