"""`gloveflow models`: list, show, compare, promote, roll back and delete registered versions."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.cli.evaluation import version_number
from flows.cli.model_tables import describe_version, list_comparison, list_versions_of, show_value
from flows.cli.options import add_text, configured_options, resolve, shared_options
from pipeline_config.errors import ConfigError, UnusableModelError

if TYPE_CHECKING:
    from pipeline_config.settings import PipelineConfig
    from tasks.registry.comparison import Answers


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add the commands of `gloveflow models`; without one, versions are listed."""
    _add_list_options(parser, repeated=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    shared, configured = shared_options(repeated=True), configured_options()
    for name, function, add in (
        ("list", list_models, None),
        ("show", _show, _add_show),
        ("compare", _compare, _add_compare),
        ("promote", _promote, _add_promote),
        ("approve", _approve, _add_promote),
        ("reject", _reject, _add_promote),
        ("rollback", _rollback, _add_rollback),
        ("delete", _delete, _add_delete),
    ):
        text = (function.__doc__ or "").strip()
        parents = [configured, shared] if add else [shared]
        command = commands.add_parser(name, help=text.splitlines()[0], description=text, parents=parents)
        _add_list_options(command, repeated=True)
        command.set_defaults(command=function)
        if add:
            add(command)


def _add_list_options(parser: argparse.ArgumentParser, *, repeated: bool) -> None:
    default: dict[str, Any] = {"default": argparse.SUPPRESS} if repeated else {}
    parser.add_argument("--model", metavar="NAME", help="registered model (default: of the configuration)", **default)
    parser.add_argument("--json", action="store_true", help="print JSON", **default)


def _add_show(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("version", type=version_number, metavar="N", help="number of the version")


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("a", type=version_number, metavar="A", help="number of a version")
    parser.add_argument("b", type=version_number, metavar="B", help="number of another version")
    parser.add_argument("--file", type=Path, help="compare the answers to the texts of this file, too")
    add_text(parser)
    parser.add_argument("--label", help="column with the true label")


def _add_promote(parser: argparse.ArgumentParser) -> None:
    _add_show(parser)
    parser.add_argument("--why", required=True, type=_reason, metavar="TEXT", help="the reason, for the record")


def _add_rollback(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--why", default="rolled back by hand", type=_reason, metavar="TEXT", help="the reason")


def _add_delete(parser: argparse.ArgumentParser) -> None:
    _add_show(parser)
    parser.add_argument("--why", default="deleted by hand", type=_reason, metavar="TEXT", help="the reason")


def list_models(options: argparse.Namespace, root: Path) -> int:
    """List, show, compare, promote, approve, reject, roll back and delete registered versions."""
    from flows.cli.console import print_json, print_lines
    from tasks.tracking.version_list import list_versions

    if options.model:
        _check_name(options.model)
    records = list_versions(root, options.model)
    if options.model and not records:
        raise ConfigError(f"{options.model}: no such registered model; `gloveflow models` lists them")
    if options.json:
        print_json([describe_version(record) for record in records])
    elif records:
        print_lines(list_versions_of(records))
    else:
        print_lines(["no model is registered here; `gloveflow run` registers one"])
    return 0


def _show(options: argparse.Namespace, root: Path) -> int:
    """Show a version: scores, aliases, corpus, decision, changes, classes, and whether its files are intact."""
    name = _model_name(options, resolve(options).config)
    from flows.cli.console import print_json, print_lines
    from tasks.tracking.model_files import verify_version
    from tasks.tracking.version_list import CHANGES_TAG, RUN_TAG, list_versions
    from tasks.tracking.versions import read_changes, require_version

    version = require_version(name, options.version)
    (record,) = [found for found in list_versions(root, name) if found.version == options.version]
    files = "intact"
    try:
        verify_version(version)
    except UnusableModelError as error:
        files = str(error)
    values = describe_version(record) | {
        "files": files,
        "run": record.tags.get(RUN_TAG),
        "changes": read_changes(record.tags),
        "description": str(version.description or ""),
    }
    if options.json:
        print_json(values)
        return 0
    lines = [f"{key:18} {show_value(value)}" for key, value in values.items() if key not in ("changes", "description")]
    changes = [f"  {c.get('when')}  {c.get('who')}: {c.get('what')}: {c.get('why')}" for c in values["changes"]]
    unread = "" if CHANGES_TAG in record.tags else " none recorded"
    print_lines([*lines, f"changes{unread}", *changes, "", *str(values["description"]).splitlines()])
    return 0


def _compare(options: argparse.Namespace, root: Path) -> int:
    """Compare two versions: settings, scores, vocabulary, and answers to the same documents."""
    name = _model_name(options, resolve(options).config)
    from flows.cli.console import print_json, print_lines
    from tasks.registry.comparison import compare_versions

    result = compare_versions(name, options.a, options.b)
    on_file = _compare_on_file(options, name) if options.file else None
    if options.json:
        answers = {"answers": result.answers and result.answers.describe(), "file": on_file and on_file.describe()}
        print_json(vars(result) | answers)
    else:
        print_lines(list_comparison(result, on_file))
    return 0


def _promote(options: argparse.Namespace, root: Path) -> int:
    """Give the champion alias to a version, without the gate; the champion becomes the previous version."""
    config = resolve(options).config
    name = _model_name(options, config)
    from tasks.registry.changes import promote

    return _report(promote(name, options.version, config.registration, why=options.why), options)


def _approve(options: argparse.Namespace, root: Path) -> int:
    """Give the champion alias to a version that waits for a person (registration.approval)."""
    config = resolve(options).config
    name = _model_name(options, config)
    from tasks.registry.approval import approve

    return _report(approve(name, options.version, config.registration, why=options.why), options)


def _reject(options: argparse.Namespace, root: Path) -> int:
    """Record that a version that waits for a person is not wanted; the champion stays."""
    name = _model_name(options, resolve(options).config)
    from tasks.registry.approval import reject

    return _report(reject(name, options.version, why=options.why), options)


def _rollback(options: argparse.Namespace, root: Path) -> int:
    """Give the champion alias back to the version that had it before."""
    config = resolve(options).config
    name = _model_name(options, config)
    from tasks.registry.changes import rollback

    return _report(rollback(name, config.registration, why=options.why), options)


def _delete(options: argparse.Namespace, root: Path) -> int:
    """Remove a version without an alias from the registry; the files of its MLflow run stay."""
    name = _model_name(options, resolve(options).config)
    from tasks.registry.changes import delete

    return _report(delete(name, options.version, why=options.why), options)


def _report(done: str, options: argparse.Namespace) -> int:
    from flows.cli.console import print_json, print_lines

    if options.json:
        print_json({"done": done})
    else:
        print_lines([done])
    return 0


def _model_name(options: argparse.Namespace, config: "PipelineConfig") -> str:
    """Return the registered model that is meant, and make sure that its server answers."""
    from tasks.tracking.reachability import require_tracking_server

    if options.model:
        _check_name(options.model)
    require_tracking_server()
    return str(options.model or config.registered_model)


def _check_name(name: str) -> None:
    from pipeline_config.names import check_model_name

    check_model_name(name, "--model")


def _compare_on_file(options: argparse.Namespace, name: str) -> "Answers":
    """Compare the answers to a file, which is read as the corpus of the first version was."""
    from tasks.reading.inputs import read_labelled
    from tasks.reading.sources import locate_files
    from tasks.registry.comparison import ask_both
    from tasks.tracking.loaded import describe_files
    from tasks.tracking.model_files import open_verified, version_uri
    from tasks.tracking.versions import require_version

    pair = [require_version(name, number) for number in (options.a, options.b)]
    with open_verified(pair[0]) as folder:
        reading = describe_files(version_uri(pair[0]), folder).reading
    changes = {"text_column": options.text} if options.text else {}
    others = dict.fromkeys(("split_column", "group_column", "time_column"))
    reading = reading.model_copy(update={**others, **changes, "label_column": options.label})
    rows = read_labelled(locate_files([str(options.file.absolute())], reading), reading)
    known = [label or "" for label in rows.labels] if options.label else None
    return ask_both(str(options.file), rows.texts, known, pair)


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("expected a reason, got an empty text")
    return text.strip()
