"""`gloveflow monitor`: its options, and what it shows."""

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.options import choose_alias, resolve

if TYPE_CHECKING:
    from flows.monitoring import MonitoringResult


def add_monitor(parser: argparse.ArgumentParser) -> None:
    """Add what `monitor` takes."""
    parser.add_argument("--model", metavar="NAME", help="registered model (default: of the configuration)")
    parser.add_argument(
        "--days",
        type=_days,
        metavar="N",
        help="look at the scorings of the last N days (default: those since the last window that had enough texts)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def monitor(options: argparse.Namespace, root: Path) -> int:
    """Find out whether the texts that were scored have changed since the training."""
    config = resolve(options).config
    from flows.cli.console import print_json, print_lines, show_log_lines
    from flows.cli.evaluation import choose_model
    from flows.cli.session import run_flow
    from tasks.tracking.reachability import require_tracking_server

    name, alias = choose_model(options, config), choose_alias(options, config)
    require_tracking_server()
    show_log_lines()

    def load() -> Callable[..., object]:
        from flows.monitoring import monitor_texts

        return monitor_texts

    result = run_flow(root, load, model=name, alias=alias, days=options.days, rule=config.monitoring)
    if options.json:
        print_json(result.model_dump(mode="json"))
    else:
        print_lines(list_result(result))
    return 0


def list_result(result: "MonitoringResult") -> list[str]:
    """Return lines about a monitoring, broken at 80 columns."""
    title = {"changed": "changed", "unchanged": "not changed", "too_few": "too few texts to say"}[result.outcome]
    lines = [f"{result.model} version {result.version}, {result.texts:,} texts: {title}"]
    for finding in result.findings:
        lines += textwrap.wrap(finding, 80, initial_indent="  - ", subsequent_indent="    ")
    advice = "recommended" if result.retrain else "not recommended"
    lines += textwrap.wrap(f"retraining {advice}: {result.reason}", 80, subsequent_indent="  ")
    return [*lines, f"  report      {result.report}", f"  MLflow run  {result.mlflow_url}"]


def _days(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 36_500:
        raise argparse.ArgumentTypeError(f"expected a number of days, got {text!r}")
    return value
