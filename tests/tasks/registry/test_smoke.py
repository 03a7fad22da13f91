"""The smoke test of a version in a clean process."""

import sys
from pathlib import Path

import pytest

from tasks.registry import register_model, smoke
from tasks.registry.rivals import read_test_split
from tasks.registry.smoke import ask_clean_process, try_version
from tasks.tracking import versions
from tasks.tracking.models import find_alias
from tests.registrations import MODEL, alias, damage, gated, register, train_another


@pytest.fixture
def split(registered):
    return read_test_split(
        classifier=registered.classifier,
        evaluation=registered.evaluation,
        baseline=registered.baseline,
        documents=registered.documents,
    )


def test_a_clean_process_gives_the_answers_of_the_evaluation(registered):
    config = gated(registered.config, smoke_documents=20, model="other")
    first = register(registered, config=config)
    assert first.promoted
    result = first.decision.rules[-1]
    assert (result.passed, result.outcome, result.metric) == (True, "equivalent", "smoke test")
    assert 0 <= result.value <= 1e-5
    assert versions.require_version("other", 1).tags["gloveflow.smoke"] == "passed"


def test_other_answers_than_those_of_the_evaluation_fail(registered, split, monkeypatch):
    version = find_alias(MODEL, "champion")
    answers = [dict(zip(split.labels, row, strict=True)) for row in split.ours.tolist()]
    answers[3]["food"] += 0.02
    monkeypatch.setattr(smoke, "ask_clean_process", lambda *_, **__: answers)
    wrong = try_version(version, split, documents=len(answers), tokenizer="basic_english")
    assert (wrong.passed, wrong.outcome) == (False, "worse")
    assert wrong.value == pytest.approx(0.02)
    assert wrong.reason == "smoke test failed: the largest difference of a probability is 0.02"


def test_a_version_that_does_not_load_fails(registered, split):
    damage("1")
    result = try_version(find_alias(MODEL, "champion"), split, documents=2, tokenizer="basic_english")
    assert (result.passed, result.value, result.outcome) == (False, None, "unknown")
    assert "was changed after it was registered" in result.reason


@pytest.mark.parametrize("module", ["tasks", "flows", "pipeline_config"])
def test_the_process_can_import_nothing_of_this_project(tmp_path: Path, monkeypatch, module: str):
    monkeypatch.setattr(smoke, "_SCRIPT", smoke._SCRIPT.replace("import mlflow.pyfunc", f"import {module}"))
    with pytest.raises(RuntimeError, match=f"import of {module} halted"):
        ask_clean_process(tmp_path, ["a"], path=sys.path)


def test_a_process_that_gives_no_answer_in_time_is_ended(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(smoke, "_SCRIPT", "import time; time.sleep(60)")
    monkeypatch.setattr(smoke, "SECONDS", 0.2)
    with pytest.raises(RuntimeError, match="no answers within"):
        ask_clean_process(tmp_path, ["a"])


def test_a_version_that_fails_never_gets_the_alias_and_one_that_passed_is_not_tested_again(registered, monkeypatch):
    calls = []

    def play(passed: bool):
        def tried(*_, **__):
            calls.append(passed)
            return smoke._judge("a rule", 0.0 if passed else 0.5, "a difference")

        return tried

    other, config = train_another(registered), gated(registered.config, smoke_documents=20)
    monkeypatch.setattr(register_model, "try_version", play(False))
    failed = register(registered, classifier=other, answers=1.0, config=config)
    assert (failed.version, failed.promoted, alias("champion")) == ("2", False, "1")
    assert failed.reason == "version 1 stays champion: smoke test failed: a difference"
    assert failed.decision.rules[-1].passed is False
    assert versions.require_version(MODEL, 2).tags["gloveflow.smoke"] == "smoke test failed: a difference"
    monkeypatch.setattr(register_model, "try_version", play(True))
    assert register(registered, classifier=other, answers=1.0, config=config).promoted
    assert register(registered, config=config).version == "1"
    assert register(registered, classifier=other, answers=1.0, config=config).promoted
    assert calls == [False, True]
