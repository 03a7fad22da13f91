"""Transfer a file, or a span of one, over HTTPS into a partial file that the next try resumes.

Reads a URL, writes a `PartialFile`. Status, content type, first bytes and length are checked. Certificates are always
verified, and redirects never leave HTTPS.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from pipeline_config.errors import ServiceError
from tasks.fetching.archives import GZIP_MAGIC, ZIP_MAGIC
from tasks.fetching.partial_file import PartialFile, Span
from tasks.runtime.progress import track_progress
from tasks.store.disk_errors import store_errors

logger = logging.getLogger(__name__)
MAX_REDIRECTS = 5
STALL_SECONDS = 30.0  # a connection that sends no byte for so long is closed
_TRANSIENT_STATUS = {408, 425, 429, 500, 502, 503, 504}
_MAGIC = {".zip": ZIP_MAGIC, ".gz": GZIP_MAGIC, ".parquet": b"PAR1"}
_HTML_STARTS = (b"<!doctype html", b"<html")


class TransientError(ServiceError):
    """A failure that may not happen again on a new try; the server asked to wait `pause_seconds` before it."""

    def __init__(self, message: str, pause_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class DeadlineError(ServiceError):
    """The time for the download is over."""

    def __init__(self) -> None:
        super().__init__(
            "the deadline has passed (vectors: embeddings.timeout_seconds); run again to resume the download"
        )


class RangeRefusedError(ServiceError):
    """The server does not send ranges of this file."""


def transfer_bytes(
    url: str, partial: PartialFile, final: Path, *, span: Span | None = None, digest_known: bool = True, deadline: float
) -> bool:
    """Complete a partial file from a URL, and return whether bytes of an earlier try were kept.

    Args:
        url: address of the file.
        partial: where the bytes are written.
        final: the name that the file will get later; its suffix says which first bytes are expected.
        span: the wanted span of the file; None for the whole file.
        digest_known: whether the caller can compare a digest, which would reveal a truncated file.
        deadline: on the clock of `time.monotonic`.

    Raises:
        TransientError: the transfer broke off.
        RangeRefusedError: a span is wanted, and the server sends whole files only.
        ServiceError: the response is not the file.
    """
    checked_later = digest_known or bool(span) or final.suffix.lower() in (".zip", ".gz")  # these have checksums
    with new_client(deadline) as client:
        resume = partial.find_resume_point(url, span, checked_later=checked_later)
        if span and resume and resume[0] >= span.end - span.start:
            return True
        response = open_url(client, url, _range_headers(resume, span))
        if resume and not _continues(response, (span.start if span else 0) + resume[0], resume[1]):
            response.close()
            resume = None
            response = open_url(client, url, _range_headers(resume, span))
        with contextlib.closing(response):
            _check_range(response, resume, span)
            check_response(
                response, ranged=bool(resume or span), final=final, truncation_detectable=digest_known or bool(span)
            )
            start = resume[0] if resume and response.status_code == 206 else 0
            with store_errors(partial.path):
                if not start:
                    partial.discard()  # a new ETag must never stand beside old bytes
                partial.write_sidecar(url, response.headers.get("etag"), span)
            length = span.end - span.start if span else _read_total_length(response)
            if length and not start:
                logger.info("%s: downloads %s MB", final.name, f"{length / 1e6:,.1f}")
            magic = b"" if start or span else _MAGIC.get(final.suffix.lower(), b"")
            try:
                _write_body(response, partial, final, start=start, length=length, magic=magic, deadline=deadline)
            finally:
                if not checked_later:
                    partial.record_digest()
    _check_size(partial, length)
    return start > 0


def new_client(deadline: float) -> httpx.Client:
    """Return a client that closes a connection without a byte after `STALL_SECONDS`, at the latest at the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineError
    return httpx.Client(timeout=httpx.Timeout(min(STALL_SECONDS, left)))


def open_url(client: httpx.Client, url: str, headers: dict[str, str]) -> httpx.Response:
    """Send a GET request, follow redirects that stay on HTTPS, and return the response with its body still unread.

    Raises:
        ServiceError: there are too many redirects, or one leaves HTTPS.
    """
    headers = {"Accept-Encoding": "identity", **headers}
    for _ in range(MAX_REDIRECTS + 1):
        response = client.send(client.build_request("GET", url, headers=headers), stream=True)
        if not response.has_redirect_location:
            return response
        response.close()
        url = str(response.url.join(response.headers["location"]))
        if urlsplit(url).scheme != "https":
            raise ServiceError(f"redirects to {url}, expected an https address")
    raise ServiceError(f"expected at most {MAX_REDIRECTS} redirects, got more")


def check_response(response: httpx.Response, *, ranged: bool, final: Path, truncation_detectable: bool = True) -> None:
    """Refuse a response that does not carry the file.

    Args:
        response: its headers are read, and the first bytes of the body for the message.
        ranged: whether a range was requested.
        final: the name that the file will get.
        truncation_detectable: whether the caller checks the digest or length, which would reveal a truncated file.

    Raises:
        TransientError: the status says that the server cannot answer now.
        ServiceError: the status is another error, or the content is an HTML page.
    """
    kind, encoding = response.headers.get("content-type", ""), response.headers.get("content-encoding", "identity")
    expected = (200, 206) if ranged else (200,)
    if response.status_code not in expected or kind.lower().startswith("text/html"):
        first = next(response.iter_raw(80), b"")[:80]
        problem = (
            f"got status {response.status_code}, content type {kind or 'none'}, first bytes {first!r}; "
            "expected the file"
        )
        if response.status_code in _TRANSIENT_STATUS:
            pause = response.headers.get("retry-after", "")
            raise TransientError(problem, float(pause) if pause.isdecimal() else 0.0)
        raise ServiceError(problem)
    length_known = "content-length" in response.headers or "chunked" in response.headers.get("transfer-encoding", "")
    if not length_known and not truncation_detectable:
        raise ServiceError(
            "the response states no length and no digest of the file is known, so a truncated file would go unnoticed"
        )
    if encoding != "identity" and final.suffix.lower() != ".gz":  # some servers call .gz files gzip-encoded
        raise ServiceError(f"got content encoding {encoding}, expected none")


def read_body(response: httpx.Response, max_bytes: int, deadline: float) -> bytes:
    """Return a short body; raise a `ServiceError` if it is longer than `max_bytes`."""
    body = bytearray()
    for chunk in _iterate_chunks(response, deadline):
        body += chunk
        if len(body) > max_bytes:
            raise ServiceError(f"expected at most {max_bytes:,} bytes, got more")
    return bytes(body)


def parse_content_range(response: httpx.Response) -> tuple[int, int] | None:
    """Return the first byte and the total length that a 206 response states, or None."""
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    first, total = rest.partition("-")[0], rest.rpartition("/")[2]
    if unit != "bytes" or not first.isdecimal() or not total.isdecimal():
        return None
    return int(first), int(total)


def _range_headers(resume: tuple[int, str] | None, span: Span | None) -> dict[str, str]:
    first = (span.start if span else 0) + (resume[0] if resume else 0)
    etag = resume[1] if resume else span.etag if span else None
    if etag is None:
        return {}
    return {"Range": f"bytes={first}-{span.end - 1 if span else ''}", "If-Range": etag}


def _continues(response: httpx.Response, first: int, etag: str) -> bool:
    """Return False if the response is a range that does not begin at `first` or has another ETag.

    A whole file (status 200) is accepted: it replaces the partial file.
    """
    if response.status_code != 206:
        return response.status_code != 416
    stated = parse_content_range(response)
    return stated is not None and stated[0] == first and response.headers.get("etag", etag) == etag


def _check_range(response: httpx.Response, resume: tuple[int, str] | None, span: Span | None) -> None:
    if span is None or response.status_code not in (200, 206, 416):
        return
    stated = parse_content_range(response)
    first = span.start + (resume[0] if resume else 0)
    if response.status_code != 206 or stated != (first, span.total) or not _continues(response, first, span.etag):
        raise RangeRefusedError("does not send the requested range")


def _read_total_length(response: httpx.Response) -> int | None:
    if response.status_code == 206:
        stated = parse_content_range(response)
        return stated[1] if stated else None
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _write_body(
    response: httpx.Response,
    partial: PartialFile,
    final: Path,
    *,
    start: int,
    length: int | None,
    magic: bytes,
    deadline: float,
) -> None:
    """Write the body from byte `start` on; refuse it if it is an HTML page or does not begin with `magic`."""
    first = b""
    with (
        store_errors(partial.path),
        partial.path.open("r+b" if start else "wb") as file,
        track_progress(f"download {final.name}", total=length, unit="B", initial=start) as advance,
    ):
        file.truncate(start)
        file.seek(start)
        for chunk in _iterate_chunks(response, deadline):
            if not start:
                first = (first + chunk[:80])[:80]
                if first[: len(magic)] != magic[: len(first)] or first.lower().startswith(_HTML_STARTS):
                    raise ServiceError(f"expected a {final.suffix} file, got one that begins with {first!r}")
            file.write(chunk)
            advance(len(chunk))
        if not start and 0 < len(first) < len(magic):
            raise TransientError(f"expected a {final.suffix} file, got only {first!r}")
        file.flush()
        os.fsync(file.fileno())


def _iterate_chunks(response: httpx.Response, deadline: float) -> Iterator[bytes]:
    try:
        for chunk in response.iter_raw():
            yield chunk
            if time.monotonic() > deadline:
                raise DeadlineError
    except httpx.TransportError as error:
        raise TransientError(str(error) or type(error).__name__) from error


def _check_size(partial: PartialFile, length: int | None) -> None:
    if length is not None and partial.size != length:
        got = partial.size
        if got > length:
            partial.discard()
        raise TransientError(f"expected {length:,} bytes, got {got:,}")
    if not partial.size:
        raise ServiceError("got an empty file")
