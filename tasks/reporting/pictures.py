"""The charts of the report, each made from a contract."""

from collections.abc import Mapping, Sequence

import numpy as np
from markupsafe import Markup

from pipeline_config.contracts.analysis import Calibration, KeptShare
from pipeline_config.contracts.batches import PaddingReport
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.contracts.evaluation import Scores
from pipeline_config.schemas import SPLITS
from tasks.reporting.charts import Bar, Series, draw_bars, draw_confusion, draw_histogram, draw_lines

MOST_CELLS = 12  # classes of a confusion matrix
MOST_BARS = 30  # classes, sources or tokens of a bar chart
STYLES = ("c1", "c2", "c3")


def picture_training(epochs: Sequence[Mapping[str, float]]) -> list[Markup]:
    """Return the loss, and accuracy and macro F1, over the epochs."""
    charts = []
    for title, lines in (
        ("cross-entropy", {"train": "train_loss", "validation": "validation_loss"}),
        ("validation score", {"accuracy": "validation_accuracy", "macro F1": "validation_macro_f1"}),
    ):
        series = [
            Series(name, style, [(row["epoch"], row[key], f"epoch {row['epoch']}: {row[key]:.4f}") for row in epochs])
            for (name, key), style in zip(lines.items(), STYLES, strict=False)
        ]
        x_range = (1.0, max(2.0, float(len(epochs))))
        charts.append(draw_lines(series, title=f"{title} by epoch", axes=("epoch", title), x_range=x_range, whole=True))
    return charts


def picture_reliability(calibration: Calibration) -> Markup:
    """Return accuracy by confidence, with the line on which they are equal."""
    points = [
        (
            part.confidence,
            part.accuracy,
            f"confidence {part.confidence:.3f}: accuracy {part.accuracy:.3f}, {part.documents:,} documents",
        )
        for part in calibration.bins
        if part.documents
    ]
    return draw_lines(
        [Series("classifier", "c1", points)],
        title="accuracy by confidence",
        axes=("confidence", "accuracy"),
        x_range=(0, 1),
        y_range=(0, 1),
        diagonal=True,
    )


def picture_kept(kept_shares: Sequence[KeptShare]) -> Markup:
    """Return the accuracy of the kept documents by their share."""
    points = [
        (
            share.kept,
            share.accuracy,
            f"confidence from {share.threshold:.2f}: {share.kept:.1%} kept, accuracy {share.accuracy:.4f}",
        )
        for share in sorted(kept_shares, key=lambda share: share.kept)
        if share.kept
    ]
    return draw_lines(
        [Series("classifier", "c1", points)],
        title="accuracy of the kept documents by their share",
        axes=("share of documents kept", "accuracy on them"),
        x_range=(0, 1),
    )


def choose_confused(scores: Scores, most: int = MOST_CELLS) -> list[int]:
    """Return the ids of the classes with the most wrong predictions, of them or as them, in the order of the ids."""
    counts = np.array(scores.confusion)
    wrong = counts.sum(axis=0) + counts.sum(axis=1) - 2 * np.diagonal(counts)
    order = np.lexsort((np.arange(len(wrong)), -counts.sum(axis=1), -wrong))
    return sorted(order[:most].tolist())


def picture_confusion(name: str, labels: Sequence[str], scores: Scores, chosen: Sequence[int]) -> Markup:
    """Return the confusion matrix of some classes."""
    counts = [[scores.confusion[row][column] for column in chosen] for row in chosen]
    totals = [sum(scores.confusion[row]) for row in chosen]
    return draw_confusion([labels[i] for i in chosen], counts, totals, title=f"confusion matrix of {name}")


def list_confused_pairs(labels: Sequence[str], scores: Scores, most: int = 15) -> list[tuple[str, str, int, float]]:
    """Return (class, class that it is taken for, documents, share of the class) of the most frequent confusions."""
    counts = np.array(scores.confusion)
    totals = counts.sum(axis=1)
    np.fill_diagonal(counts, 0)
    order = np.argsort(-counts, axis=None, kind="stable")[:most]
    pairs = [divmod(int(position), len(labels)) for position in order]
    return [
        (labels[row], labels[column], int(counts[row, column]), float(counts[row, column] / totals[row]))
        for row, column in pairs
        if counts[row, column]
    ]


def picture_classes(profile: CorpusProfile) -> tuple[Markup, int]:
    """Return the documents of the largest classes by split, and the number of classes that are not shown."""
    sizes = {label: [profile.documents.get(split, {}).get(label, 0) for split in SPLITS] for label in profile.labels}
    largest = sorted(sizes, key=lambda label: (-sum(sizes[label]), label))[:MOST_BARS]
    bars = [
        Bar(
            label,
            [
                (count, style, f"{label}, {split}: {count:,}")
                for split, count, style in zip(SPLITS, sizes[label], STYLES, strict=True)
            ],
            f"{sum(sizes[label]):,}",
        )
        for label in largest
    ]
    legend = list(zip(SPLITS, STYLES, strict=True))
    return draw_bars(bars, title="documents by class and split", legend=legend), len(sizes) - len(largest)


def picture_characters(profile: CorpusProfile) -> Markup:
    """Return the lengths of the texts in characters."""
    edges, counts = zip(*profile.characters_histogram, strict=True)
    last = max(profile.characters.p100, edges[-1] + 1)
    return draw_histogram([*edges, last], counts, title="lengths of the texts", axes=("characters", "documents"))


def picture_tokens(lengths: Sequence[int], padding: PaddingReport | None) -> Markup:
    """Return the numbers of tokens of the train documents, with the boundaries of the buckets."""
    values = np.asarray(lengths)
    width = int(-(-(values.max() - values.min() + 1) // 40))  # whole tokens, so that every bin has as many lengths
    counts, edges = np.histogram(values, np.arange(values.min(), values.max() + width + 1, width))
    marks = [mark for mark in padding.chosen.boundaries if edges[0] <= mark <= edges[-1]] if padding else []
    return draw_histogram(
        edges.tolist(),
        counts.tolist(),
        title="tokens of the train documents",
        axes=("tokens", "documents"),
        marks=marks,
    )


def picture_coverage(coverage: CoverageReport) -> list[Markup]:
    """Return the tokens with a vector by split, the sources of the train tokens, and the most frequent misses."""
    shares: dict[str, float] = {split: coverage.tokens[split] for split in SPLITS if split in coverage.tokens}
    sources = coverage.tokens_by_source.get("train", {})
    misses = sorted(coverage.misses.items(), key=lambda item: (-item[1], item[0]))[:20]
    charts = [
        _shares("tokens with a vector", shares),
        _shares("sources of the vectors of train tokens", dict(sorted(sources.items(), key=lambda item: -item[1]))),
    ]
    if misses:
        bars = [Bar(token, [(count, "c4", f"{token}: {count:,}")], f"{count:,}") for token, count in misses]
        charts.append(draw_bars(bars, title="most frequent train tokens without a vector"))
    return charts


def picture_padding(padding: PaddingReport) -> Markup:
    """Return real tokens per padded token of each scheme; the chosen one stands out."""
    bars = [
        Bar(
            name,
            [(scheme.efficiency, "c1" if name == padding.scheme else "c4", f"{name}: {scheme.efficiency:.4f}")],
            f"{scheme.efficiency:.3f}",
        )
        for name, scheme in sorted(padding.schemes.items(), key=lambda item: -item[1].efficiency)
    ]
    return draw_bars(bars, title="real tokens per padded token", longest=1.0)


def _shares(title: str, shares: Mapping[str, float]) -> Markup:
    bars = [Bar(name, [(share, "c1", f"{name}: {share:.2%}")], f"{share:.1%}") for name, share in shares.items()]
    return draw_bars(bars[:MOST_BARS], title=title, longest=1.0)
