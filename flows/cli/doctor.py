"""The checks of `gloveflow doctor`: versions of packages, the Prefect server, the store, databases, pages."""

import contextlib
import os
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

from flows.cli.server_records import read_servers
from pipeline_config.errors import GloveflowError
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory

MIN_FREE_BYTES = 2 << 30


class Finding(NamedTuple):
    """The result of one check."""

    ok: bool
    subject: str
    text: str


def examine(root: Path) -> list[Finding]:
    """Return the findings of all checks of an installation and its artifacts directory."""
    checks: list[Callable[[Path], Iterator[Finding]]] = [
        check_versions,
        check_prefect_server,
        check_store,
        check_databases,
        check_servers,
    ]
    return [finding for check in checks for finding in check(root)]


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


def check_databases(root: Path) -> Iterator[Finding]:
    """Check the SQLite databases of Prefect and MLflow, if they exist."""
    for name, path in (("prefect db", root / "prefect" / "prefect.db"), ("mlflow db", root / "mlflow" / "mlflow.db")):
        if not path.exists():
            yield Finding(True, name, f"{path}: does not exist yet; the first run creates it")
            continue
        try:
            connection = sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)
            with connection:
                problem = connection.execute("PRAGMA quick_check").fetchone()[0]
            connection.close()
        except sqlite3.Error as error:
            problem = str(error)
        yield Finding(problem == "ok", name, f"{path}: {problem}, {path.stat().st_size / 2**20:.1f} MiB")


def check_servers(root: Path) -> Iterator[Finding]:
    """Report which servers of `gloveflow ui` or `gloveflow serve` run for this directory."""
    servers = read_servers(root)
    for name in ("prefect", "mlflow"):
        url = servers.get(name)
        yield Finding(True, f"{name} pages", f"{url} is up" if url else "not running; `gloveflow ui` starts them")
