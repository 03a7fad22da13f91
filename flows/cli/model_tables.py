"""What `gloveflow models` shows, as cells and lines of text."""

import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.tracking.version_list import (
    CORPUS_TAG,
    DECISION_TAG,
    DOCUMENTS_TAG,
    OUTCOME_TAG,
    SMOKE_TAG,
    UNTIL_TAG,
    VERDICT_TAG,
    read_approval,
)

if TYPE_CHECKING:
    from tasks.registry.comparison import Answers
    from tasks.tracking.version_list import VersionRecord

WIDTH = 80


def list_answers(answers: "Answers", a: int, b: int) -> list[str]:
    """Return lines about the answers of versions `a` and `b` to the same documents."""
    lines = [f"{answers.of}: {answers.documents} documents, {answers.different} with different answers"]
    if answers.right is not None:
        names = {"both": "both", "only a": f"only {a}", "only b": f"only {b}", "neither": "neither"}
        lines.append("  right: " + ", ".join(f"{names[key]} {count}" for key, count in answers.right.items()))
    for row in answers.examples:
        truth = f" (label {row['label']})" if row["label"] else ""
        lines.append(f"  {a}: {row['a']}  {b}: {row['b']}{truth}  {' '.join(row['text'].split())[:80]}")
    return lines


def describe_version(record: "VersionRecord") -> dict[str, Any]:
    """Return what is known of a version, by name, for JSON."""
    return {
        "model": record.name,
        "version": record.version,
        "test_accuracy": record.score("lstm", "accuracy"),
        "test_macro_f1": record.score("lstm", "macro_f1"),
        "baseline_accuracy": record.score("baseline", "accuracy"),
        "baseline_macro_f1": record.score("baseline", "macro_f1"),
        "aliases": list(record.aliases),
        "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
        "age_seconds": round(time.time() - record.created),
        "corpus": record.tags.get(CORPUS_TAG),
        "documents_digest": record.tags.get(DOCUMENTS_TAG),
        "verdict": record.tags.get(VERDICT_TAG),
        "outcome": record.tags.get(OUTCOME_TAG),
        "decision": record.tags.get(DECISION_TAG),
        "smoke_test": record.tags.get(SMOKE_TAG),
        "approval": read_approval(record.tags),
        "approval_until": record.tags.get(UNTIL_TAG),
    }


def list_versions_of(records: "Sequence[VersionRecord]") -> list[str]:
    """Return lines about versions, broken at 80 columns: a table for each model, what is said of each version in it."""
    lines: list[str] = []
    for name in dict.fromkeys(record.name for record in records):
        own = [record for record in records if record.name == name]
        head, *rows = align_columns([summarize_version(record) for record in own])
        lines += ["", *textwrap.wrap(name, WIDTH), f"  {head}"] if lines else [*textwrap.wrap(name, WIDTH), f"  {head}"]
        for record, row in zip(own, rows, strict=True):
            lines.append(f"  {row}")
            values = describe_version(record)
            for key, text in (
                ("corpus", show_corpus(values)),
                ("verdict", values["verdict"]),
                ("gate", values["decision"]),
                ("approval", values["approval"]),
            ):
                if text:
                    lines += textwrap.wrap(
                        str(text)[:300],
                        WIDTH,
                        initial_indent=f"           {key + ':':10}",
                        subsequent_indent=" " * 21,
                        break_on_hyphens=False,
                    )[:3]
    return lines


def show_corpus(values: dict[str, Any]) -> str:
    """Return the name of the corpus of a version and the beginning of its digest."""
    corpus = Path(values["corpus"] or "").name
    return f"{corpus[:40]} {(values['documents_digest'] or '')[:8]}".strip()


def summarize_version(record: "VersionRecord") -> dict[str, str]:
    """Return the cells of a version in the list, by the name of their column."""
    values = describe_version(record)
    return {
        "version": f"{record.version:7}",
        "accuracy": f"{show_value(values['test_accuracy']):>8}",
        "macro F1": f"{show_value(values['test_macro_f1']):>8}",
        "age": f"{describe_age(values['age_seconds']):>6}",
        "outcome": values["outcome"] or "-",
        "aliases": ", ".join(record.aliases) or "-",
    }


def describe_age(seconds: float) -> str:
    """Return an age in the largest unit of which it holds at least two, such as `3 h`."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"


def align_columns(rows: list[Any]) -> list[str]:
    """Return rows in columns of their width; dictionaries get their keys as a head."""
    cells = [list(rows[0]), *(list(row.values()) for row in rows)] if isinstance(rows[0], dict) else rows
    widths = [max(len(row[i]) for row in cells) for i in range(len(cells[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells]


def show_value(value: object) -> str:
    """Return a value as a cell; a dash for none."""
    if value is None or value == []:
        return "-"
    if isinstance(value, float):
        return f"{value:.4f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
