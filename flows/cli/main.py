"""The command line, `gloveflow`. Commands import heavy packages when they run, so that `--help` is quick."""

import argparse
import os
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from flows.cli.environment import prepare_environment, read_servers
from pipeline_config.errors import EXIT_CODES, EXIT_INTERRUPTED, GloveflowError, InputError
from pipeline_config.masking import mask_secrets
from pipeline_config.preset_files import DEFAULT_PRESET, list_presets
from tasks.store.disk_errors import find_store_error

if TYPE_CHECKING:
    from pipeline_config.settings import PipelineConfig


class _Parser(argparse.ArgumentParser):
    """A parser whose errors, which quote what was typed, show no secrets."""

    def error(self, message: str) -> NoReturn:
        super().error(mask_secrets(message))


class _ShowVersion(argparse.Action):
    """Print the version of the installed package and exit."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata  # here: `--help` does not need it

        print(f"gloveflow {metadata.version('gloveflow')}")
        parser.exit()


def main(arguments: list[str] | None = None) -> None:
    """Run a command and end the process with its exit code."""
    from flows.cli.session import exit_process

    exit_process(run_command(arguments))


def run_command(arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code (`pipeline_config.errors.EXIT_CODES`)."""
    from flows.cli.console import print_error

    parser = build_parser()
    options = parser.parse_args(arguments)
    if options.debug:
        os.environ["GLOVEFLOW_DEBUG"] = "1"
    try:
        command: Callable[[argparse.Namespace, Path], int] = options.command
        return command(options, prepare_environment(options.artifacts))
    except KeyboardInterrupt:
        print_error("interrupted")
        return EXIT_INTERRUPTED
    except GloveflowError as error:
        if options.debug:
            print_error(traceback.format_exc())
        print_error(str(error))
        return error.exit_code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if options.debug:
            print_error(traceback.format_exc())
        if found := find_store_error(error, Path(os.environ["GLOVEFLOW_ARTIFACTS"])):
            print_error(str(found))
            return found.exit_code
        print_error(f"unexpected error: {type(error).__name__}: {error} (--debug shows the traceback)")
        return 1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line."""
    codes = "\n".join(f"  {code:3}  {meaning}" for code, meaning in sorted(EXIT_CODES.items()))
    parser = _Parser(
        prog="gloveflow",
        description="From GloVe vectors and a labelled corpus to a registered, servable LSTM text classifier.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version and exit")
    shared = _Parser(add_help=False)
    shared.add_argument(
        "--artifacts", type=Path, help="directory of all outputs (default: $GLOVEFLOW_ARTIFACTS or ./artifacts)"
    )
    shared.add_argument("--debug", action="store_true", help="show the traceback of an error")
    configured = _Parser(add_help=False)
    configured.add_argument(
        "--preset", default=DEFAULT_PRESET, help=f"one of {', '.join(list_presets())} (default: %(default)s)"
    )
    configured.add_argument("--config", type=Path, metavar="FILE", help="YAML file with your own values")
    configured.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="set one value; can be repeated",
    )
    served = _Parser(add_help=False)
    served.add_argument("--alias", help="alias of the model version (default: the configured champion alias)")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, function, parents, add in (
        ("run", _run, [configured], None),
        ("serve", _serve, [configured], _add_serve),
        ("ui", _ui, [], None),
        ("predict", _predict, [configured, served], _add_predict),
        ("score", _score, [configured, served], _add_score),
        ("config", _config, [configured], _add_config),
        ("doctor", _doctor, [], None),
    ):
        text = textwrap.dedent(function.__doc__ or "").strip()
        command = commands.add_parser(name, help=text.splitlines()[0], description=text, parents=[*parents, shared])
        command.set_defaults(command=function)
        if add:
            add(command)
    return parser


def _add_serve(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--cron", required=True, help="when to run, for example '0 3 * * *'")
    parser.add_argument("--timezone", default="UTC", help="time zone of the cron line (default: UTC)")


def _add_predict(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text; without one, each line of standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object per text")


def _add_score(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, help=".csv, .tsv, .jsonl, .parquet, or .txt with a text per line")
    parser.add_argument("--output", type=Path, help="file to write, .parquet or .csv (default: FILE-scored.parquet)")
    parser.add_argument("--column", default="text", help="column with the text (default: text)")


def _add_config(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--yaml", action="store_true", help="print a YAML file for --config")


def _run(options: argparse.Namespace, root: Path) -> int:
    """Run the whole pipeline and register the model."""
    config = _resolve_to_run(options)
    from flows.cli.console import print_summary, show_log_lines
    from flows.cli.session import run_flow
    from tasks.tracking.reachability import require_tracking_server

    require_tracking_server()
    show_log_lines()

    def load() -> Callable[..., object]:
        from flows.pipeline import train_pipeline

        return train_pipeline

    print_summary(run_flow(root, load, config=config), name=config.name)
    return 0


def _serve(options: argparse.Namespace, root: Path) -> int:
    """Start scheduled runs, one at a time, until the command is ended."""
    config = _resolve_to_run(options)
    from flows.cli.console import print_login, print_servers
    from flows.cli.servers import running_servers, start_pages
    from flows.deployments import check_schedule, serve_pipeline

    check_schedule(options.cron, options.timezone)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO"  # a service logs all lines of all runs
    starts = start_pages(root)[1:] if "PREFECT_API_URL" in os.environ else start_pages(root)
    with running_servers(root, starts) as servers:
        print_servers(servers)
        if len(starts) == 2:
            print_login(root)
        prepare_environment(root)
        # not before: prefect reads the address of its server when it is imported, and would start another one
        from tasks.tokens.tokenize_corpus import check_tokenizer
        from tasks.training.train_classifier import check_machine

        check_machine(config.training)
        check_tokenizer(config.tokenization)
        print(
            f"runs of train-classifier/{config.name} at {options.cron!r} ({options.timezone}); Ctrl-C ends", flush=True
        )
        own = os.environ.get("PREFECT_API_URL") == f"{read_servers(root).get('prefect')}/api"
        serve_pipeline(config, cron=options.cron, timezone=options.timezone, own_server=own)
    return 0


def _ui(options: argparse.Namespace, root: Path) -> int:
    """Start the Prefect and MLflow pages on 127.0.0.1 and print their addresses."""
    from flows.cli.console import print_login, print_servers
    from flows.cli.servers import running_servers, start_pages, wait_for_end

    print("starting the pages ...", flush=True)
    with running_servers(root, start_pages(root)) as servers:
        print_servers(servers)
        print_login(root)
        print("Ctrl-C ends both", flush=True)
        wait_for_end(servers)
    return 0


def _predict(options: argparse.Namespace, root: Path) -> int:
    """Classify texts with the registered champion."""
    config = _resolve(options)
    texts = options.texts or [line.rstrip("\n") for line in sys.stdin]
    if not texts:
        raise InputError("predict: expected a text as an argument or on standard input, got none")
    from tasks.runtime.loggers import open_loggers
    from tasks.tracking.reachability import require_tracking_server

    require_tracking_server()
    from tasks.tracking.models import load_model

    open_loggers()
    answers = load_model(config.registered_model, options.alias or config.registration.alias)(texts)
    if options.json:
        import json

        for text, answer in zip(texts, answers, strict=True):
            print(json.dumps({"text": text, **answer}, ensure_ascii=False))
    else:
        from flows.cli.console import print_answers

        print_answers(texts, answers)
    return 0


def _score(options: argparse.Namespace, root: Path) -> int:
    """Classify a file of texts with the registered champion."""
    config = _resolve(options)
    source = options.file.absolute()
    if not source.is_file():
        raise InputError(f"{source}: no such file")
    output = (options.output or source.with_name(f"{source.stem}-scored.parquet")).absolute()
    from flows.cli.console import print_scored, show_log_lines
    from flows.cli.session import run_flow
    from tasks.tracking.reachability import require_tracking_server

    require_tracking_server()
    show_log_lines()

    def load() -> Callable[..., object]:
        from flows.scoring import score_file

        return score_file

    alias = options.alias or config.registration.alias
    result = run_flow(
        root,
        load,
        source=str(source),
        output=str(output),
        model=config.registered_model,
        alias=alias,
        column=options.column,
    )
    print_scored(result, model=config.registered_model)
    return 0


def _config(options: argparse.Namespace, root: Path) -> int:
    """Show the resolved configuration and which layer set each value."""
    from flows.cli.console import print_config
    from pipeline_config.resolve import resolve_config

    resolved = resolve_config(preset=options.preset, file=options.config, overrides=options.overrides)
    print_config(resolved, as_yaml=options.yaml)
    return 0


def _doctor(options: argparse.Namespace, root: Path) -> int:
    """Check versions, the store, the databases and the servers."""
    from flows.cli.console import print_findings
    from flows.cli.doctor import examine

    findings = examine(root)
    print_findings(findings)
    return 0 if all(finding.ok for finding in findings) else 4


def _resolve(options: argparse.Namespace) -> "PipelineConfig":
    from pipeline_config.resolve import resolve_config

    return resolve_config(preset=options.preset, file=options.config, overrides=options.overrides).config


def _resolve_to_run(options: argparse.Namespace) -> "PipelineConfig":
    """Return the configuration of a run, which needs a corpus and every variable that a source refers to."""
    from pipeline_config.references import check_references

    config = _resolve(options)
    config.corpus.require_source()
    check_references(config.model_dump())
    return config


if __name__ == "__main__":
    main()
