"""Charts as inline SVG: lines, bars, histograms, intervals and confusion.

Pure functions from numbers and names to `Markup`. Every name goes through `escape` or `Markup.format`, which escapes.
Colours and fonts are classes of the page's style sheet, so that a chart follows light and dark. A point or bar has a
`<title>`, which browsers show on hover.
"""

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from markupsafe import Markup, escape

WIDTH = 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 12, 26, 38  # margins of charts with axes
_NAMES = 132  # width of the names beside horizontal bars
_ROW = 19
_DIRECTION = re.compile("[\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")


class Series(NamedTuple):
    """A line: its name, the class of its colour (`c1`, `c2`, `c3`), and its points as (x, y, text on hover)."""

    name: str
    style: str
    points: Sequence[tuple[float, float, str]]


class Bar(NamedTuple):
    """A horizontal bar of one or more parts: its name, (length, class, text on hover) of each part, and a text."""

    name: str
    parts: Sequence[tuple[float, str, str]]
    text: str


def draw_lines(
    series: Sequence[Series],
    *,
    title: str,
    axes: tuple[str, str],
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
    diagonal: bool = False,
    whole: bool = False,
) -> Markup:
    """Draw lines over two axes.

    Args:
        series: the lines.
        title: what a screen reader says.
        axes: names of the axes.
        x_range: ends of the x axis; None goes by the points.
        y_range: the same of the y axis.
        diagonal: add the line of equal x and y.
        whole: number the x axis at whole numbers only.
    """
    height = 250
    (x_low, x_high) = x_range or _spread(point[0] for line in series for point in line.points)
    (y_low, y_high) = y_range or _spread((point[1] for line in series for point in line.points), margin=0.04)

    def across(x: float) -> float:
        return _LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

    def up(y: float) -> float:
        return height - _BOTTOM - (y - y_low) / (y_high - y_low) * (height - _TOP - _BOTTOM)

    x_ticks = [tick for tick in _ticks(x_low, x_high) if not whole or tick == int(tick)]
    parts = [*_grid(x_ticks, _ticks(y_low, y_high), across, up, height)]
    if diagonal:
        low, high = max(x_low, y_low), min(x_high, y_high)
        parts.append(_node("line", "ideal", x1=across(low), y1=up(low), x2=across(high), y2=up(high)))
    for line in series:
        path = " ".join(f"{across(x):.1f},{up(y):.1f}" for x, y, _ in line.points)
        parts.append(_node("polyline", f"line {line.style}", points=path))
        parts += [
            _node("circle", f"dot {line.style}", hint, cx=across(x), cy=up(y), r=3.5) for x, y, hint in line.points
        ]
    if len(series) > 1:
        parts += _legend([(line.name, line.style) for line in series])
    parts.append(_text(axes[0], (_LEFT + WIDTH - _RIGHT) / 2, height - 5, "axis mid"))
    parts.append(_text(axes[1], 12, (_TOP + height - _BOTTOM) / 2, "axis mid", turn=True))
    return _drawing(parts, title, WIDTH, height)


def draw_bars(
    bars: Sequence[Bar], *, title: str, longest: float | None = None, legend: Sequence[tuple[str, str]] = ()
) -> Markup:
    """Draw horizontal bars below each other; `longest` is the value at the right end, `legend` has (name, class)."""
    top = 24 if legend else 4
    height = top + _ROW * len(bars) + 4
    space = WIDTH - _NAMES - max((_width(bar.text) for bar in bars), default=0) * 6.4 - 10
    scale = space / (longest or max((sum(part[0] for part in bar.parts) for bar in bars), default=0) or 1)
    parts = _legend(legend, left=_NAMES)
    for number, bar in enumerate(bars):
        y, x = top + _ROW * number, float(_NAMES)
        parts.append(_text(shorten(bar.name, 20), _NAMES - 6, y + 13, "name end", hint=bar.name))
        for length, style, hint in bar.parts:
            if length:
                parts.append(_node("rect", style, hint, x=x, y=y + 2, width=length * scale, height=_ROW - 5))
                x += length * scale
        parts.append(_text(bar.text, x + 4, y + 13, "value"))
    return _drawing(parts, title, WIDTH, height)


def draw_histogram(
    edges: Sequence[float], counts: Sequence[int], *, title: str, axes: tuple[str, str], marks: Sequence[float] = ()
) -> Markup:
    """Draw counts of bins of equal width on the page; `edges` has one more entry, `marks` are values with a line.

    Args:
        edges: ends of the bins, rising. They may have other widths than each other.
        counts: number in each bin.
        title: what a screen reader says.
        axes: names of the axes.
        marks: values at which a vertical line stands.
    """
    height, bins = 230, len(counts)
    step = (WIDTH - _LEFT - _RIGHT) / max(bins, 1)
    _, top = _spread([0, *counts])

    def up(count: float) -> float:
        return height - _BOTTOM - count / top * (height - _TOP - _BOTTOM)

    parts = [*_grid([], _ticks(0, top), float, up, height)]
    for number, count in enumerate(counts):
        hint = f"{edges[number]:,.0f} to {edges[number + 1]:,.0f}: {count:,}"
        x, y = _LEFT + number * step, up(count)
        parts.append(_node("rect", "c1", hint, x=x + 0.5, y=y, width=max(step - 1, 0.5), height=height - _BOTTOM - y))
    for mark in marks:
        x = _LEFT + _position(mark, edges) * step
        parts.append(_node("line", "mark", f"{mark:,.0f}", x1=x, y1=_TOP, x2=x, y2=height - _BOTTOM))
    for number in range(0, bins + 1, max(1, math.ceil(bins / 6))):
        parts.append(_text(f"{edges[number]:,.0f}", _LEFT + number * step, height - _BOTTOM + 14, "axis mid"))
    parts.append(_text(axes[0], (_LEFT + WIDTH - _RIGHT) / 2, height - 5, "axis mid"))
    parts.append(_text(axes[1], 12, (_TOP + height - _BOTTOM) / 2, "axis mid", turn=True))
    return _drawing(parts, title, WIDTH, height)


def draw_confusion(
    labels: Sequence[str], counts: Sequence[Sequence[int]], totals: Sequence[int], *, title: str
) -> Markup:
    """Draw a confusion matrix, darker by the share of the true class; `totals` are the documents of each class."""
    cell = 64 if len(labels) <= 4 else 48 if len(labels) <= 7 else 36
    left, top = 118, 92
    parts = [_text("true", left - 8, top - 8, "axis end"), _text("predicted", left + 2, 12, "axis")]
    for number, label in enumerate(labels):
        middle = (number + 0.5) * cell
        parts.append(_text(shorten(label, 17), left - 8, top + middle + 4, "name end", hint=label))
        parts.append(_text(shorten(label, 12), left + middle + 4, top - 8, "name", hint=label, slant=True))
        for column, count in enumerate(counts[number]):
            share = count / totals[number] if totals[number] else 0.0
            x, y = left + column * cell, top + number * cell
            hint = f"{label} taken for {labels[column]}: {count:,} of {totals[number]:,} ({share:.1%})"
            if column == number:
                hint = f"{label} recognised: {count:,} of {totals[number]:,} ({share:.1%})"
            kind = "right" if column == number else "wrong"
            style = f"cell {kind} h{math.ceil(share * 10)}"
            parts.append(_node("rect", style, hint, x=x + 1, y=y + 1, width=cell - 2, height=cell - 2))
            if count:
                ink = "ink strong" if share > 0.5 else "ink"
                parts.append(_text(_compact(count), x + cell / 2, y + cell / 2 + 4, f"{ink} mid"))
    size = len(labels) * cell
    return _drawing(parts, title, left + size + 64, top + size + 6, fixed=True)


def draw_interval(
    marks: Sequence[tuple[float, float, float, str]], span: tuple[float, float], zero: float | None = None
) -> Markup:
    """Draw intervals on one small axis, for a cell of a table: (value, low, high, class) of each, and a reference."""
    width, row = 130, 11
    height = row * len(marks) + 3

    def across(value: float) -> float:
        return 3 + (min(max(value, span[0]), span[1]) - span[0]) / ((span[1] - span[0]) or 1) * (width - 6)

    parts = [] if zero is None else [_node("line", "ideal", x1=across(zero), y1=0, x2=across(zero), y2=height)]
    for number, (value, low, high, style) in enumerate(marks):
        y = row * (number + 0.5) + 1.5
        parts.append(_node("line", f"line {style}", x1=across(low), y1=y, x2=across(high), y2=y))
        hint = f"{value:.4f} ({low:.4f} to {high:.4f})"
        parts.append(_node("circle", f"dot {style}", hint, cx=across(value), cy=y, r=3))
    return _drawing(parts, "interval", width, height, fixed=True)


def shorten(text: str, width: int) -> str:
    """Return a text on one line that takes at most `width` narrow characters; a wide one, as in Chinese, takes two."""
    line = " ".join(show(text[:10_000]).split())
    if _width(line) <= width:
        return line
    kept, taken = "", 0
    for char in line:
        taken += _width(char)
        if taken > width - 1:
            break
        kept += char
    return kept.rstrip() + "…"


def show(text: str) -> str:
    """Return a text without characters that change the direction of what follows, and with other controls shown."""
    return _CONTROL.sub("\ufffd", _DIRECTION.sub("", text))


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _drawing(parts: Iterable[Markup], title: str, width: float, height: float, *, fixed: bool = False) -> Markup:
    """Return the SVG of parts; a fixed one keeps its size on a narrow page, where its box scrolls."""
    style, size = "fixed" if fixed else "chart", (_short(width), _short(height))
    return Markup(
        '<svg class="{0}" viewBox="0 0 {1} {2}" width="{1}" height="{2}" role="img" aria-label="{3}">{4}</svg>'
    ).format(style, *size, show(title), Markup("").join(parts))


def _node(name: str, style: str, hint: str = "", **places: float | str) -> Markup:
    """Return an element with a class, attributes, and a text on hover."""
    written = "".join(
        f' {key}="{escape(value if isinstance(value, str) else _short(value))}"' for key, value in places.items()
    )
    inside = f"<title>{escape(show(hint))}</title>" if hint else ""
    return Markup(f'<{name} class="{escape(style)}"{written}>{inside}</{name}>')  # noqa: S704 - escaped above


def _text(
    text: str, x: float, y: float, style: str, *, hint: str = "", turn: bool = False, slant: bool = False
) -> Markup:
    """Return a text at a place; `turn` and `slant` rotate it by 90 and 35 degrees."""
    angle = -90 if turn else -35 if slant else 0
    place = Markup(' transform="rotate({} {} {})"').format(angle, _short(x), _short(y)) if angle else Markup("")
    inside = Markup("<title>{}</title>").format(show(hint)) if hint and hint != text else Markup("")
    return Markup('<text class="{}" x="{}" y="{}"{}>{}{}</text>').format(
        style, _short(x), _short(y), place, show(text), inside
    )


def _legend(entries: Sequence[tuple[str, str]], left: float = _LEFT) -> list[Markup]:
    parts, x = [], left
    for name, style in entries:
        parts.append(_node("rect", style, x=x, y=6, width=10, height=10))
        parts.append(_text(shorten(name, 24), x + 14, 15, "value"))
        x += 14 + _width(shorten(name, 24)) * 6.4 + 14
    return parts


def _grid(
    x_ticks: Iterable[float],
    y_ticks: Iterable[float],
    across: Callable[[float], float],
    up: Callable[[float], float],
    height: float,
) -> Iterable[Markup]:
    """Yield grid lines with their numbers."""
    for tick in y_ticks:
        yield _node("line", "grid", x1=_LEFT, y1=up(tick), x2=WIDTH - _RIGHT, y2=up(tick))
        yield _text(_compact(tick), _LEFT - 5, up(tick) + 4, "axis end")
    for tick in x_ticks:
        yield _node("line", "grid", x1=across(tick), y1=_TOP, x2=across(tick), y2=height - _BOTTOM)
        yield _text(_compact(tick), across(tick), height - _BOTTOM + 14, "axis mid")


def _ticks(low: float, high: float, wanted: int = 5) -> list[float]:
    """Return round numbers between two numbers."""
    raw = (high - low) / wanted
    unit = 10 ** math.floor(math.log10(raw))
    step = next(unit * factor for factor in (1, 2, 2.5, 5, 10) if unit * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [round(number * step, 10) for number in range(first, math.floor(high / step + 1e-9) + 1)]


def _spread(values: Iterable[float], margin: float = 0.0) -> tuple[float, float]:
    """Return the range of values, never empty, with a share of it as a margin at both ends."""
    kept = list(values) or [0.0, 1.0]
    low, high = min(kept), max(kept)
    more = margin * (high - low) if high > low else 0.5
    return low - more, high + more


def _position(value: float, edges: Sequence[float]) -> float:
    """Return where a value lies among edges, in bins from the left."""
    for number, (low, high) in enumerate(itertools.pairwise(edges)):
        if value <= high:
            return number + max(0.0, (value - low) / (high - low))
    return float(len(edges) - 1)


def _compact(value: float) -> str:
    """Return a number with few characters: 1200 as 1.2k."""
    for limit, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.4g}"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
