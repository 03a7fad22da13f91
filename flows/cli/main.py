"""The command line, `gloveflow`. Commands import heavy packages when they run, so that `--help` is quick."""

import argparse
import os
import sys
import textwrap
import traceback
from collections.abc import Callable
from pathlib import Path

from flows.cli.backups import add_backup, add_restore, backup, restore
from flows.cli.cleaning import add_gc, cleaning, collect_garbage
from flows.cli.environment import prepare_environment
from flows.cli.evaluation import add_evaluate, evaluate
from flows.cli.exporting import add_export, export
from flows.cli.model_server import add_serve_model, serve_model
from flows.cli.models import add_models, list_models
from flows.cli.monitoring import add_labels, add_monitor, labels, monitor
from flows.cli.options import (
    Parser,
    add_config,
    add_doctor,
    add_inspect,
    add_predict,
    add_score,
    add_serve,
    choose_alias,
    configured_options,
    corpus_options,
    format_run,
    resolve,
    resolve_to_run,
    served_options,
    shared_options,
)
from flows.cli.server_records import read_servers
from pipeline_config.errors import EXIT_CODES, EXIT_INTERRUPTED, GloveflowError, InputError
from tasks.store.disk_errors import allow_open_files, find_store_error


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
        allow_open_files()
        command: Callable[[argparse.Namespace, Path], int] = options.command
        return command(options, prepare_environment(options.artifacts, use_running=command not in (_serve, _ui)))
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
    parser = Parser(
        prog="gloveflow",
        description="From GloVe vectors and a labelled corpus to a registered, servable LSTM text classifier.",
        epilog=f"exit codes:\n{codes}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_ShowVersion, nargs=0, help="print the version and exit")
    shared, configured, corpus, served = shared_options(), configured_options(), corpus_options(), served_options()
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, function, parents, add in (
        ("run", _run, [configured, corpus], None),
        ("inspect", _inspect, [configured, corpus], add_inspect),
        ("serve", _serve, [configured, corpus], add_serve),
        ("ui", _ui, [], None),
        ("predict", _predict, [configured, served], add_predict),
        ("score", _score, [configured, served], add_score),
        ("evaluate", evaluate, [configured], add_evaluate),
        ("monitor", monitor, [configured, served], add_monitor),
        ("labels", labels, [configured, served], add_labels),
        ("serve-model", serve_model, [configured], add_serve_model),
        ("export", export, [configured, served], add_export),
        ("config", _config, [configured, corpus], add_config),
        ("models", list_models, [], add_models),
        ("doctor", _doctor, [configured], add_doctor),
        ("gc", collect_garbage, [configured], add_gc),
        ("backup", backup, [], add_backup),
        ("restore", restore, [], add_restore),
    ):
        text = textwrap.dedent(function.__doc__ or "").strip()
        command = commands.add_parser(name, help=text.splitlines()[0], description=text, parents=[*parents, shared])
        command.set_defaults(command=function)
        if add:
            add(command)
    return parser


def _run(options: argparse.Namespace, root: Path) -> int:
    """Run the whole pipeline and register the model."""
    config = resolve_to_run(options)
    from flows.cli.console import print_summary, show_log_lines
    from flows.cli.session import run_flow
    from tasks.tracking.reachability import require_tracking_server

    require_tracking_server()
    show_log_lines()

    def load() -> Callable[..., object]:
        from flows.pipeline import train_pipeline

        return train_pipeline

    result = run_flow(root, load, config=config)
    print_summary(result, config, artifacts=options.artifacts, pages_run="mlflow" in read_servers(root))
    return 0


def _inspect(options: argparse.Namespace, root: Path) -> int:
    """Say in seconds what a run would read and find in a corpus; starts no server, trains and stores nothing."""
    config = resolve(options).config
    from flows.cli.console import print_json, print_lines, program
    from flows.cli.inspection import inspect
    from flows.cli.inspection_lines import describe

    found = inspect(config, command=f"{program()} {format_run(options)}")
    if options.json:
        print_json(found.model_dump(mode="json"))
    else:
        print_lines(list(describe(found)))
    return 0


def _serve(options: argparse.Namespace, root: Path) -> int:
    """Start scheduled runs, one at a time, until the command is ended."""
    config = resolve_to_run(options)
    from flows.cli.console import print_servers
    from flows.cli.environment import use_servers
    from flows.cli.server_process import watched
    from flows.cli.servers import page_servers, running_servers
    from flows.cli.session import leave_at_once
    from flows.deployments import check_schedule, serve_pipeline

    check_schedule(options.cron, options.timezone)
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "INFO"  # a service logs all lines of all runs
    own = "PREFECT_API_URL" not in os.environ
    servers = page_servers(root)
    with running_servers(root, servers):
        print_servers(servers, links=sys.stdout.isatty())
        use_servers(root, {server.name: server.url for server in servers})
        # not before: prefect reads the address of its server when it is imported, and would start another one
        from tasks.runtime.loggers import open_loggers
        from tasks.training.train_classifier import check_machine

        open_loggers()
        check_machine(config.training)
        print(
            f"runs of train-classifier/{config.name} at {options.cron!r} ({options.timezone}); Ctrl-C ends", flush=True
        )
        with watched(servers), cleaning(config, root):
            serve_pipeline(config, cron=options.cron, timezone=options.timezone, own_server=own)
    leave_at_once(0)


def _ui(options: argparse.Namespace, root: Path) -> int:
    """Open the Prefect and MLflow pages: start them on 127.0.0.1 unless they run, and print links to log in."""
    from flows.cli.console import print_running, print_servers, show_log_lines
    from flows.cli.server_process import wait_for_interrupt, watched
    from flows.cli.servers import page_servers, running_servers

    show_log_lines()
    running = read_servers(root)
    print_running(root, running)
    servers = page_servers(root, without=running)
    if not servers:
        return 0
    print("starting the pages ...", flush=True)
    with running_servers(root, servers):
        print_servers(servers, links=True)
        print("Ctrl-C ends them", flush=True)
        with watched(servers):
            wait_for_interrupt()
    return 0


def _predict(options: argparse.Namespace, root: Path) -> int:
    """Classify texts with the registered champion."""
    config = resolve(options).config
    texts = options.texts or [line.rstrip("\n") for line in sys.stdin]
    if not texts:
        raise InputError("predict: expected a text as an argument or on standard input, got none")
    from tasks.runtime.loggers import open_loggers
    from tasks.tracking.reachability import require_tracking_server

    alias = choose_alias(options, config)
    require_tracking_server()
    from tasks.tracking.quick_loading import load_quickly

    open_loggers()
    model = load_quickly(root, config.registered_model, alias)
    if model is None:
        from tasks.tracking.loading import load_model  # here: it imports mlflow, which takes seconds

        model = load_model(config.registered_model, alias)
    if options.explain and "explain" not in model.options:
        raise InputError(
            f"predict: --explain: models:/{config.registered_model}/{model.version} was registered by a release whose "
            "models explain nothing; `gloveflow run` registers one that does"
        )
    answers = model.classify(texts, explain=True) if options.explain else model.classify(texts)
    if options.threshold is not None:
        for answer in answers:
            answer["abstained"] = answer["score"] < options.threshold
    if options.json:
        import json

        for text, answer in zip(texts, answers, strict=True):
            print(json.dumps({"text": text, **answer}, ensure_ascii=False))
    else:
        from flows.cli.console import print_answers

        print_answers(texts, answers, truncation=model.served.text["truncation"] if options.explain else "head")
    return 0


def _score(options: argparse.Namespace, root: Path) -> int:
    """Classify files of texts with the registered champion."""
    resolved = resolve(options)
    config = resolved.config
    alias = choose_alias(options, config)
    from flows.cli.console import print_scored, show_log_lines
    from flows.cli.scoring_checks import check_scoring
    from flows.cli.scoring_options import changes_of_reading, choose_output, place_sources
    from flows.cli.session import run_flow
    from tasks.tracking.reachability import require_tracking_server

    sources = place_sources(options.files)
    output = choose_output(options.output, sources)
    changes = changes_of_reading(resolved, options.text)
    asked = {
        "query": config.corpus.query,
        "table": options.table,
        "threshold": options.threshold,
        "top_k": options.top_k,
        "explain": options.explain,
        "runtime": config.scoring.runtime,
    }
    check_scoring(
        root,
        sources,
        output,
        model=config.registered_model,
        alias=alias,
        version=options.version,
        changes=changes,
        **asked,
    )
    require_tracking_server()
    show_log_lines()

    def load() -> Callable[..., object]:
        from flows.scoring import score_file

        return score_file

    result = run_flow(
        root,
        load,
        source=sources,
        output=output,
        model=config.registered_model,
        alias=alias,
        version=options.version,
        reading=changes,
        **asked,
    )
    print_scored(result, model=config.registered_model)
    return 0


def _config(options: argparse.Namespace, root: Path) -> int:
    """Show the resolved configuration and which layer, or which rule for this corpus, set each value."""
    resolved = resolve(options)
    from flows.cli.console import print_config
    from flows.cli.inspection import choose_for_corpus

    chosen = {} if options.yaml else choose_for_corpus(resolved.config)
    print_config(resolved, chosen, as_yaml=options.yaml)
    return 0


def _doctor(options: argparse.Namespace, root: Path) -> int:
    """Check versions, store, databases, servers and registry; with --repair, mend what can be mended."""
    config = resolve(options).config
    from flows.cli.console import print_findings, print_lines
    from flows.cli.doctor import examine, repair

    findings = examine(root, config.registration)
    print_findings(findings)
    if options.repair and not options.dry_run:
        print_lines(repair(findings))
        findings = examine(root, config.registration)
        print_findings([finding for finding in findings if not finding.ok])
    return 0 if all(finding.ok for finding in findings) else 4


if __name__ == "__main__":
    main()
