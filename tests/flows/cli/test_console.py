"""What the command line prints."""

import io
import logging
import sys
from pathlib import Path

import pytest

from flows.cli.console import ProgressHandler, print_answers, print_error, print_summary, show_log_lines
from flows.outputs import PipelineResult, Scores, StageSummary
from pipeline_config.contracts.analysis import Finding
from pipeline_config.preset_files import DEFAULT_PRESET
from pipeline_config.settings import PipelineConfig
from tasks.registry.register_model import Registration
from tasks.runtime.loggers import OUR_LOGGERS
from tests.registrations import made_decision


def make_result(root: Path, **changes: object) -> PipelineResult:
    """A result whose facts contradict its scores: the summary must show the scores."""
    facts = {"documents": 1234, "labels": ["a"], "coverage": 0.98765, "share": 0.5, "more": 1}
    edited = {"lstm_accuracy": 0.0, "baseline_accuracy": 0.0}
    values = {
        "stages": [
            StageSummary(name="ingest_corpus", cached=True, seconds=3.0, facts=facts),
            StageSummary(name="evaluate_classifier", cached=False, seconds=2.25, facts=edited),
        ],
        "test_scores": {
            "LSTM": Scores(accuracy=0.91236, macro_f1=0.9),
            "linear model": Scores(accuracy=0.8, macro_f1=0.75),
        },
        "spread": {},
        "registration": Registration(
            model="gloveflow-tiny",
            version="3",
            created=True,
            alias="champion",
            decision=made_decision(promoted=True, reason="the first one"),
        ),
        "mlflow_url": "http://127.0.0.1:5000/#/experiments/1/runs/2",
        "flow_run_url": "",
        "store": {},
        "report": str(root / "report.html"),
        "seconds": 12.34,
        "peak_memory_mib": 1234.5,
    }
    return PipelineResult.model_validate({**values, **changes})


@pytest.fixture
def summary(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch):
    """Return a function that prints the summary of a result with changes and gives its lines."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gloveflow"])

    def summary(
        name: str = "tiny",
        pages_run: bool = True,
        artifacts: Path | None = None,
        registration_settings: dict[str, str] | None = None,
        **changes: object,
    ) -> list[str]:
        config = PipelineConfig.model_validate({"name": name, "registration": registration_settings or {}})
        print_summary(make_result(tmp_path, **changes), config, artifacts=artifacts, pages_run=pages_run)
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    return summary


def test_summary_shows_the_verified_scores_and_not_the_facts(summary) -> None:
    lines = summary()
    assert "LSTM 0.9124 0.9000" in lines
    assert "linear model 0.8000 0.7500" in lines


def test_summary_shows_time_memory_stages_and_the_first_numeric_facts(summary) -> None:
    lines = summary()
    assert lines[1] == "tiny: done in 12.3 s, 1 of 2 stages cached, peak memory 1,234 MiB"
    assert "ingest_corpus cached documents 1,234, coverage 0.9877, share 0.5" in lines
    assert "evaluate_classifier 2.2 s lstm accuracy 0, baseline accuracy 0" in lines


def test_summary_shows_version_alias_reason_report_and_run(summary) -> None:
    lines = summary()
    assert "registered gloveflow-tiny version 3 @champion" in lines
    assert "the first one" in lines
    assert "report report.html" in lines  # relative to the working directory
    assert "MLflow run http://127.0.0.1:5000/#/experiments/1/runs/2" in lines


@pytest.mark.parametrize(
    ("tracking", "condition"), [("", " (while `gloveflow ui` runs)"), ("https://mlflow.example", "")]
)
def test_summary_says_when_the_page_of_the_run_is_there(
    summary, monkeypatch: pytest.MonkeyPatch, tracking: str, condition: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking)
    lines = summary(pages_run=False)
    assert f"MLflow run http://127.0.0.1:5000/#/experiments/1/runs/2{condition}" in lines


def test_summary_of_a_known_model_that_did_not_pass_the_gate(summary) -> None:
    registration = Registration(
        model="gloveflow-tiny",
        version="3",
        created=False,
        alias="champion",
        decision=made_decision(promoted=False, reason="too low"),
    )
    lines = summary(registration=registration)
    assert "registered gloveflow-tiny version 3 (this model is registered already, no new version)" in lines
    assert "too low" in lines


def decided(**changes: object) -> Registration:
    decision = made_decision(promoted=False, reason="not champion: accuracy 0.5, chance 0.5").model_copy(update=changes)
    return Registration(model="gloveflow-tiny", version="3", created=True, alias="champion", decision=decision)


def test_a_first_version_that_does_not_pass_the_gate_ends_with_the_command_that_promotes_it_all_the_same(
    summary,
) -> None:
    lines = summary(registration=decided(), verdict=(Finding(level="bad", text="At chance."),))
    start = lines.index("There is no champion, so predict and score have no model. Not champion: accuracy")
    assert lines.index("bad At chance.") < start
    assert lines[start + 1 :] == [
        "0.5, chance 0.5.",
        "To use version 3 all the same:",
        "gloveflow models promote 3 --model gloveflow-tiny --why TEXT",
    ]
    assert not any("predict" in line for line in lines[:start])


def test_a_champion_that_cannot_be_compared_is_told_with_the_same_command(summary) -> None:
    lines = summary(registration=decided(champion="2", comparable=False))
    assert "Version 2 stays champion, but it cannot be compared. Not champion: accuracy 0.5," in lines
    assert lines[-1] == "gloveflow models promote 3 --model gloveflow-tiny --why TEXT"


def test_a_version_that_a_champion_beats_needs_no_command(summary) -> None:
    assert "promote" not in " ".join(summary(registration=decided(champion="2")))


def test_a_version_that_waits_ends_with_the_commands_that_decide(summary) -> None:
    lines = summary(
        registration=decided(champion="2", waits_until="2030-01-01T00:00:00+00:00"), artifacts=Path("my runs")
    )
    assert lines[-4:] == [
        "Version 3 waits for a person until 2030-01-01T00:00:00+00:00; after that, the",
        "champion stays:",
        "gloveflow models approve 3 --model gloveflow-tiny --artifacts 'my runs' --why TEXT",
        "gloveflow models reject 3 --model gloveflow-tiny --artifacts 'my runs' --why TEXT",
    ]


def test_a_long_reason_is_broken_at_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = make_result(tmp_path, registration=decided(champion="2", reason="a reason " * 30))
    print_summary(result, PipelineConfig(name="tiny"), artifacts=None, pages_run=True)
    lines = capsys.readouterr().out.splitlines()
    assert max(len(line) for line in lines if "/" not in line) <= 80


def test_summary_of_several_seeds_has_mean_and_deviation(summary) -> None:
    spread = {"count": 3.0}
    for name, value in (("mean", 0.9), ("deviation", 0.01)):
        spread |= {f"test_accuracy_{name}": value, f"test_macro_f1_{name}": value / 2}
    lines = summary(spread=spread)
    assert "mean of 3 seeds 0.9000 0.4500" in lines
    assert "deviation 0.0100 0.0050" in lines


@pytest.mark.parametrize(("name", "option"), [(DEFAULT_PRESET, ""), ("tiny", "--set name=tiny ")])
def test_commands_to_try_next_name_the_model_unless_it_is_that_of_the_default_preset(summary, name, option) -> None:
    assert f'gloveflow predict {option}"some text" classify a text with the champion' in " ".join(summary(name))


def test_commands_to_try_next_find_a_model_with_names_of_its_own(summary) -> None:
    settings = {"model": "our tickets", "alias": "live"}
    lines = " ".join(summary(registration_settings=settings, artifacts=Path("my runs")))
    options = "--set registration.model='our tickets' --alias live --artifacts 'my runs'"
    assert f'gloveflow predict {options} "some text" classify a text with the champion' in lines
    assert f"gloveflow score {options} texts.csv classify a file of texts" in lines
    assert "gloveflow ui --artifacts 'my runs' look at the Prefect and MLflow pages" in lines


def test_commands_to_try_next_start_as_this_one_did(summary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / ".venv" / "bin" / "gloveflow")])
    assert ".venv/bin/gloveflow ui look at the Prefect and MLflow pages" in " ".join(summary())


def test_answers_have_the_label_and_the_probabilities_in_descending_order(capsys: pytest.CaptureFixture[str]) -> None:
    print_answers(["rain " * 40], [{"label": "weather", "probabilities": {"food": 0.25, "weather": 0.75}}])
    assert capsys.readouterr().out == f"weather      weather 0.750  food 0.250   {('rain ' * 40)[:60]}\n"


def test_error_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    print_error("a.csv: no such file")
    assert capsys.readouterr() == ("", "gloveflow: a.csv: no such file\n")


@pytest.fixture
def loggers(monkeypatch: pytest.MonkeyPatch) -> list[logging.Logger]:
    """The project's loggers, whose handlers and levels are restored after the test."""
    loggers = [logging.getLogger(name) for name in OUR_LOGGERS]
    for logger in loggers:
        monkeypatch.setattr(logger, "handlers", list(logger.handlers))
        monkeypatch.setattr(logger, "level", logger.level)
    return loggers


def test_log_lines_are_shown_once_though_asked_for_twice(
    loggers: list[logging.Logger], monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        show_log_lines()
    for logger in loggers:
        assert logger.level == logging.INFO
        assert sum(isinstance(handler, ProgressHandler) for handler in logger.handlers) == 1


@pytest.mark.parametrize(("level", "mark"), [(logging.INFO, ""), (logging.WARNING, "WARNING: ")])
def test_log_line_has_the_time_and_marks_warnings(level: int, mark: str, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    ProgressHandler().emit(logging.LogRecord("tasks", level, __file__, 1, "%d rows", (3,), None))
    time, line = stream.getvalue().split("  ", 1)
    assert len(time) == len("12:34:56")
    assert line == f"{mark}3 rows\n"


def test_the_verdict_comes_last_and_is_broken_at_80_columns(tmp_path, capsys):
    text = "Better than the baseline: accuracy 77.6 %, 2.5 points more than the baseline (95 % interval 1.4 to 3.6)."
    verdict = (Finding(level="good", text=text), Finding(level="bad", text="Never predicted: 'x', of 3 classes."))
    print_summary(make_result(tmp_path, verdict=verdict), PipelineConfig(name="tiny"), artifacts=None, pages_run=True)
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "",
        "verdict:",
        "  good  Better than the baseline: accuracy 77.6 %, 2.5 points more than the",
        "        baseline (95 % interval 1.4 to 3.6).",
        "  bad   Never predicted: 'x', of 3 classes.",
    ]


def test_without_a_verdict_there_is_no_heading(summary):
    assert "verdict:" not in summary()
