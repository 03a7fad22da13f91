"""What `gloveflow models` shows, as cells and lines of text."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.tracking.version_list import CORPUS_TAG, DECISION_TAG, DOCUMENTS_TAG

if TYPE_CHECKING:
    from tasks.registry.comparison import Answers
    from tasks.tracking.version_list import VersionRecord


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
        "decision": record.tags.get(DECISION_TAG),
    }


def summarize_version(record: "VersionRecord") -> dict[str, str]:
    """Return the cells of a version in the list, by the name of their column."""
    values = describe_version(record)
    corpus = Path(values["corpus"] or "-").name
    return {
        "model": record.name,
        "version": str(record.version),
        "accuracy": show_value(values["test_accuracy"]),
        "macro F1": show_value(values["test_macro_f1"]),
        "aliases": ", ".join(record.aliases) or "-",
        "age": describe_age(values["age_seconds"]),
        "corpus": f"{corpus[:30]} {(values['documents_digest'] or '')[:8]}".strip(),
        "decision": (values["decision"] or "-")[:80],
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
