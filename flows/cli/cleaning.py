"""`gloveflow gc`: its options, its table, and how `gloveflow serve` calls it."""

import argparse
import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flows.cli.options import resolve
from pipeline_config.errors import ConfigError, GloveflowError, StoreError

if TYPE_CHECKING:
    from pipeline_config.settings import PipelineConfig
    from tasks.housekeeping.selection import Item, Limits

_AGE = re.compile(r"(\d+(?:\.\d+)?)([mhdw])")
_SECONDS = {"m": 60.0, "h": 3600.0, "d": 86400.0, "w": 7 * 86400.0}
_MIB = 2**20
TRACKING, PREFECT = "MLFLOW_TRACKING_URI", "PREFECT_API_URL"


def add_gc(parser: argparse.ArgumentParser) -> None:
    """Add what `gc` takes."""
    parser.add_argument(
        "--keep",
        type=_count,
        metavar="N",
        help="newest runs of each experiment, versions of each model, and flow runs that stay (default: "
        "housekeeping.keep, 10)",
    )
    parser.add_argument(
        "--older-than",
        type=_age,
        metavar="AGE",
        help="what was used within this time stays: 30d, 12h, 2w (default: housekeeping.older_than_days, 7 days)",
    )
    parser.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    parser.add_argument("--yes", action="store_true", help="delete without a question")
    parser.add_argument(
        "--servers",
        action="store_true",
        help="delete also on the servers of your own that MLFLOW_TRACKING_URI and PREFECT_API_URL name, and there only "
        "runs, versions and flow runs with our tags of this one configuration (--preset, --config, --set name=...); "
        "MLflow marks them as deleted, and `mlflow gc` on its server frees the space",
    )


def collect_garbage(options: argparse.Namespace, root: Path) -> int:
    """Delete what is old and nobody needs: outputs, checkpoints, downloads, runs, versions, logs.

    A thing goes if it is not among the newest, was not used for some time, and nothing that stays needs it. What an
    alias, a version that waits for an approval, a run that is going on or the tag gloveflow.keep of a run or version
    names stays in any case, with all stage outputs of its run. It shows what would go first. It may be killed, and
    other commands may run meanwhile.
    """
    config = resolve(options).config
    if not root.is_dir():
        raise ConfigError(f"{root}: no such artifacts directory; --artifacts names another one")
    from flows.cli.console import print_lines
    from tasks.housekeeping.selection import begin, housekeeping_lock
    from tasks.runtime.parent import end_with_parent
    from tasks.tracking.reachability import require_tracking_server

    end_with_parent()
    keep = config.housekeeping.keep if options.keep is None else options.keep
    seconds = config.housekeeping.older_than_days * 86400 if options.older_than is None else options.older_than
    foreign = list_foreign(root)
    require_tracking_server()
    with housekeeping_lock(root), _prefect(root, ask=options.servers or PREFECT not in foreign) as wait_for_prefect:
        limits = begin(keep, seconds)
        items = search(root, limits, config, foreign=foreign, servers=options.servers, wait=wait_for_prefect)
        print_lines(list_items(items))
        if foreign and not options.servers:
            print_lines([f"nothing is deleted on the server that {' and '.join(foreign)} names, without --servers"])
        going = [item for item in items if item.remove]
        if not going or options.dry_run:
            print_lines(["nothing was deleted" if options.dry_run else "there is nothing to delete"])
        elif not options.yes and not _confirm(len(going)):
            print_lines(["nothing was deleted"])
        else:
            _delete(root, going)
    return 0


def list_foreign(root: Path) -> list[str]:
    """Return which variables name a server that is not one of these artifacts."""
    from flows.cli.server_records import read_servers

    foreign = [name for name in (TRACKING, PREFECT) if os.environ.get(name)]
    if PREFECT in foreign and os.environ[PREFECT] == f"{read_servers(root).get('prefect')}/api":
        foreign.remove(PREFECT)
    return foreign


def search(
    root: Path,
    limits: "Limits",
    config: "PipelineConfig",
    *,
    foreign: Sequence[str] = (),
    servers: bool = False,
    wait: Callable[[], None] | None = None,
) -> "list[Item]":
    """Return what was found, in the order in which it may be deleted: what names a thing before the thing.

    Args:
        root: the artifacts directory.
        limits: what is kept in any case.
        config: whose records on servers of the user's may go.
        foreign: variables that name a server of the user's.
        servers: whether such records may go at all.
        wait: waits for the Prefect server; None if there is none to ask.
    """
    from tasks.housekeeping.files import find_files, find_outputs, find_reports
    from tasks.housekeeping.records import Records, search_records

    records = Records([], set(), set(), set())
    if TRACKING in foreign:
        names = {f"gloveflow/{config.name}", f"gloveflow/scoring/{config.registered_model}"}
        records = search_records(limits, delete=servers, experiments=names, models={config.registered_model})
    elif (root / "mlflow" / "mlflow.db").exists():
        records = search_records(limits, delete=True)
    items = list(records.items)
    if wait is not None:
        wait()
        from flows.old_runs import find_flow_runs

        items += find_flow_runs(limits, records.flow_runs, pipeline=config.name if PREFECT in foreign else None)
    items += find_outputs(root, limits, records.outputs)
    items += find_files(root, limits)
    items += find_reports(root, limits, records.versions)
    return items


def list_items(items: "Sequence[Item]") -> list[str]:
    """Return a table of what goes and what stays, by kind, with the sum."""
    lines = [f"{'':26} {'delete':>8} {'MB':>10}    {'keep':>8} {'MB':>10}"]
    kinds = list(dict.fromkeys(item.kind for item in items))
    for kind in [*kinds, "all"]:
        found = [item for item in items if kind in (item.kind, "all")]
        going, staying = ([item for item in found if bool(item.remove) is goes] for goes in (True, False))
        cells = "    ".join(f"{len(part):8,} {_megabytes(part)}" for part in (going, staying))
        lines.append(f"{kind:26} {cells}")
    return lines


@contextlib.contextmanager
def cleaning(config: "PipelineConfig", root: Path) -> Iterator[None]:
    """Clean at the start and then every `housekeeping.every_hours` during the body, in processes of their own.

    An error is logged, because the next cleaning comes.
    """
    hours = config.housekeeping.every_hours
    if hours is None:
        yield
        return
    ended = threading.Event()
    running: list[subprocess.Popen[str]] = []

    def clean_on() -> None:
        while not ended.is_set():
            running[:] = [start_cleaning(config, root)]
            output, _ = running[0].communicate()
            _log_cleaning(running[0].returncode, output, quiet=ended.is_set())
            ended.wait(hours * 3600)

    thread = threading.Thread(target=clean_on, name="cleaning", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        for process in running:
            process.terminate()
        thread.join(3.0)


def start_cleaning(config: "PipelineConfig", root: Path) -> "subprocess.Popen[str]":
    """Start `gloveflow gc` with the limits of a configuration; it ends with this process."""
    from tasks.runtime.parent import PARENT_VARIABLE

    limits = config.housekeeping
    arguments = [
        *("--artifacts", str(root), "--keep", str(limits.keep), "--older-than", f"{limits.older_than_days:f}d"),
        "--yes",
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli.main", "gc", *arguments],
        env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def _log_cleaning(code: int, output: str, *, quiet: bool) -> None:
    import logging

    logger = logging.getLogger(__name__)
    last = output.strip().rpartition("\n")[2]
    if code == 0:
        logger.info("gloveflow gc: %s", last)
    elif not quiet:
        logger.warning("gloveflow gc failed with code %d; it is tried again at the next time: %s", code, last)


@contextlib.contextmanager
def _prefect(root: Path, *, ask: bool) -> Iterator[Callable[[], None] | None]:
    """Start a Prefect server if needed; yields what waits for it, or None if there is none whose flow runs may go."""
    if not ask or (PREFECT not in os.environ and not (root / "prefect" / "prefect.db").exists()):
        yield None
        return
    from flows.cli.servers import embedded_prefect

    with embedded_prefect(root) as wait:
        yield wait


def _delete(root: Path, items: "Sequence[Item]") -> None:
    """Delete items, say how many, and shrink the databases.

    Raises:
        StoreError: some could not be deleted; the others were.
    """
    from flows.cli.console import print_lines
    from tasks.housekeeping.databases import shrink_databases

    done: list[Item] = []
    failed: list[str] = []
    for item in items:
        try:
            if item.remove and item.remove():
                done.append(item)
        except (GloveflowError, OSError) as error:
            failed.append(f"{item.name}: {error}")
    _wait_for_logs(done)
    freed = shrink_databases(root)
    kept = len(items) - len(done) - len(failed)
    used = f"; {kept:,} are used again and stay" if kept else ""
    size = _megabytes(done).strip()
    print_lines([f"deleted {len(done):,} of {len(items):,}: {size} MB, and {freed / _MIB:,.1f} MB of databases{used}"])
    if failed:
        raise StoreError(f"{len(failed)} could not be deleted, the first: {failed[0]}")


def _wait_for_logs(done: "Sequence[Item]") -> None:
    flow_runs = [item.name.rpartition("(")[2].rstrip(")") for item in done if item.kind == "Prefect flow runs"]
    if flow_runs:
        from flows.old_runs import wait_for_logs

        wait_for_logs(flow_runs)


def _confirm(number: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(
            "gc: asks before it deletes, and standard input is no terminal; add --yes to delete, or --dry-run to look"
        )
    return input(f"delete {number:,} things? [y/N] ").strip().lower() in ("y", "yes")


def _megabytes(items: "Sequence[Item]") -> str:
    return f"{sum(item.size for item in items) / _MIB:10,.1f}"


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a number, got {text!r}")
    return int(text)


def _age(text: str) -> float:
    """Return the seconds of an age such as `30d`."""
    found = _AGE.fullmatch(text.strip().lower())
    if not found:
        raise argparse.ArgumentTypeError(f"expected a number with m, h, d or w, such as 30d, got {text!r}")
    return float(found[1]) * _SECONDS[found[2]]
