"""The checks of `gloveflow doctor` and their repairs. The checks of an installation are here.

Those of an artifacts directory are in `flows.cli.damage`, those of runs and models in `flows.cli.registry_damage`.
"""

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

from flows.cli.damage import check_databases, check_leftovers, check_outputs, check_scorings, check_servers, check_space
from flows.cli.findings import Finding
from pipeline_config.errors import GloveflowError
from pipeline_config.registration import RegistrationConfig
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory

MIN_FREE_BYTES = 2 << 30


def examine(root: Path, gate: RegistrationConfig) -> list[Finding]:
    """Return the findings of all checks of an installation and its artifacts directory.

    Args:
        root: the artifacts directory.
        gate: the names of the aliases.
    """
    checks: list[Callable[[Path], Iterator[Finding]]] = [
        check_versions,
        check_prefect_server,
        check_store,
        check_space,
        check_outputs,
        check_leftovers,
        check_scorings,
        check_databases,
        check_servers,
        _check_prefect,
        lambda root: _check_records(root, gate),
    ]
    return [finding for check in checks for finding in check(root)]


def repair(findings: list[Finding]) -> list[str]:
    """Mend what can be mended; return a line for each: what was done, or why not."""
    lines = []
    for finding in findings:
        if finding.mend:
            try:
                done = finding.mend()
            except (GloveflowError, OSError, sqlite3.Error) as error:
                done = f"could not be mended: {error}"
            lines.append(f"mend {finding.subject}: {done}")
    return lines or ["nothing to mend"]


def _check_prefect(root: Path) -> Iterator[Finding]:
    from flows.cli.prefect_damage import check_prefect

    yield from check_prefect(root)


def _check_records(root: Path, gate: RegistrationConfig) -> Iterator[Finding]:
    """Check runs and models; a database that cannot be opened is reported by its own check."""
    from flows.cli.registry_damage import check_records  # here: it imports mlflow

    yield from check_records(root, gate)


def check_versions(_root: Path) -> Iterator[Finding]:
    """Compare installed distributions with our bounds, and report what breaks those of Prefect and MLflow."""
    version = ".".join(map(str, sys.version_info[:3]))
    yield Finding(sys.version_info >= (3, 11), "python", version)
    yield from _compare_requirements("gloveflow")
    for server in ("prefect", "mlflow"):
        yield from (finding for finding in _compare_requirements(server) if not finding.ok)


def _compare_requirements(distribution: str) -> Iterator[Finding]:
    try:
        requirements = [Requirement(text) for text in metadata.requires(distribution) or []]
    except metadata.PackageNotFoundError:  # reported as a missing requirement of Gloveflow
        return
    for requirement in requirements:
        if requirement.marker and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            yield Finding(False, requirement.name, f"is not installed, expected {requirement.specifier}")
            continue
        ok = requirement.specifier.contains(installed.partition("+")[0], prereleases=True)
        note = "" if ok else f", expected {requirement.specifier}"
        yield Finding(ok, requirement.name, f"{installed}{note}")


def check_prefect_server(_root: Path) -> Iterator[Finding]:
    """Import Prefect's server; wrong versions of fastapi or SQLAlchemy make this fail."""
    with contextlib.suppress(KeyError, OSError):
        make_directory(Path(os.environ["PREFECT_HOME"]))  # importing prefect warns if it is missing
    try:
        import prefect.server.api.server  # noqa: F401
    except Exception as error:
        yield Finding(False, "prefect server", f"cannot be imported: {type(error).__name__}: {error}")
    else:
        yield Finding(True, "prefect server", "can be imported")


def check_store(root: Path) -> Iterator[Finding]:
    """Lock a file in the artifacts directory, and check the free space."""
    try:
        with file_lock(root / ".doctor.lock", waiting_for="another doctor"):
            pass
        (root / ".doctor.lock").unlink()
    except (GloveflowError, OSError) as error:
        yield Finding(False, "store", str(error))
        return
    free = shutil.disk_usage(root).free
    outputs = len(list((root / "store").glob("*/*/manifest.json")))
    note = "" if free >= MIN_FREE_BYTES else f", expected at least {MIN_FREE_BYTES / 2**30:.0f} GiB"
    yield Finding(not note, "store", f"{root}: {outputs} stage outputs, {free / 2**30:.1f} GiB free{note}")
