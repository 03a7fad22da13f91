"""What the command line prints: stage lines while a flow runs, a summary at its end, errors."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tasks.runtime.loggers import OUR_LOGGERS

if TYPE_CHECKING:
    from flows.pipeline import PipelineResult, StageSummary


class ProgressHandler(logging.Handler):
    """Write log lines to standard error, above any progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from tqdm import tqdm

        mark = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        tqdm.write(f"{time.strftime('%H:%M:%S')}  {mark}{record.getMessage()}", file=sys.stderr)


def show_log_lines() -> None:
    """Show our loggers' lines on standard error; once per process."""
    for name in OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, ProgressHandler) for handler in logger.handlers):
            logger.addHandler(ProgressHandler())


def print_error(message: str) -> None:
    """Print an error to standard error."""
    print(f"gloveflow: {message}", file=sys.stderr)


def print_summary(result: "PipelineResult", *, name: str) -> None:
    """Print what a person wants to know of a finished run, and what to do next."""
    from pipeline_config.contracts.evaluation import Metrics  # not at the top, because pyarrow is slow to import

    metrics = Path(result.store["evaluate_classifier"], Metrics.file_name)
    test = Metrics.model_validate_json(metrics.read_bytes()).test
    registration = result.registration
    cached = sum(stage.cached for stage in result.stages)
    alias = f" @{registration.alias}" if registration.promoted else ""
    command = _command()
    lines = [
        "",
        f"{name}: done in {result.seconds:.1f} s, {cached} of {len(result.stages)} stages cached, "
        f"peak memory {result.peak_memory_mib:,.0f} MiB",
        "",
        f"  {'test split':30} accuracy  macro F1",
        f"  {'LSTM':30} {test.lstm.accuracy:8.4f}  {test.lstm.macro_f1:8.4f}",
        *_spread_lines(result.spread),
        f"  {'TF-IDF + logistic regression':30} {test.baseline.accuracy:8.4f}  {test.baseline.macro_f1:8.4f}",
        "",
        *(_stage_line(stage) for stage in result.stages),
        "",
        f"  registered  {registration.model} version {registration.version}{alias}"
        f"{'' if registration.created else ' (the same model as before, no new version)'}",
        f"              {registration.reason}",
        f"  report      {_relative(Path(result.store['evaluate_classifier'], 'report.html'))}",
        f"  MLflow run  {result.mlflow_url}",
        "",
        "next:",
        f"  {command} ui                        look at the Prefect and MLflow pages",
        f'  {command} predict {_model_option(name)}"some text"       classify a text with the champion',
        f"  {command} score {_model_option(name)}texts.csv          classify a file of texts",
    ]
    print("\n".join(lines))


def print_answers(texts: list[str], answers: list[dict[str, Any]]) -> None:
    """Print label and probabilities of each text."""
    for text, answer in zip(texts, answers, strict=True):
        ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
        shares = "  ".join(f"{label} {probability:.3f}" for label, probability in ranked)
        print(f"{answer['label']:12} {shares}   {text[:60]}")


def _spread_lines(spread: dict[str, float]) -> list[str]:
    titles = {"mean": f"LSTM, mean of {spread['count']:.0f} seeds", "deviation": "LSTM, deviation"} if spread else {}
    return [
        f"  {title:30} {spread[f'test_accuracy_{name}']:8.4f}  {spread[f'test_macro_f1_{name}']:8.4f}"
        for name, title in titles.items()
    ]


def _stage_line(stage: "StageSummary") -> str:
    took = "cached" if stage.cached else f"{stage.seconds:.1f} s"
    plain = [(key, value) for key, value in stage.facts.items() if isinstance(value, int | float)]
    facts = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in plain[:3])
    return f"  {stage.name:20} {took:>8}   {facts}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def _command() -> str:
    program = Path(sys.argv[0])
    return str(_relative(program)) if program.name == "gloveflow" and os.sep in sys.argv[0] else "gloveflow"


def _model_option(name: str) -> str:
    return "" if name == "sentiment" else f"--set name={name} "


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path
