"""Figures and the HTML report of an evaluation.

Takes metrics and reports of the stages; writes PNG files and one HTML file that contains its figures. The same evidence
gives the same bytes.
"""

import base64
import html
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from pipeline_config.contracts.batches import PaddingReport
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import ModelScores
from pipeline_config.schemas import FIGURES, SPLITS
from tasks.evaluation.prediction_table import ConfidentError

BLUE, ORANGE, GREY, GREEN = "#2f6fb3", "#d9822b", "#8a94a0", "#3a8f5c"
_EXCERPT = 240  # most characters of a text in the report
_TICK = 24  # most characters of a class or token beside an axis; longer names leave no room for the axes


class Evidence(NamedTuple):
    """What a report is made of.

    `scores` are those of the test split, `epochs` is the training history, `lengths` are those of the train documents,
    int64[N]. `profile`, `padding` and `coverage` are the reports of `ingest_corpus`, `bucket_corpus` and
    `align_embeddings`.
    """

    labels: list[str]
    scores: ModelScores
    epochs: pd.DataFrame
    lengths: np.ndarray
    profile: CorpusProfile
    padding: PaddingReport
    coverage: CoverageReport | None
    errors: list[ConfidentError]


def draw_figures(evidence: Evidence, directory: Path) -> None:
    """Write the figures that `FIGURES` names into a directory."""
    drawings: tuple[Callable[[Evidence], Figure], ...] = (
        draw_training,
        draw_confusion,
        draw_corpus,
        draw_lengths,
        draw_coverage,
    )
    for name, draw in zip(FIGURES, drawings, strict=True):
        draw(evidence).savefig(directory / name, dpi=110, metadata={"Software": None})


def draw_training(evidence: Evidence) -> Figure:
    """Draw the loss, and accuracy and macro F1, over the epochs."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    loss, score = figure.subplots(1, 2)
    epochs = evidence.epochs
    loss.plot(epochs["epoch"], epochs["train_loss"], "o-", color=BLUE, label="train")
    loss.plot(epochs["epoch"], epochs["validation_loss"], "o-", color=ORANGE, label="validation")
    score.plot(epochs["epoch"], epochs["validation_accuracy"], "o-", color=GREEN, label="accuracy")
    score.plot(epochs["epoch"], epochs["validation_macro_f1"], "o-", color=ORANGE, label="macro F1")
    for axes, title in ((loss, "Cross-entropy"), (score, "Validation scores")):
        axes.set(title=title, xlabel="epoch", xticks=_whole_ticks(len(epochs)))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure


def draw_confusion(evidence: Evidence) -> Figure:
    """Draw the confusion matrices of LSTM and baseline on the test split, as shares of each true class."""
    size = 1.6 + 0.75 * len(evidence.labels)
    figure = Figure(figsize=(2 * size + 0.6, size + 0.4), layout="constrained")
    models = (("LSTM", evidence.scores.lstm), ("TF-IDF baseline", evidence.scores.baseline))
    for axes, (title, scores) in zip(figure.subplots(1, 2), models, strict=True):
        counts = np.array(scores.confusion)
        share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
        axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            color = "white" if share[row, column] > 0.6 else "black"
            axes.text(
                column, row, f"{count}\n{share[row, column]:.0%}", ha="center", va="center", color=color, fontsize=8
            )
        ticks = range(len(evidence.labels))
        names = [_drawable(label) for label in evidence.labels]
        axes.set(title=title, xlabel="predicted", ylabel="true", yticks=ticks, yticklabels=names)
        axes.set_xticks(ticks, names, rotation=35, ha="right")
    return figure


def draw_corpus(evidence: Evidence) -> Figure:
    """Draw the number of documents of each class and split, and the lengths of all texts."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    classes, lengths = figure.subplots(1, 2)
    left = np.zeros(len(evidence.labels))
    for split, color in zip(SPLITS, (BLUE, ORANGE, GREEN), strict=True):
        widths = np.array([evidence.profile.documents[split].get(label, 0) for label in evidence.labels])
        classes.barh(range(len(left)), widths, left=left, color=color, label=split)
        left += widths
    classes.set(title="Documents", yticks=range(len(left)), xlabel="documents")
    classes.set_yticklabels([_drawable(label) for label in evidence.labels], fontsize=8)
    classes.legend(frameon=False, fontsize=8)
    edges, counts = zip(*evidence.profile.characters_histogram, strict=True)
    lengths.bar(range(len(edges)), counts, color=BLUE)
    ticks = range(0, len(edges), max(1, len(edges) // 6))
    lengths.set(title="Characters per text", xlabel="characters, from", ylabel="documents", xticks=ticks)
    lengths.set_xticklabels([f"{edges[i]:,}" for i in ticks], fontsize=8)
    return figure


def draw_lengths(evidence: Evidence) -> Figure:
    """Draw the token counts of the train documents with the bucket boundaries, and each scheme's padding."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    histogram, bars = figure.subplots(1, 2, width_ratios=(3, 2))
    lengths = evidence.lengths
    histogram.hist(lengths, bins=min(60, int(lengths.max())), color=BLUE)
    for boundary in evidence.padding.chosen.boundaries:
        histogram.axvline(boundary, color=ORANGE, linewidth=0.8, alpha=0.8)
    histogram.set(title="Tokens per train document, bucket boundaries", xlabel="tokens", ylabel="documents")
    schemes = evidence.padding.schemes
    drawn = bars.barh(list(schemes), [report.efficiency for report in schemes.values()], color=BLUE)
    bars.bar_label(drawn, fmt="%.3f", padding=3)
    bars.set(title="Real tokens per padded token", xlim=(0, 1.3), xticks=(0, 0.5, 1))
    return figure


def draw_coverage(evidence: Evidence) -> Figure:
    """Draw the share of tokens with a pre-trained vector per split, and the most frequent misses."""
    figure = Figure(figsize=(8, 3.8), layout="constrained")
    share, misses = figure.subplots(1, 2, width_ratios=(2, 3))
    if evidence.coverage is None:
        figure.suptitle("No pre-trained vectors: the embedding layer starts fresh")
        return figure
    tokens = {split: evidence.coverage.tokens[split] for split in SPLITS if split in evidence.coverage.tokens}
    drawn = share.bar(list(tokens), list(tokens.values()), color=BLUE)
    share.bar_label(drawn, fmt="{:.1%}")
    share.set(title="Tokens with a vector", ylim=(0, 1.1))
    words = sorted(evidence.coverage.misses.items(), key=lambda item: (-item[1], item[0]))[:15][::-1]
    names = [_drawable(word) for word, _ in words]
    misses.barh(range(len(words)), [count for _, count in words], color=GREY)
    misses.set(title="Most frequent without", xlabel="train occurrences", yticks=range(len(words)))
    misses.set_yticklabels(names, fontsize=8)
    return figure


def render_report(evidence: Evidence, figures: Path) -> str:
    """Return the report as one HTML page with the figures of a directory inside."""
    lstm, baseline = evidence.scores.lstm, evidence.scores.baseline
    models = [
        [title, *(f"{value:.4f}" for value in scores.headlines().values())]
        for title, scores in (("LSTM", lstm), ("TF-IDF + logistic regression", baseline))
    ]
    classes = [
        [label, *map(_show_score, (scores.precision, scores.recall, scores.f1)), f"{scores.support:,.0f}"]
        for label, scores in lstm.classes.items()
    ]
    errors = [
        [error.label, error.prediction, f"{error.probability:.3f}", error.text[:_EXCERPT]] for error in evidence.errors
    ]
    parts = [
        f"<h1>Evaluation on {lstm.documents:,} held-out documents</h1>",
        _table(["model", "accuracy", "macro F1", "log-loss"], models),
        _name_absent(lstm.absent_classes),
        "<h2>Per class (LSTM)</h2>",
        _table(["class", "precision", "recall", "F1", "documents"], classes),
        *(f"<h2>{title}</h2>{_image(figures / name)}" for name, title in zip(FIGURES, _TITLES, strict=True)),
        "<h2>Confident errors</h2><p>Wrong test predictions with the highest probability; some are wrong labels.</p>",
        _table(["label", "prediction", "probability", "text"], errors),
    ]
    return _PAGE.format(body="\n".join(parts))


_TITLES = ("Training", "Confusion", "Corpus", "Lengths and padding", "Embedding coverage")
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Gloveflow evaluation</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2733; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }}
table {{ border-collapse: collapse; margin: .5rem 0 }}
th, td {{ text-align: left; padding: .3rem .8rem; border-bottom: 1px solid #dfe4ea; vertical-align: top }}
th {{ background: #f3f6f9 }} img {{ max-width: 100%; display: block }} h2 {{ margin-top: 2rem }}
</style></head><body>
{body}
</body></html>
"""


def _table(header: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _name_absent(labels: tuple[str, ...]) -> str:
    """Return a paragraph that names the classes without documents; empty if there are none."""
    names = ", ".join(map(html.escape, labels))
    return f"<p>Macro F1 is over the classes with documents in the split. Without any: {names}.</p>" if labels else ""


def _show_score(score: float | None) -> str:
    return "" if score is None else f"{score:.3f}"


def _image(path: Path) -> str:
    return f'<img alt="{path.stem}" src="data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}">'


def _drawable(text: str) -> str:
    """Return a short ASCII text that matplotlib draws as it is: its font lacks letters, and $ starts a formula."""
    plain = text.encode("unicode_escape").decode("ascii")
    return (plain if len(plain) <= _TICK else f"{plain[:_TICK]}...").replace("$", r"\$")


def _whole_ticks(count: int) -> list[int]:
    return list(range(1, count + 1, max(1, count // 10)))
