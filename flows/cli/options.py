"""The options and arguments of the commands. Imports only the standard library and modules of ours that do the same."""

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from pipeline_config.masking import mask_secrets
from pipeline_config.preset_files import DEFAULT_PRESET, list_presets

if TYPE_CHECKING:
    from pipeline_config.resolve import ResolvedConfig
    from pipeline_config.settings import PipelineConfig


class Parser(argparse.ArgumentParser):
    """A parser whose errors, which quote what was typed, show no secrets."""

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with code 2."""
        super().error(mask_secrets(message))


def shared_options(*, repeated: bool = False) -> Parser:
    """Return the options of every command.

    Args:
        repeated: they stand behind a second command name, and what was given before it stays unless they change it.
    """
    default: dict[str, Any] = {"default": argparse.SUPPRESS} if repeated else {}
    parser = Parser(add_help=False)
    parser.add_argument(
        "--artifacts",
        type=Path,
        help="directory of all outputs (default: $GLOVEFLOW_ARTIFACTS or ./artifacts)",
        **default,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error", **default)
    return parser


def configured_options() -> Parser:
    """Return the options of commands that need a configuration."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "--preset", help=f"one of {', '.join(list_presets())} (default: {DEFAULT_PRESET}, or none if you name a corpus)"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML file with your own values")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        dest="overrides",
        help="set one value; can be repeated",
    )
    return parser


def corpus_options() -> Parser:
    """Return the arguments of commands that read a corpus."""
    parser = Parser(add_help=False)
    parser.add_argument(
        "files",
        nargs="*",
        metavar="FILE",
        help="your corpus: files, a directory, a URL (corpus.source); the first gives the name, unless name is set",
    )
    parser.add_argument(
        "--text", metavar="COLUMN[,COLUMN]", help="column with the text, or several (corpus.text_column)"
    )
    parser.add_argument("--label", metavar="COLUMN", help="column with the class (corpus.label_column)")
    parser.set_defaults(names_corpus=True)
    return parser


def list_arguments(options: argparse.Namespace) -> list[tuple[str, dict[str, Any]]]:
    """Return what the arguments of `corpus_options` set, one layer each; nothing for commands that lack them."""
    if not getattr(options, "names_corpus", False):
        return []
    files, text, label = (getattr(options, name, None) for name in ("files", "text", "label"))
    found: list[tuple[str, str, Any]] = []
    if files:
        found.append((f"FILE {' '.join(files)}", "source", files[0] if len(files) == 1 else files))
    if text is not None:
        columns = [column.strip() for column in text.split(",")]
        found.append((f"--text {text}", "text_column", columns[0] if len(columns) == 1 else columns))
    if label is not None:
        found.append((f"--label {label}", "label_column", label))
    return [(origin, {"corpus": {key: value}}) for origin, key, value in found]


def format_run(options: argparse.Namespace) -> str:
    """Return the arguments of `gloveflow` that run what a command with the same options is about."""
    parts = ["run", *options.files]
    for name in ("text", "label", "preset", "config", "artifacts"):
        value = getattr(options, name)
        parts += [] if value is None else [f"--{name}", str(value)]
    return shlex.join(parts + [part for text in options.overrides for part in ("--set", text)])


def served_options() -> Parser:
    """Return the options of commands that use a registered model."""
    parser = Parser(add_help=False)
    parser.add_argument("--alias", help="alias of the model version (default: the configured champion alias)")
    return parser


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add what `serve` takes."""
    parser.add_argument("--cron", required=True, help="when to run, for example '0 3 * * *'")
    parser.add_argument("--timezone", default="UTC", help="time zone of the cron line (default: UTC)")


def add_predict(parser: argparse.ArgumentParser) -> None:
    """Add what `predict` takes."""
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="a text; without one, each line of standard input")
    parser.add_argument("--json", action="store_true", help="print one JSON object per text")
    parser.add_argument("--explain", action="store_true", help="show which tokens speak for the label and against it")
    parser.add_argument(
        "--threshold", type=_probability, metavar="P", help="mark labels with a probability below P as abstained"
    )


def _probability(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def add_score(parser: argparse.ArgumentParser) -> None:
    """Add what `score` takes."""
    parser.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="what corpus.source takes: a file, directory, glob, URL or database (with --set corpus.query=SQL); .txt "
        "with a text per line, or a folder of .txt files",
    )
    parser.add_argument(
        "--output",
        help="what to write: a name that ends in .parquet, .csv or .jsonl; a directory, with / at the end; a URL of "
        "these; a database (default: FILE-scored.parquet)",
    )
    parser.add_argument("--table", metavar="NAME", help="the new table to write, if --output is a database")
    parser.add_argument("--version", type=int, metavar="N", help="number of the model version, instead of an alias")
    parser.add_argument(
        "--threshold", type=float, metavar="P", help="mark labels with a probability below P in the column abstained"
    )
    parser.add_argument(
        "--top-k", type=int, metavar="K", help="the K best labels instead of the probabilities of all classes"
    )
    parser.add_argument(
        "--explain",
        type=_token_count,
        nargs="?",
        const=5,
        metavar="K",
        help="write the K tokens (5 without a number) that weighed most for the label and against it; takes a hundred "
        "times as long",
    )
    add_text(parser)


def _token_count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(
            f"expected a number of tokens, or nothing, got {text}; give the files before this option"
        )
    return int(text)


def add_text(parser: argparse.ArgumentParser) -> None:
    """Add the option that names the columns with the text."""
    parser.add_argument(
        "--text",
        "--column",
        type=lambda names: tuple(names.split(",")),
        metavar="COLUMN[,COLUMN]",
        help="column with the text, or several that are joined (default: those that the model was trained on)",
    )


def add_config(parser: argparse.ArgumentParser) -> None:
    """Add what `config` takes."""
    parser.add_argument("--yaml", action="store_true", help="print a YAML file for --config")


def add_inspect(parser: argparse.ArgumentParser) -> None:
    """Add what `inspect` takes."""
    parser.add_argument("--json", action="store_true", help="print what was found as JSON")


def add_doctor(parser: argparse.ArgumentParser) -> None:
    """Add what `doctor` takes."""
    parser.add_argument("--repair", action="store_true", help="mend what can be mended, after saying what")
    parser.add_argument("--dry-run", action="store_true", help="with --repair: only say what would be done")


def resolve(options: argparse.Namespace) -> "ResolvedConfig":
    """Return the configuration that the options and arguments of a command give."""
    from pipeline_config.resolve import resolve_config

    return resolve_config(
        preset=options.preset, file=options.config, arguments=list_arguments(options), overrides=options.overrides
    )


def choose_alias(options: argparse.Namespace, config: "PipelineConfig") -> str:
    """Return the alias that `--alias` names, or the configured one."""
    from pipeline_config.names import check_alias

    return config.registration.alias if options.alias is None else check_alias(options.alias, "--alias")


def resolve_to_run(options: argparse.Namespace) -> "PipelineConfig":
    """Return the configuration of a run, after a look at what it needs: variables, corpus, files of vectors."""
    from pipeline_config.references import check_references

    config = resolve(options).config
    config.corpus.require_source()
    check_references(config.model_dump())
    from flows.cli.inputs import check_inputs

    check_inputs(config)
    return config
