"""Coverage, worked out by hand."""

from pathlib import Path

import pytest

import tasks.embeddings.coverage
from pipeline_config.contracts.embeddings import CoverageReport
from tasks.embeddings.align_embeddings import look_up_rows
from tasks.embeddings.coverage import measure_coverage
from tests.tasks.embeddings.vector_sets import SET_TOKENS, WORDS, strings, tokens_of


def report_of() -> CoverageReport:
    _, source = look_up_rows(strings(WORDS), strings(SET_TOKENS), fallbacks=("lowercase",), specials=2)
    return measure_coverage(strings(WORDS), source, tokens_of())


def test_coverage_is_counted_by_type_and_by_token_per_split_class_and_source(artifacts: Path) -> None:
    report = report_of()
    assert report.types == pytest.approx(3 / 6)  # the, CAT, Paris of six words
    # the + CAT + Paris: 15 of 22 in train, 3 of 4 in validation, 4 of 10 in test
    assert report.tokens == pytest.approx({"train": 15 / 22, "validation": 3 / 4, "test": 4 / 10})
    assert report.tokens_by_class == {
        "train": {"x": pytest.approx(15 / 22)},
        "validation": {"y": pytest.approx(3 / 4)},
        "test": {"y": pytest.approx(0.4)},
    }
    assert report.tokens_by_source["train"] == pytest.approx(
        {"exact": 11 / 22, "lowercase": 4 / 22, "missing": 6 / 22, "outside": 1 / 22}
    )
    # outside the vocabulary is only "rare"
    assert report.oov_rate == pytest.approx({"train": 1 / 22, "validation": 0, "test": 6 / 10})
    assert report.rows == {"exact": 2, "lowercase": 1, "missing": 3, "special": 2}
    assert list(report.misses.items()) == [("dog", 2), ("paris", 2), ("zebra", 2), ("rare", 1)]


def test_misses_are_the_most_frequent_ones_up_to_a_limit(artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.embeddings.coverage, "MOST_MISSES", 2)
    assert report_of().misses == {"dog": 2, "paris": 2}


def test_a_word_of_a_text_that_looks_like_a_special_token_is_outside_the_vocabulary(artifacts: Path) -> None:
    words = strings(["<pad>", "rare", "the"])  # "rare" is special here, and a word of the corpus
    _, source = look_up_rows(words, strings(SET_TOKENS), fallbacks=(), specials=2)
    report = measure_coverage(words, source, tokens_of())
    assert report.tokens_by_source["test"] == pytest.approx({"exact": 3 / 10, "outside": 7 / 10})
    assert report.oov_rate["test"] == pytest.approx(7 / 10)
