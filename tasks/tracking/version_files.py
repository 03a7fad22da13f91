"""The files of a registered version in our own registry, compared with their digests without mlflow.

mlflow takes seconds to import. What is found here is only told early: before a version is used, a copy of its files is
compared again (`model_files.open_verified`). Reads only.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline_config.errors import ServiceError
from tasks.tracking.version_list import DECISION_TAG, VersionRecord, list_versions

FILES_TAG = "gloveflow.files"
_LEFTOVERS = ("registered_model_meta", "__pycache__/")  # of MLflow and Python, in the directory of a loaded model


class VersionFiles(NamedTuple):
    """A registered version: its number, the directory of its files, and their digests in the registry."""

    version: int
    folder: Path
    digests: dict[str, str]


def find_version_files(root: Path, name: str, *, alias: str, number: int | None) -> VersionFiles | None:
    """Return the files of a version, or None if they cannot be known without mlflow.

    Args:
        root: the artifacts directory.
        name: name of the model.
        alias: alias of the version.
        number: number of the version, instead of an alias.

    Raises:
        ServiceError: there is no such version.
    """
    if os.environ.get("MLFLOW_TRACKING_URI"):
        return None
    records = list_versions(root, name)
    found = [r for r in records if (alias in r.aliases if number is None else r.version == number)]
    if not found:
        raise ServiceError(describe_absent(name, alias, number, records))
    with contextlib.suppress(sqlite3.Error, ValueError, TypeError):
        folder = _read_folder(root / "mlflow" / "mlflow.db", name, found[0].version)
        digests = json.loads(found[0].tags[FILES_TAG]) if FILES_TAG in found[0].tags else None
        ours = folder.resolve().is_relative_to((root / "mlflow" / "files").resolve())  # false in a copied directory
        if ours and folder.is_dir() and isinstance(digests, dict):
            return VersionFiles(found[0].version, folder, digests)
    return None


def describe_absent(name: str, alias: str, number: int | None, records: Sequence[VersionRecord]) -> str:
    """Return the message that there is no such version, and what to do.

    Args:
        name: name of the model.
        alias: the alias that no version has.
        number: number of the version, instead of an alias.
        records: the versions of the model, the newest last.
    """
    if number is not None:
        return f"models:/{name}/{number}: no such version; `gloveflow models` lists them"
    uri = f"models:/{name}@{alias}"
    if not records:
        return f"{uri}: no such registered model; `gloveflow run` makes one"
    known = [f"{one} (version {record.version})" for record in records for one in record.aliases]
    if any(one != "challenger" for record in records for one in record.aliases):
        return f"{uri}: no version has this alias; there are {', '.join(sorted(known))}"
    newest = records[-1]
    decision = newest.tags.get(DECISION_TAG)
    return (
        f"{uri}: no version has this alias. The newest is version {newest.version}"
        f"{f' ({decision})' if decision else ''}. {describe_promotion(name, str(newest.version))} makes it the "
        f"champion all the same; `gloveflow models --model {name}` lists all versions"
    )


def advise_mending(name: str) -> str:
    """Return what to do about a version that cannot be used."""
    return (
        "To mend it, run `gloveflow doctor --repair`, which moves the alias to the version before, or `gloveflow run`, "
        f"which registers a new version, and then {describe_promotion(name, 'N')}"
    )


def describe_promotion(name: str, version: str) -> str:
    """Return the command that gives the champion alias to a version, for messages."""
    return f"`gloveflow models promote {version} --model {name} --why TEXT`"


def find_problem(files: VersionFiles) -> str | None:
    """Return which file of a version is missing, changed or added, or None."""
    found = {name: digest for name, digest in hash_files(files.folder).items() if not name.startswith(_LEFTOVERS)}
    return find_difference(found, files.digests)


def remove_leftovers(folder: Path) -> None:
    """Remove what MLflow writes into the directory of a model that it loads: the version's name, and byte code."""
    (folder / "registered_model_meta").unlink(missing_ok=True)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)


def hash_files(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of each file of a directory, by its path in the directory, sorted."""
    digests = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or not path.is_dir():
            with path.open("rb") as file:
                digests[path.relative_to(folder).as_posix()] = hashlib.file_digest(file, "sha256").hexdigest()
    return digests


def find_difference(found: Mapping[str, str], expected: Mapping[str, str]) -> str | None:
    """Compare digests of files by name; return which file is missing, changed or added, or None.

    If several differ, the first by name is given.
    """
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            return f"its file {name} is missing"
        if name not in expected:
            return f"the file {name} was added to it after it was registered"
        if found[name] != expected[name]:
            return f"its file {name} was changed after it was registered"
    return None


def _read_folder(database: Path, name: str, version: int) -> Path:
    query = "SELECT storage_location FROM model_versions WHERE name = ? AND version = ?"
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=60)) as connection:
        (location,) = connection.execute(query, (name, version)).fetchone()
    return Path(url2pathname(urlsplit(location).path))
