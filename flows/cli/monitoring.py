"""`gloveflow monitor` and `gloveflow labels`: their options, and what they show."""

import argparse
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.options import choose_alias, resolve

if TYPE_CHECKING:
    from flows.labels import LabelsResult
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


def add_labels(parser: argparse.ArgumentParser) -> None:
    """Add what `labels` takes."""
    parser.add_argument("file", metavar="FILE", help="labels that arrived: CSV, TSV, Excel, JSON lines or Parquet")
    parser.add_argument("--model", metavar="NAME", help="registered model (default: of the configuration)")
    parser.add_argument(
        "--id", default="id", metavar="COLUMN", help="column that names a text, here and in the scored files (id)"
    )
    parser.add_argument("--label", default="label", metavar="COLUMN", help="column with the right label (label)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def labels(options: argparse.Namespace, root: Path) -> int:  # noqa: ARG001 - every command takes the same arguments
    """Join labels that arrived later with scored texts by id, and measure how right the answers were."""
    config = resolve(options).config
    from flows.cli.console import print_json, print_lines, show_log_lines
    from flows.cli.evaluation import choose_model
    from tasks.tracking.reachability import require_tracking_server

    name, alias = choose_model(options, config), choose_alias(options, config)
    require_tracking_server()
    show_log_lines()
    from flows.labels import join_labels

    file = Path(options.file).expanduser().absolute()
    result = join_labels(file, model=name, alias=alias, id_column=options.id, label_column=options.label)
    if options.json:
        values = result.model_dump(mode="json")
        print_json(values | {"metrics": result.metrics._asdict()})
    else:
        print_lines(list_labels(result))
    return 0


def list_labels(result: "LabelsResult") -> list[str]:
    """Return lines about the metrics on labelled texts, broken at 80 columns."""
    found = result.metrics
    lines = [
        f"{result.model} version {result.version}: {found.labelled:,} scored texts have a label now",
        f"  accuracy    {found.accuracy:8.4f}   95 % interval {found.low:.4f} to {found.high:.4f}",
        f"  macro F1    {found.macro_f1:8.4f}",
        f"  confidence  {found.confidence:8.4f}   the mean of these answers",
    ]
    lines += [f"  {count:,} times '{answer}' instead of '{label}'" for label, answer, count in found.confusions[:5]]
    if found.unmatched:
        lines.append(f"  {found.unmatched:,} labels are of texts in none of the {len(result.outputs)} scored files")
    return [*lines, f"  MLflow run  {result.mlflow_url}"]


def _days(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < 36_500:
        raise argparse.ArgumentTypeError(f"expected a number of days, got {text!r}")
    return value
