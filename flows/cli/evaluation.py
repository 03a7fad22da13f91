"""`gloveflow evaluate`: its options, and what it shows."""

import argparse
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.options import add_text, resolve
from pipeline_config.errors import ConfigError, ServiceError

if TYPE_CHECKING:
    from flows.evaluating import EvaluationResult
    from pipeline_config.settings import PipelineConfig


def add_evaluate(parser: argparse.ArgumentParser) -> None:
    """Add what `evaluate` takes."""
    parser.add_argument("files", nargs="+", metavar="FILE", help="labelled texts: what corpus.source takes")
    parser.add_argument("--model", metavar="NAME", help="registered model (default: of the configuration)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--version", type=version_number, metavar="N", help="number of the version")
    which.add_argument("--alias", metavar="A", help="alias of the version (default: the configured champion alias)")
    parser.add_argument(
        "--against", type=version_number, metavar="N", help="version to compare with (default: the champion)"
    )
    add_text(parser)
    parser.add_argument(
        "--label", metavar="COLUMN", help="column with the class (default: that which the model was trained on)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def evaluate(options: argparse.Namespace, root: Path) -> int:
    """Measure any registered version on labelled files; leaves a report and an MLflow run."""
    resolved = resolve(options)
    from flows.cli.console import print_json, print_lines, show_log_lines
    from flows.cli.scoring_options import changes_of_reading, place_sources
    from tasks.tracking.reachability import require_tracking_server

    sources = place_sources(options.files)
    reading = changes_of_reading(resolved, options.text)
    if options.label:
        reading["label_column"] = options.label
    name = choose_model(options, resolved.config)
    require_tracking_server()
    number = find_number(root, name, options, resolved.config)
    against = find_other(root, name, number, options, resolved.config)
    check_columns(root, name, number, sources, reading)
    show_log_lines()
    from flows.evaluating import evaluate_file

    query = resolved.config.corpus.query
    result = evaluate_file(sources, model=name, version=number, reading=reading, query=query, against=against)
    if options.json:
        print_json(result.model_dump(mode="json"))
    else:
        print_lines(list_result(result))
    return 0


def choose_model(options: argparse.Namespace, config: "PipelineConfig") -> str:
    """Return the registered model that `--model` names, or that of the configuration."""
    from pipeline_config.names import check_model_name

    return config.registered_model if options.model is None else check_model_name(options.model, "--model")


def find_number(root: Path, name: str, options: argparse.Namespace, config: "PipelineConfig") -> int:
    """Return the number of the version that `--version` or `--alias` names; our own registry answers at once.

    Raises:
        ConfigError: there is no such version.
        ServiceError: no version has the alias.
    """
    from flows.cli.options import choose_alias
    from tasks.tracking.version_files import describe_absent
    from tasks.tracking.version_list import list_versions

    alias = choose_alias(options, config)
    records = list_versions(root, name)
    if options.version is not None:
        if any(record.version == options.version for record in records):
            return int(options.version)
        if not records:
            raise ConfigError(f"{name}: no such registered model; `gloveflow models` lists them")
        raise ConfigError(f"{name}: no version {options.version}; `gloveflow models --model {name}` lists its versions")
    for record in records:
        if alias in record.aliases:
            return record.version
    raise ServiceError(describe_absent(name, alias, None, records))


def find_other(root: Path, name: str, number: int, options: argparse.Namespace, config: "PipelineConfig") -> int | None:
    """Return the version to compare with: that of `--against`, or the champion; None if it is the version itself.

    Raises:
        ConfigError: there is no such version.
    """
    from tasks.tracking.version_list import list_versions

    records = list_versions(root, name)
    if options.against is None:
        found = [record.version for record in records if config.registration.alias in record.aliases]
    else:
        found = [record.version for record in records if record.version == options.against]
        if not found:
            raise ConfigError(
                f"{name}: no version {options.against}; `gloveflow models --model {name}` lists its versions"
            )
    return found[0] if found and found[0] != number else None


def check_columns(root: Path, name: str, number: int, sources: list[str], reading: dict[str, Any]) -> None:
    """Look for the columns in local files before mlflow is imported, which takes seconds.

    How files are read is taken from files of the version that are not verified yet; nothing but this depends on it.

    Raises:
        ConfigError: a field of the reading is wrong.
        InputError: a file cannot be read or lacks a column.
    """
    import json

    from pipeline_config.contracts.reading import Reading
    from tasks.reading.inputs import read_labelled
    from tasks.reading.sources import locate_files
    from tasks.scoring.request import change_reading
    from tasks.tracking.version_files import find_version_files

    files = find_version_files(root, name, alias="", number=number)
    if files is None or not all(Path(source).exists() for source in sources):
        return
    try:
        description = json.loads((files.folder / "artifacts/bundle/model.json").read_text("utf-8"))
        own = Reading.model_validate(description.get("reading", {}))
    except (OSError, ValueError, AttributeError):
        return  # the check of the version's files says what is wrong
    used = change_reading(own, reading)
    used = used.model_copy(update=dict.fromkeys(("split_column", "group_column", "time_column")))
    read_labelled(locate_files(sources, used), used, blocks=1)


def list_result(result: "EvaluationResult") -> list[str]:
    """Return lines about an evaluation, broken at 80 columns: scores, files, then the verdict."""
    from flows.cli.console import list_findings
    from flows.cli.model_tables import list_differences

    scores = result.scores
    lines = [
        f"{result.model} version {result.version}: {result.documents:,} documents of {', '.join(result.files)}",
        "",
    ]
    for key, title in (
        ("accuracy", "accuracy"),
        ("macro_f1", "macro F1"),
        ("balanced_accuracy", "balanced accuracy"),
        ("log_loss", "log-loss"),
        ("ece", "calibration error"),
    ):
        low, high = scores.intervals[key]  # type: ignore[index]
        lines.append(f"  {title:20} {getattr(scores, key):8.4f}   95 % interval {low:.4f} to {high:.4f}")
    lines += ["", *list_classes(result)]
    if result.comparison:
        lines += ["", *list_differences(result.comparison, f"{result.model} version {result.version}")]
    lines += ["", f"  report      {result.report}", f"  MLflow run  {result.mlflow_url}"]
    return [*lines, *list_findings(result.analysis.verdict)]


def list_classes(result: "EvaluationResult") -> list[str]:
    """Return the scores of the classes with the most documents."""
    ranked = sorted(result.scores.classes.items(), key=lambda item: -item[1].support)
    lines = [f"  {'class':30} documents  precision  recall      F1"]
    for label, one in ranked[:20]:
        cells = ["      -" if value is None else f"{value:7.4f}" for value in (one.precision, one.recall, one.f1)]
        lines.append(f"  {textwrap.shorten(label, 30, placeholder='...'):30} {one.support:9,.0f}    {'  '.join(cells)}")
    return lines + ([f"  and {len(ranked) - 20} more classes"] if len(ranked) > 20 else [])


def version_number(text: str) -> int:
    """Return the number of a version that stands on the command line."""
    if not (text.isascii() and text.isdecimal() and 0 < int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"expected the number of a version, got {text!r}")
    return int(text)
