import re
from html.parser import HTMLParser
from xml.etree import ElementTree as ET

import pytest

from tasks.reporting.charts import (
    Bar,
    Series,
    draw_bars,
    draw_confusion,
    draw_histogram,
    draw_interval,
    draw_lines,
    shorten,
    show,
)
from tests.made_reports import HOSTILE


def parse(chart: str) -> ET.Element:
    return ET.fromstring(chart)


def titles(chart: str) -> list[str]:
    return [str(node.text) for node in parse(chart).iter("title")]


def boxes(chart: str, style: str) -> list[dict[str, float]]:
    found = [node for node in parse(chart).iter("rect") if node.get("class") == style]
    return [{key: float(node.get(key)) for key in ("x", "y", "width", "height")} for node in found]


def test_points_lie_where_their_values_are():
    chart = draw_lines(
        [Series("train", "c1", [(0, 0, "low"), (1, 1, "middle"), (2, 2, "high")])], title="loss", axes=("epoch", "loss")
    )
    dots = [(float(node.get("cx")), float(node.get("cy"))) for node in parse(chart).iter("circle")]
    (left, low), middle, (right, high) = dots
    assert left < right
    assert low > high  # y grows downwards
    assert middle == ((left + right) / 2, (low + high) / 2)
    assert titles(chart) == ["low", "middle", "high"]


def test_bars_are_as_long_as_their_values_and_parts_follow_each_other():
    chart = draw_bars(
        [Bar("a", [(30, "c1", "a: 30"), (10, "c2", "a: 10")], "40"), Bar("b", [(20, "c1", "b: 20")], "20")], title="x"
    )
    (first, third), (second,) = boxes(chart, "c1"), boxes(chart, "c2")
    assert first["width"] == pytest.approx(3 * second["width"], abs=0.2)
    assert third["width"] == pytest.approx(2 * second["width"], abs=0.2)
    assert second["x"] == pytest.approx(first["x"] + first["width"], abs=0.2)
    assert third["y"] > first["y"]


def test_bins_are_as_high_as_their_counts_and_marks_stand_between_the_edges():
    chart = draw_histogram([0, 10, 20], [4, 2], title="x", axes=("tokens", "documents"), marks=[15])
    first, second = boxes(chart, "c1")
    assert first["height"] == pytest.approx(2 * second["height"], abs=0.2)
    (mark,) = [float(node.get("x1")) for node in parse(chart).iter("line") if node.get("class") == "mark"]
    assert mark == pytest.approx(second["x"] + second["width"] / 2, abs=0.3)
    assert titles(chart) == ["0 to 10: 4", "10 to 20: 2", "15"]


def test_cells_of_a_confusion_matrix_say_what_was_taken_for_what():
    chart = draw_confusion(["a", "b"], [[8, 2], [0, 5]], [10, 5], title="x")
    assert "a taken for b: 2 of 10 (20.0%)" in titles(chart)
    assert "b recognised: 5 of 5 (100.0%)" in titles(chart)
    assert re.findall(r'class="cell (\w+) (h\d+)"', chart) == [
        ("right", "h8"),
        ("wrong", "h2"),
        ("wrong", "h0"),
        ("right", "h10"),
    ]


def test_a_class_without_documents_has_empty_cells():
    assert "b taken for a: 0 of 0 (0.0%)" in titles(draw_confusion(["a", "b"], [[1, 0], [0, 0]], [1, 0], title="x"))


def test_an_interval_is_drawn_within_its_span():
    chart = draw_interval([(0.5, 0.25, 0.75, "good"), (2.0, 1.5, 9.0, "bad")], (0.0, 1.0), 0.0)
    lines = [(float(node.get("x1")), float(node.get("x2"))) for node in parse(chart).iter("line")]
    assert lines == [(3, 3), (34, 96), (127, 127)]


@pytest.mark.parametrize("values", [[(1, 5, "")], [(1, 5, ""), (2, 5, "")], []])
def test_one_point_equal_values_and_none_can_be_drawn(values):
    assert parse(draw_lines([Series("a", "c1", values)], title="x", axes=("x", "y"))) is not None


class Tags(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_markup_in_every_name_is_text():
    charts = [
        draw_lines(
            [Series(HOSTILE, "c1", [(0, 1, HOSTILE)]), Series(HOSTILE, "c2", [(1, 2, HOSTILE)])],
            title=HOSTILE,
            axes=(HOSTILE, HOSTILE),
        ),
        draw_bars([Bar(HOSTILE, [(1, "c1", HOSTILE)], HOSTILE)], title=HOSTILE, legend=[(HOSTILE, "c1")]),
        draw_histogram([0, 1], [2], title=HOSTILE, axes=(HOSTILE, HOSTILE)),
        draw_confusion([HOSTILE, "b"], [[1, 2], [3, 4]], [3, 7], title=HOSTILE),
    ]
    for chart in charts:
        assert {tag for tag, _ in Tags(chart).found} <= {"svg", "text", "title", "rect", "line", "polyline", "circle"}
        assert not any(name.startswith("on") for _, attributes in Tags(chart).found for name in attributes)
        assert show(HOSTILE) in [node.text for node in parse(chart).iter("title")] + [parse(chart).get("aria-label")]


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("plain", "plain"),
        ("a b\n c", "a b c"),
        ("123456789", "123456…"),
        ("电影评论", "电影评…"),
        ("评论a", "评论a"),
        ("a\u202eb", "ab"),
        ("a\x07b", "a\ufffdb"),
    ],
)
def test_texts_are_cut_by_their_width(text, short):
    assert shorten(text, 7) == short
