"""Whole runs of the command line on a small corpus, and what they must leave behind."""

import json
from pathlib import Path

from tests.small_run import CommandLine, set_options, small_run, write_inputs


def small_options(folder: Path, *more: str) -> list[str]:
    """Write the small corpus and its vectors into a new folder, and return the options of a run on them."""
    folder.mkdir()
    return ["--preset", "smoke", *set_options([*small_run(write_inputs(folder)), *more])]


def new_store(folder: Path) -> CommandLine:
    """Return the command line on an artifacts directory of its own, which does not exist yet; it starts its servers."""
    return CommandLine(folder / "artifacts")


def output_digests(artifacts: Path) -> dict[str, str]:
    """Return the digests of all committed outputs, by stage and key; those of unbroken runs are the same."""
    manifests = (artifacts / "store").glob("*/*/manifest.json")
    return {f"{path.parts[-3]}/{path.parts[-2]}": json.loads(path.read_text())["digest"] for path in manifests}
