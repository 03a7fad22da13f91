"""Fetch one file over HTTPS, so that nothing wrong ever gets its final name.

Reads a URL, writes `<artifacts>/downloads/<name>`. A broken transfer leaves `<name>.part` and a sidecar with
URL and ETag, from which the next try resumes. Status, content type, first bytes, length and digest
are checked before the file is renamed. Certificates are always verified, redirects never leave HTTPS.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from pipeline_config.errors import InputError, ServiceError
from tasks.locks import file_lock, store_errors
from tasks.progress import track_progress
from tasks.store import artifacts_root, file_digest

logger = logging.getLogger(__name__)
MAX_REDIRECTS = 5
_MAGIC = {".zip": b"PK\x03\x04", ".gz": b"\x1f\x8b", ".parquet": b"PAR1"}


class _Part(NamedTuple):
    """An unfinished download: the bytes so far and the ETag of the whole."""

    path: Path

    @property
    def sidecar(self) -> Path:
        return self.path.with_suffix(f"{self.path.suffix}.json")

    def resumable(self, url: str) -> tuple[int, str] | None:
        """Return the size so far and the validator to resume with, or None to start over."""
        try:
            known = json.loads(self.sidecar.read_text("utf-8"))
            size = self.path.stat().st_size
        except (OSError, ValueError):
            return None
        return (size, known["etag"]) if size and known.get("url") == url and known.get("etag") else None

    def describe(self, url: str, etag: str | None) -> None:
        self.sidecar.write_text(json.dumps({"url": url, "etag": etag}), "utf-8")

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def download_file(
    urls: Sequence[str], *, sha256: str | None = None, offline: bool = False, timeout_seconds: float = 3600.0
) -> Path:
    """Return the local path of a file, downloading it when it is not there.

    Args:
        urls: addresses of the same file, tried in this order.
        sha256: digest that the file must have; None accepts any content of the right kind and length.
        offline: fail instead of opening a connection.
        timeout_seconds: deadline for the whole call.

    Raises:
        InputError: an address is not HTTPS, or the file is not there and `offline` is set.
        ServiceError: no address gave the file; a later try may.
    """
    for url in urls:
        if urlsplit(url).scheme != "https":
            raise InputError(f"{url}: expected an https address")
    name = f"{hashlib.sha256(urls[0].encode()).hexdigest()[:8]}-{Path(urlsplit(urls[0]).path).name or 'file'}"
    final = artifacts_root() / "downloads" / name
    with file_lock(final.with_name(f".{name}.lock"), waiting_for=f"another run to download {urls[0]}"):
        if final.is_file() and (sha256 is None or file_digest(final) == sha256):
            return final
        if offline:
            raise InputError(f"{urls[0]}: is not in {final.parent} and embeddings.offline forbids to fetch it")
        deadline = time.monotonic() + timeout_seconds
        failures = []
        for url in urls:
            try:
                _fetch(url, _Part(final.with_name(f"{name}.part")), final, sha256=sha256, deadline=deadline)
                return final
            except (ServiceError, httpx.HTTPError, httpx.InvalidURL) as error:
                failures.append(f"{url}: {_reason(error)}")
                logger.warning("%s", failures[-1])
        raise ServiceError("download failed\n" + "\n".join(failures))


def _fetch(url: str, part: _Part, final: Path, *, sha256: str | None, deadline: float) -> None:
    with httpx.Client(timeout=httpx.Timeout(30.0)) as client:
        resume = part.resumable(url)
        response = _open(client, url, resume)
        if resume and not _fits(response, *resume):
            response.close()
            resume = None
            response = _open(client, url, resume)
        with contextlib.closing(response):
            _check_response(response, resuming=resume is not None)
            start = resume[0] if resume and response.status_code == 206 else 0
            if not start:
                part.discard()  # so that a new ETag never stands beside old bytes
            part.describe(url, response.headers.get("etag"))
            length = _whole_length(response)
            _copy(response, part, start, length, final, deadline)
    _accept(part, final, length=length, sha256=sha256)


def _open(client: httpx.Client, url: str, resume: tuple[int, str] | None) -> httpx.Response:
    headers = {"Accept-Encoding": "identity"}
    if resume:
        headers |= {"Range": f"bytes={resume[0]}-", "If-Range": resume[1]}
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(client.build_request("GET", url, headers=headers), stream=True)
        if not response.has_redirect_location:
            return response
        response.close()
        url = str(response.url.join(response.headers["location"]))
        if urlsplit(url).scheme != "https":
            raise ServiceError(f"redirects to {url}, expected an https address")
    raise ServiceError(f"more than {MAX_REDIRECTS} redirects")


def _fits(response: httpx.Response, size: int, etag: str) -> bool:
    """Tell whether a response can follow a part: not when its range or its ETag is another, or out of range."""
    if response.status_code != 206:
        return response.status_code != 416
    same_start = response.headers.get("content-range", "").startswith(f"bytes {size}-")
    return bool(same_start and response.headers.get("etag", etag) == etag)


def _check_response(response: httpx.Response, *, resuming: bool) -> None:
    kind = response.headers.get("content-type", "")
    expected = (200, 206) if resuming else (200,)
    if response.status_code not in expected or kind.lower().startswith("text/html"):
        first = next(response.iter_bytes(80), b"")[:80]
        raise ServiceError(
            f"got status {response.status_code}, content type {kind or 'none'}, beginning {first!r}; expected the file"
        )


def _whole_length(response: httpx.Response) -> int | None:
    if response.status_code == 206:
        whole = response.headers.get("content-range", "").rpartition("/")[2]
    else:
        whole = response.headers.get("content-length", "")
    return int(whole) if whole.isdigit() else None


def _copy(response: httpx.Response, part: _Part, start: int, length: int | None, final: Path, deadline: float) -> None:
    with (
        store_errors(part.path),
        part.path.open("r+b" if start else "wb") as file,
        track_progress(f"download {final.name}", total=length, unit="B", initial=start) as advance,
    ):
        file.truncate(start)
        file.seek(start)
        magic, first = b"" if start else _MAGIC.get(final.suffix.lower(), b""), b""
        for chunk in response.iter_bytes():
            first = (first + chunk[:80])[:80]
            if first[: len(magic)] != magic[: len(first)]:
                raise ServiceError(f"begins with {first!r}, which is no {final.suffix} file")
            file.write(chunk)
            advance(len(chunk))
            if time.monotonic() > deadline:
                raise ServiceError("the deadline embeddings.timeout_seconds has passed; the next run resumes")
        file.flush()
        os.fsync(file.fileno())


def _accept(part: _Part, final: Path, *, length: int | None, sha256: str | None) -> None:
    size = part.path.stat().st_size
    if length is not None and size != length:
        if size > length:
            part.discard()
        raise ServiceError(f"got {size:,} bytes, expected {length:,}")
    if not size:
        raise ServiceError("got an empty file")
    if sha256 is not None:
        got = file_digest(part.path)
        if got != sha256:
            part.discard()
            raise ServiceError(f"its SHA-256 is {got}, expected {sha256}")
    part.path.rename(final)
    part.sidecar.unlink(missing_ok=True)


def _reason(error: Exception) -> str:
    return str(error) or type(error).__name__
