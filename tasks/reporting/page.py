"""The report as one HTML page without links to other files: `render_page`.

The templates escape every text. The page's content security policy lets no other script run than the page's own, and
fetches nothing. The numbers of rows and the lengths of texts are bounded, so that the page stays below 1 MB.
"""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline_config.contracts.analysis import Analysis, Interval
from pipeline_config.contracts.evaluation import ScoreName, Scores
from tasks.reporting import pictures
from tasks.reporting.charts import draw_interval, shorten, show
from tasks.reporting.evidence import Evidence

MOST_ROWS = 50  # of errors, suspected labels, examples of a comparison
MOST_SLICES = 120
MOST_CLASSES = 200
MOST_SAMPLES = 12  # documents whose tokens are coloured
MOST_TOKENS = 150
EXCERPT = 300  # characters of a text
NAME = 60  # characters of a name

# metric, name, whether more is better
HEADLINES: tuple[tuple[ScoreName, str, bool], ...] = (
    ("accuracy", "accuracy", True),
    ("macro_f1", "macro F1", True),
    ("balanced_accuracy", "balanced accuracy", True),
    ("micro_f1", "micro F1", True),
    ("weighted_f1", "weighted F1", True),
    ("mcc", "Matthews correlation", True),
    ("roc_auc", "ROC-AUC", True),
    ("pr_auc", "PR-AUC", True),
    ("log_loss", "log-loss", False),
    ("brier", "Brier score", False),
    ("ece", "calibration error", False),
)


def render_page(evidence: Evidence) -> str:
    """Return the report as an HTML page."""
    environment = open_environment()
    script = read_source("report.js")
    analysis, scores = evidence.analysis, evidence.scores
    classifier = next(iter(scores.values()))
    return environment.get_template("report.html").render(
        **evidence._asdict()
        | {
            "classifier": classifier,
            "comparisons": [*analysis.comparisons, *evidence.comparisons],
            "headlines": list_headlines(scores, evidence.validation),
            "classes": list_classes(evidence),
            "chosen": pictures.choose_confused(classifier),
            "slices": list_slices(analysis),
            "samples": list_samples(analysis),
            "pictures": pictures,
            "most": MOST_ROWS,
            "style": Markup(read_source("report.css")),  # noqa: S704 - a file of this package
            "script": Markup(script),  # noqa: S704 - a file of this package
            "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        }
    )


def list_headlines(scores: Mapping[str, Scores], validation: Mapping[str, Scores]) -> list[dict[str, Any]]:
    """Return a row for each metric: its values by model, with interval, and those of the validation split."""
    rows = []
    for key, name, more in HEADLINES:
        values = {model: getattr(one, key) for model, one in scores.items()}
        intervals = {model: one.intervals.get(key) for model, one in scores.items()}
        marks = [
            (values[model], *interval, style)
            for (model, interval), style in zip(intervals.items(), pictures.STYLES, strict=False)
            if interval is not None and values[model] is not None
        ]
        span = (min((mark[1] for mark in marks), default=0.0), max((mark[2] for mark in marks), default=1.0))
        rows.append(
            {
                "name": name,
                "more": more,
                "cells": [(values[model], intervals[model]) for model in scores],
                "validation": [getattr(one, key) for one in validation.values()],
                "plot": draw_interval(marks, span) if marks else "",
            }
        )
    return rows


def list_classes(evidence: Evidence) -> list[dict[str, Any]]:
    """Return a row for each class, those with the most documents if there are too many: the scores of each model."""
    first, *others = evidence.scores.values()
    names = sorted(first.classes, key=lambda label: -first.classes[label].support)[:MOST_CLASSES]
    return [
        {"label": label, "scores": first.classes[label], "others": [one.classes[label].f1 for one in others]}
        for label in first.classes
        if label in set(names)
    ]


def list_slices(analysis: Analysis) -> list[dict[str, Any]]:
    """Return a row for each slice with a small plot of its difference from the rest."""
    shown = analysis.slices[:MOST_SLICES]
    reach = max((abs(end) for part in shown for end in (part.difference.low, part.difference.high)), default=1.0)
    return [
        {"slice": part, "plot": draw_interval([_mark(part.difference, _color(part.difference))], (-reach, reach), 0.0)}
        for part in shown
    ]


def list_samples(analysis: Analysis) -> list[dict[str, Any]]:
    """Return documents with the class of the colour of each token: `p1` to `p5` speaks for the answer, `m1` against."""
    samples = []
    for sample in analysis.attributions[:MOST_SAMPLES]:
        largest = max((abs(token.weight) for token in sample.tokens), default=0.0) or 1.0
        tokens = [
            (token.token[:NAME], token.weight, _shade(token.weight / largest)) for token in sample.tokens[:MOST_TOKENS]
        ]
        samples.append({"sample": sample, "tokens": tokens, "cut": len(sample.tokens) - len(tokens)})
    return samples


def _shade(share: float) -> str:
    level = round(abs(share) * 5)
    return f"{'p' if share > 0 else 'm'}{level}" if level else "p0"


def _mark(interval: Interval, style: str) -> tuple[float, float, float, str]:
    return interval.value, interval.low, interval.high, style


def _color(difference: Interval) -> str:
    """Return the colour of a difference: good or bad if its interval leaves out zero."""
    return "good" if difference.low > 0 else "bad" if difference.high < 0 else "c4"


@cache
def open_environment() -> Environment:
    """Return the environment of the templates."""
    environment = Environment(
        loader=PackageLoader("tasks.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: show(value) if type(value) is str else value,
    )
    environment.filters |= {
        "number": lambda value: "-" if value is None else f"{value:.4f}",
        "short": lambda value: "-" if value is None else f"{value:.3f}",
        "percent": lambda value: "-" if value is None else f"{value:.1%}",
        "chance": lambda value: "<0.001" if value < 0.0005 else f"{value:.3f}",
        "points": lambda value: f"{100 * value:+.1f}",
        "count": lambda value: f"{value:,.0f}",
        "name": lambda text: shorten(str(text), NAME),
        "setting": lambda text: shorten(str(text), 2 * NAME),
        "excerpt": lambda text: shorten(str(text), EXCERPT),
    }
    return environment


def read_source(name: str) -> str:
    """Return a file beside the templates."""
    return resources.files("tasks.reporting").joinpath("templates", name).read_text("utf-8")
