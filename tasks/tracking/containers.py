"""The directory from which a container that serves a registered version is built."""

import re
import shutil
import string
import sys
from pathlib import Path

from pipeline_config.errors import ConfigError, StoreError, UnusableModelError
from tasks.tracking import scoring_app
from tasks.tracking.model_files import Version, open_verified, version_uri

_TEMPLATE = Path(__file__).with_name("Dockerfile")


def write_container(version: Version, folder: Path) -> None:
    """Write a Dockerfile, the files of a version, its requirements and its server into a new or empty directory.

    Args:
        version: the version; its files are compared with their digests.
        folder: the directory.

    Raises:
        ConfigError: the directory is not empty, or no directory.
        StoreError: it cannot be written.
        UnusableModelError: the files of the version cannot be had or differ from their digests.
    """
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigError(f"{folder}: expected a new or empty directory, got one with files")
        with open_verified(version) as copy:
            requirements = (copy / "requirements.txt").read_text("utf-8")
            torch = re.search(r"^torch==\S+$", requirements, re.MULTILINE)
            if torch is None:
                raise UnusableModelError(f"{version_uri(version)}: its requirements.txt pins no torch")
            shutil.copytree(copy, folder / "model", copy_function=shutil.copyfile)
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        text = string.Template(_TEMPLATE.read_text("utf-8")).substitute(
            uri=version_uri(version), python=python, torch=torch[0]
        )
        (folder / "Dockerfile").write_text(text, "utf-8")
        (folder / "requirements.txt").write_text(requirements, "utf-8")
        shutil.copyfile(scoring_app.__file__, folder / "server.py")
        for path in folder.rglob("*"):  # the user of the container is not the one who writes these
            path.chmod(0o755 if path.is_dir() else 0o644)
    except OSError as error:
        if isinstance(error, NotADirectoryError):
            raise ConfigError(f"{folder}: expected a new or empty directory, got a file") from error
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}") from error
