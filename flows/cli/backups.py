"""`gloveflow backup` and `gloveflow restore`."""

import argparse
import os
from pathlib import Path

from pipeline_config.errors import ConfigError


def add_backup(parser: argparse.ArgumentParser) -> None:
    """Add what `backup` takes."""
    parser.add_argument("file", type=Path, metavar="FILE", help="the file to write, for example gloveflow.tar.gz")


def add_restore(parser: argparse.ArgumentParser) -> None:
    """Add what `restore` takes."""
    parser.add_argument("file", type=Path, metavar="FILE", help="what `gloveflow backup` wrote")


def backup(options: argparse.Namespace, root: Path) -> int:
    """Write models, runs, outputs and reports of an artifacts directory to one file, also while runs go on.

    Left out is what can be had again (downloads, checkpoints, unfinished scorings, logs) and the secret of the servers.
    Records on servers of your own, which MLFLOW_TRACKING_URI and PREFECT_API_URL name, are not in it. The file is a
    compressed tar file that only you can read.
    """
    if not root.is_dir():
        raise ConfigError(f"{root}: no such artifacts directory; --artifacts names another one")
    from flows.cli.console import print_lines, show_log_lines
    from tasks.housekeeping.backup import write_backup
    from tasks.housekeeping.selection import housekeeping_lock

    show_log_lines()
    target = options.file.absolute()
    with housekeeping_lock(root):
        made = write_backup(root, target)
    lines = [
        f"{options.file}: {made.files:,} files, {made.outputs:,} stage outputs, {made.size / 2**20:,.1f} MB in "
        f"{made.packed / 2**20:,.1f} MB",
        f"`gloveflow restore {options.file} --artifacts DIRECTORY` restores it into a new directory",
    ]
    if os.environ.get("MLFLOW_TRACKING_URI"):
        lines.append("runs and models are on the server that MLFLOW_TRACKING_URI names, and not in this backup")
    print_lines(lines)
    return 0


def restore(options: argparse.Namespace, root: Path) -> int:
    """Restore a backup into an empty artifacts directory (--artifacts).

    The whole file is checked before anything is written. Restore only your own backups: models in it are code that
    `predict` and `score` run. The servers of the new directory get a secret of their own.
    """
    from flows.cli.console import print_lines
    from tasks.housekeeping.backup import require_file
    from tasks.housekeeping.restore import restore_backup
    from tasks.housekeeping.selection import housekeeping_lock

    require_file(options.file)
    with housekeeping_lock(root):
        restored = restore_backup(options.file.absolute(), root)
    print_lines(
        [
            f"{root}: {restored.files:,} files, {restored.size / 2**20:,.1f} MB, of {restored.created} by gloveflow "
            f"{restored.gloveflow}",
            f"`gloveflow models --artifacts {root}` lists the models",
        ]
    )
    return 0
