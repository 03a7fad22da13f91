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
    REGISTERED,
    SMOKE_TAG,
    UNTIL_TAG,
    VERDICT_TAG,
    read_approval,
)

if TYPE_CHECKING:
    from pipeline_config.contracts.analysis import PairedComparison, Slice
    from tasks.registry.comparison import Answers, Comparison
    from tasks.tracking.version_list import VersionRecord

WIDTH = 80


def list_comparison(result: "Comparison", on_file: "Answers | None") -> list[str]:
    """Return lines about two versions: scores, settings that differ, vocabulary, answers, notes."""
    rows = [["", f"version {result.a}", f"version {result.b}"]]
    rows += [[key, *(_cut(show_value(value)) for value in pair)] for key, pair in result.scores.items()]
    rows += [[key, *(_cut(show_value(value)) for value in pair)] for key, pair in result.settings.items()]
    lines = align_columns(rows)
    if words := result.vocabulary:
        lines += ["", f"vocabulary: {words['a']} and {words['b']} tokens"]
        for side, number in (("a", result.a), ("b", result.b)):
            if words[f"only {side}"]:
                examples = show_value(words[f"examples of only {side}"])
                text = f"only in version {number}: {words[f'only {side}']}, such as {examples}"
                lines += wrap(text, "  ", "    ")
    for answers in filter(None, (result.answers, on_file)):
        lines += ["", *list_answers(answers, result.a, result.b)]
    return [*lines, *(line for note in result.notes for line in wrap(f"note: {note}", "", "  "))]


def list_answers(answers: "Answers", a: int, b: int) -> list[str]:
    """Return lines about the answers of versions `a` and `b` to the same documents."""
    lines = wrap(f"{answers.of}: {answers.documents} documents, {answers.different} with different answers", "", "  ")
    if answers.left_out:
        text = f"{answers.left_out} more are left out, because one of both versions was trained on them"
        lines += wrap(text, "  ", "  ")
    if answers.right is not None:
        names = {"both": "both", "only a": f"only {a}", "only b": f"only {b}", "neither": "neither"}
        lines.append("  right: " + ", ".join(f"{names[key]} {count}" for key, count in answers.right.items()))
    if answers.paired is not None:
        lines += list_differences(answers.paired, f"version {a}", f"version {b}")
    if answers.slices:
        lines += ["", *_list_slices(answers.slices, a, b)]
    if answers.examples:
        lines += ["", "  different answers:"]
    for row in answers.examples:
        truth = f" (label {row['label']})" if row["label"] else ""
        text = f"{a}: {row['a']}  {b}: {row['b']}{truth}  {' '.join(row['text'].split())[:80]}"
        lines += wrap(text, "  ", "      ")
    return lines


def list_differences(paired: "PairedComparison", ours: str, other: str | None = None) -> list[str]:
    """Return the differences of accuracy and macro F1 in points, and McNemar's test."""
    head = f"{ours} less {other or paired.other}, in points, with 95 % interval, on {paired.documents:,} documents:"
    lines = wrap(head, "  ", "  ")
    for name, difference in (("accuracy", paired.accuracy), ("macro F1", paired.macro_f1)):
        value, low, high = (100 * number for number in (difference.value, difference.low, difference.high))
        lines.append(f"    {name:10} {value:+6.1f}   {low:+.1f} to {high:+.1f}")
    chance = "<0.001" if paired.p_value < 0.0005 else f"{paired.p_value:.3f}"
    return [*lines, f"    exact McNemar test of the accuracies: p = {chance}"]


def _list_slices(slices: "Sequence[Slice]", a: int, b: int) -> list[str]:
    """Return the accuracy of two versions on parts of the documents."""
    rows = [["part", "documents", f"version {a}", f"version {b}", "p"]]
    for part in slices:
        p_value = "small" if part.small or part.baseline_p_value is None else f"{part.baseline_p_value:.3f}"
        shares = [f"{100 * (share or 0.0):5.1f} %" for share in (part.accuracy.value, part.baseline_accuracy)]
        rows.append([f"{part.feature} {part.value}"[:34], f"{part.documents:9,}", *shares, p_value])
    return [f"  {line}" for line in align_columns(rows)]


def wrap(text: str, first: str, further: str) -> list[str]:
    """Return a text in lines of at most 80 columns, each with its indent; words are not broken."""
    return textwrap.wrap(
        text, WIDTH, initial_indent=first, subsequent_indent=further, break_on_hyphens=False, break_long_words=False
    )


def _cut(text: str, most: int = 22) -> str:
    return text if len(text) <= most else f"{text[: most - 3]}..."


def describe_version(record: "VersionRecord") -> dict[str, Any]:
    """Return what is known of a version, by name, for JSON."""
    return {
        "model": record.name,
        "version": record.version,
        "test_accuracy": record.score(REGISTERED, "accuracy"),
        "test_macro_f1": record.score(REGISTERED, "macro_f1"),
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
                ("approval", show_approval(values)),
            ):
                if text:
                    lines += wrap(str(text)[:300], f"           {key + ':':10}", " " * 21)[:3]
    return lines


def show_approval(values: dict[str, Any]) -> str:
    """Return the state of the approval of a version, and until when it waits; empty if nobody was asked."""
    until = f" until {values['approval_until']}" if values["approval"] in ("waiting", "expired") else ""
    return f"{values['approval'] or ''}{until}"


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
