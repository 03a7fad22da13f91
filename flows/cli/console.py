"""What the command line prints: log lines while a flow runs, a summary at its end, answers, errors."""

import logging
import os
import shlex
import sys
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.explanations import mark_tokens, use_colours
from flows.cli.model_tables import WIDTH, wrap
from flows.cli.server_process import login_link
from flows.cli.server_secret import read_secret
from pipeline_config.masking import mask_secrets, mask_values
from pipeline_config.preset_files import DEFAULT_PRESET
from tasks.runtime.loggers import OUR_LOGGERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from flows.cli.findings import Finding
    from flows.cli.server_process import Server
    from flows.outputs import PipelineResult, StageSummary
    from pipeline_config.contracts import analysis
    from pipeline_config.resolve import ResolvedConfig
    from pipeline_config.rules import Choice
    from pipeline_config.settings import PipelineConfig
    from tasks.registry.register_model import Registration
    from tasks.scoring.request import ScoringResult


class ProgressHandler(logging.Handler):
    """Write log lines to standard error, above any progress bars."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one line."""
        from tqdm import tqdm

        mark = "" if record.levelno < logging.WARNING else f"{record.levelname}: "
        tqdm.write(f"{time.strftime('%H:%M:%S')}  {mark}{mask_secrets(record.getMessage())}", file=sys.stderr)


def show_log_lines() -> None:
    """Show the lines of the project's loggers on standard error; repeated calls change nothing."""
    for name in OUR_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(logging.INFO)
        if not any(isinstance(handler, ProgressHandler) for handler in logger.handlers):
            logger.addHandler(ProgressHandler())


def print_error(message: str) -> None:
    """Print an error to standard error, without secrets of addresses."""
    print(f"gloveflow: {mask_secrets(message)}", file=sys.stderr)


def print_summary(
    result: "PipelineResult", config: "PipelineConfig", *, artifacts: Path | None, pages_run: bool
) -> None:
    """Print scores, stages and the registered version of a finished run, and the commands to try next.

    Args:
        result: of the run.
        config: of the run.
        artifacts: the option of that name.
        pages_run: whether the MLflow pages of these artifacts are there now.
    """
    registration = result.registration
    cached = sum(stage.cached for stage in result.stages)
    alias = f" @{registration.alias}" if registration.promoted else ""
    command, model = program(), _model_options(config, artifacts)
    place = _place_option(artifacts)
    usable = registration.promoted or registration.decision.champion is not None
    served = {
        f'{command} predict{model} "some text"': "classify a text with the champion",
        f"{command} score{model} texts.csv": "classify a file of texts",
    }
    lines = [
        "",
        f"{config.name}: done in {result.seconds:.1f} s, {cached} of {len(result.stages)} stages cached, "
        f"peak memory {result.peak_memory_mib:,.0f} MiB",
        "",
        f"  {'test split':30} accuracy  macro F1",
        *(f"  {name:30} {one.accuracy:8.4f}  {one.macro_f1:8.4f}" for name, one in result.test_scores.items()),
        *_spread_lines(result.spread),
        "",
        *(_stage_line(stage) for stage in result.stages),
        "",
        f"  registered  {registration.model} version {registration.version}{alias}"
        f"{'' if registration.created else ' (this model is registered already, no new version)'}",
        *wrap(registration.reason, " " * 14, " " * 14),
        f"  report      {_relative(Path(result.report))}",
        f"  MLflow run  {result.mlflow_url}{_where_pages(pages_run)}",
        "",
        "next:",
        *_list_commands({f"{command} ui{place}": "look at the Prefect and MLflow pages"} | (served if usable else {})),
        *list_findings(result.verdict),
        *_list_ways(registration, f"{command} models", place),
    ]
    print(mask_secrets("\n".join(lines)))


def _list_commands(commands: dict[str, str]) -> list[str]:
    """Return commands with what they do beside them, or below them if a line would be longer than 80 columns."""
    width = max(map(len, commands))
    if 2 + width + 2 + max(map(len, commands.values())) <= WIDTH:
        return [f"  {command:{width}}  {what}" for command, what in commands.items()]
    return [line for command, what in commands.items() for line in (f"  {command}", f"      {what}")]


def _list_ways(registration: "Registration", command: str, place: str) -> list[str]:
    """Return what to do with a version that did not get the alias, if a person has to know."""
    decision, number = registration.decision, registration.version
    options = f"{number} --model {shlex.quote(registration.model)}{place} --why TEXT"
    if decision.waits_until:
        text = f"Version {number} waits for a person until {decision.waits_until}; after that, the champion stays:"
        return ["", *wrap(text, "", ""), f"  {command} approve {options}", f"  {command} reject {options}"]
    if decision.promoted or (decision.champion and decision.comparable):
        return []
    start = "There is no champion, so predict and score have no model" if decision.champion is None else ""
    start = start or f"Version {decision.champion} stays {registration.alias}, but it cannot be compared"
    text = f"{start}. {registration.reason[:1].upper()}{registration.reason[1:]}"
    return [
        "",
        *wrap(f"{text[:600].rstrip('.')}{'.' if len(text) <= 600 else ' ...'}", "", ""),
        f"To use version {number} all the same:",
        f"  {command} promote {options}",
    ]


def print_answers(texts: list[str], answers: list[dict[str, Any]], *, truncation: str = "head") -> None:
    """Print label and probabilities of each text.

    Args:
        texts: the texts.
        answers: of the model. A text whose answer has `tokens` is printed with their weights.
        truncation: which part of a long text the model reads.
    """
    for text, answer in zip(texts, answers, strict=True):
        ranked = sorted(answer["probabilities"].items(), key=lambda item: -item[1])
        shares = "  ".join(f"{label} {probability:.3f}" for label, probability in ranked)
        abstained = "   (abstained)" if answer.get("abstained") else ""
        if "tokens" not in answer:
            print(f"{answer['label']:12} {shares}{abstained}   {text[:60]}")
            continue
        marked = mark_tokens(text, answer["tokens"], truncation=truncation, colours=use_colours())
        print(f"{answer['label']:12} {shares}{abstained}")
        print(textwrap.indent(marked, "    "))


def _where_pages(pages_run: bool) -> str:
    """Return the condition under which the address of a run's page works."""
    own = not os.environ.get("MLFLOW_TRACKING_URI", "").startswith(("http://", "https://"))
    return f" (while `{program()} ui` runs)" if own and not pages_run else ""


def _spread_lines(spread: dict[str, float]) -> list[str]:
    titles = {"mean": f"mean of {spread['count']:.0f} seeds", "deviation": "deviation"} if spread else {}
    return [
        f"  {title:30} {spread[f'test_accuracy_{name}']:8.4f}  {spread[f'test_macro_f1_{name}']:8.4f}"
        for name, title in titles.items()
    ]


def list_findings(verdict: "tuple[analysis.Finding, ...]") -> list[str]:
    """Return the findings of the evaluation, broken at 80 columns."""
    lines = ["", "verdict:"] if verdict else []
    for finding in verdict:
        lines += wrap(finding.text, f"  {finding.level:6}", " " * 8)
    return lines


def _stage_line(stage: "StageSummary") -> str:
    took = "cached" if stage.cached else f"{stage.seconds:.1f} s"
    plain = [(key, value) for key, value in stage.facts.items() if isinstance(value, int | float)]
    facts = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in plain[:3])
    return f"  {stage.name:20} {took:>8}   {facts}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if isinstance(value, int) or abs(value) >= 1000 else f"{value:.4g}"


def program() -> str:
    """Return how to call this program again."""
    program = Path(sys.argv[0])
    return str(_relative(program)) if program.name == "gloveflow" and os.sep in sys.argv[0] else "gloveflow"


def _model_options(config: "PipelineConfig", artifacts: Path | None) -> str:
    """Return the options, each after a space, with which `predict` and `score` find the champion of a run."""
    options = ""
    if config.registration.model:
        options += f" --set registration.model={shlex.quote(config.registration.model)}"
    elif config.name != DEFAULT_PRESET:  # a preset is named as its file
        options += f" --set name={config.name}"
    if config.registration.alias != type(config.registration).model_fields["alias"].default:
        options += f" --alias {config.registration.alias}"
    return options + _place_option(artifacts)


def _place_option(artifacts: Path | None) -> str:
    return f" --artifacts {shlex.quote(str(artifacts))}" if artifacts else ""


def _relative(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_absolute() and path.is_relative_to(Path.cwd()) else path


def print_scored(result: "ScoringResult", *, model: str) -> None:
    """Print what a scoring wrote: file, rows, model version, texts by label, rows without an answer by reason."""
    counts = ", ".join(f"{label} {count:,}" for label, count in result.labels.items()) or "none"
    skipped = f", {result.skipped:,} without an answer" if result.skipped else ""
    abstained = "" if result.abstained is None else f", {result.abstained:,} below the threshold"
    print(f"{result.output}: {result.rows:,} rows by {model} version {result.version}: {counts}{skipped}{abstained}")
    if result.resumed_rows:
        print(f"{result.resumed_rows:,} of the rows were finished by an earlier scoring that was interrupted")
    if result.rejected_output:
        reasons = ", ".join(f"{reason} {count:,}" for reason, count in result.rejected.items())
        print(f"{result.rejected_output}: {sum(result.rejected.values()):,} rows without an answer: {reasons}")
    print(f"{result.profile_output}: the profile of the texts, without the texts")


def print_servers(servers: "list[Server]", *, links: bool) -> None:
    """Print the addresses of servers.

    Args:
        servers: of this command.
        links: whether to print the links that log a browser in. They must not get into the log of a service.
    """
    for server in servers:
        print(f"{server.name:8} {server.link if links else server.url}", flush=True)
    if servers and not links:
        print("to log in, open the links that `gloveflow ui` prints", flush=True)


def print_running(root: Path, servers: dict[str, str]) -> None:
    """Print the links of servers that another command runs."""
    secret = read_secret(root)
    for name, url in servers.items():
        link = login_link(url, secret) if secret else url
        print(f"{name:8} {link} (another command on these artifacts runs it)", flush=True)


def print_findings(findings: "list[Finding]") -> None:
    """Print the findings of the doctor, one on each line, and below it what a repair would do."""
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'BAD '} {finding.subject:14} {mask_secrets(finding.text)}")
        if finding.remedy:
            print(f"{'':20}--repair: {mask_secrets(finding.remedy)}")


def print_lines(lines: list[str]) -> None:
    """Print lines without secrets, at once."""
    for line in lines:
        print(mask_secrets(line), flush=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, without secrets."""
    import json

    print(json.dumps(mask_values(value), ensure_ascii=False, indent=1))


def print_config(resolved: "ResolvedConfig", chosen: "Mapping[str, Choice]", *, as_yaml: bool) -> None:
    """Print each value with the layer or the rule that set it, or all values as a YAML file for `--config`."""
    values = resolved.config.model_dump(mode="json")
    if as_yaml:
        import yaml

        print(yaml.safe_dump(values, sort_keys=False, allow_unicode=True), end="")
        return
    from pipeline_config.resolve import flatten
    from pipeline_config.rules import list_open_settings

    by_rule = dict.fromkeys(list_open_settings(resolved.config), "a rule chooses it, as `gloveflow inspect` shows")
    by_rule |= {key: f"by the rule: {choice.reason}" for key, choice in chosen.items()}
    for key, value in flatten(values):
        shown = chosen[key].value if key in chosen else value
        origin = by_rule.get(key, resolved.origins[key])
        print(f"{key:34} {'null' if shown is None else shown!s:34} {origin}")
