"""The files of a registered version: their digests in the registry, and the check before any of them is used.

A version has a tag with the SHA-256 of each of its files, `MLmodel` and code included. Before a version is used, its
files are copied to a private directory, the copies are compared with the tag, and only the copies are loaded. So what
is loaded is what was checked, even if a process changes the files meanwhile. Reads the registry and MLflow's files.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import mlflow
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from pipeline_config.errors import UnusableModelError
from tasks.store.disk_errors import find_store_error
from tasks.tracking.server import open_client
from tasks.tracking.version_files import FILES_TAG, find_difference, hash_files, remove_leftovers

Version: TypeAlias = ModelVersion  # for modules that do not import mlflow


def write_files_tag(folder: Path) -> str:
    """Return the value of the tag for the files of a model in a directory."""
    return json.dumps(hash_files(folder), separators=(",", ":"))


@contextlib.contextmanager
def open_verified(version: Version) -> Iterator[Path]:
    """Give the body a private copy of a version's files, which agrees with the version's tag.

    Raises:
        UnusableModelError: the version has no readable tag, its files cannot be had, or one differs from the tag.
    """
    expected = _read_files_tag(version)
    with tempfile.TemporaryDirectory(prefix="gloveflow-model-") as folder:
        copy = _copy_files(version, Path(folder))
        problem = find_difference(hash_files(copy), expected)
        if problem:
            raise UnusableModelError(f"{version_uri(version)}: {problem}")
        yield copy


def verify_version(version: Version) -> None:
    """Check the files of a version against its tag, without loading them.

    Raises:
        UnusableModelError: as in `open_verified`.
    """
    with open_verified(version):
        pass


def version_uri(version: Version) -> str:
    """Return the MLflow address of a version."""
    return f"models:/{version.name}/{version.version}"


def _read_files_tag(version: Version) -> dict[str, str]:
    text = version.tags.get(FILES_TAG)
    if text is None:
        raise UnusableModelError(
            f"{version_uri(version)}: it has no tag {FILES_TAG} with the digests of its files, so they cannot be "
            f"checked; it was registered by an older release or not by gloveflow"
        )
    with contextlib.suppress(ValueError):
        digests = json.loads(text)
        if isinstance(digests, dict) and digests and all(isinstance(digest, str) for digest in digests.values()):
            return digests
    raise UnusableModelError(
        f"{version_uri(version)}: its tag {FILES_TAG} is not a JSON object of file names and SHA-256 digests"
    )


def _copy_files(version: Version, folder: Path) -> Path:
    """Copy a version's files into a directory, and return the copy."""
    try:
        location = open_client().get_model_version_download_uri(version.name, str(version.version))
        copy = Path(mlflow.artifacts.download_artifacts(artifact_uri=location, dst_path=str(folder)))
    except (MlflowException, OSError) as error:
        if found := find_store_error(error, folder):  # the copy cannot be written, which says nothing about the version
            raise found from error
        reason = error.message if isinstance(error, MlflowException) else error
        raise UnusableModelError(f"{version_uri(version)}: its files cannot be read: {reason}") from error
    remove_leftovers(copy)
    return copy
