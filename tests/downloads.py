"""Two files to download, what is left in the download directory, and downloads that fail; tests share it."""

import hashlib
import zipfile
from pathlib import Path
from unittest import mock

import pytest

from pipeline_config.errors import ServiceError
from tasks.fetching.mirrors import download_file
from tests.zip_files import make_zip

BODY = make_zip(("glove.txt", bytes(range(256)) * 300), compression=zipfile.ZIP_STORED)
OTHER = make_zip(("glove.txt", bytes(reversed(range(256))) * 400), compression=zipfile.ZIP_STORED)
HALF = len(BODY) // 2
DIGEST = hashlib.sha256(BODY).hexdigest()


def list_endings(artifacts: Path) -> list[str]:
    """Return the endings of the files in the download directory: of a.zip, a.zip.part and a.zip.part.json."""
    return sorted(path.name.partition(".")[2] for path in (artifacts / "downloads").glob("[!.]*"))


def find_partial_file(artifacts: Path) -> Path:
    """Return the only partial file in the download directory."""
    return next((artifacts / "downloads").glob("*.part"))


def fail_download(*urls: str, sha256: str | None = None) -> str:
    """Return the message of a download that tries every address once and fails."""
    with mock.patch("tasks.fetching.mirrors._is_transient", return_value=False), pytest.raises(ServiceError) as caught:
        download_file(urls, sha256=sha256)
    return str(caught.value)
