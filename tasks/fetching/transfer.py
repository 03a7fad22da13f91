"""Transfer a file, or a span of one, over HTTPS into a part that the next try goes on from.

Reads a URL, writes `<part>` and a sidecar with URL, ETag and span. Status, content type, first bytes and length are
checked. Certificates are always verified, redirects never leave HTTPS.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import httpx

from pipeline_config.errors import ServiceError
from tasks.fetching.archives import GZIP_MAGIC, ZIP_MAGIC
from tasks.runtime.progress import track_progress
from tasks.store.disk_errors import store_errors

MAX_REDIRECTS = 5
STALL_SECONDS = 30.0  # without a byte, a connection is given up
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_MAGIC = {".zip": ZIP_MAGIC, ".gz": GZIP_MAGIC, ".parquet": b"PAR1"}
_PAGES = (b"<!doctype html", b"<html")


class TransientError(ServiceError):
    """A failure that another try may mend; `pause_seconds` is what the server asked for."""

    def __init__(self, message: str, pause_seconds: float = 0.0) -> None:
        super().__init__(message)
        self.pause_seconds = pause_seconds


class DeadlineError(ServiceError):
    """The time for the download is over."""

    def __init__(self) -> None:
        super().__init__("the deadline embeddings.timeout_seconds has passed; the next run resumes")


class RangeRefusedError(ServiceError):
    """The server does not send ranges of this file."""


class Span(NamedTuple):
    """A range of a remote file, of which the whole is `total` bytes long and has this ETag."""

    start: int
    end: int
    total: int
    etag: str


class Part(NamedTuple):
    """An unfinished download: the bytes so far, and where they are from."""

    path: Path

    @property
    def sidecar(self) -> Path:
        """Path of the description, which says where the bytes are from."""
        return self.path.with_suffix(f"{self.path.suffix}.json")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def resumable(self, url: str, span: Span | None) -> tuple[int, str] | None:
        """Return the size so far and the validator to resume with, or None to start over."""
        try:
            known = json.loads(self.sidecar.read_text("utf-8"))
            same = known["url"] == url and known["span"] == (span and list(span))
            etag = known["etag"] if same else None
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return (self.size, etag) if self.size and isinstance(etag, str) and is_strong(etag) else None

    def describe(self, url: str, etag: str | None, span: Span | None) -> None:
        """Note where the bytes are from."""
        self.sidecar.write_text(json.dumps({"url": url, "etag": etag, "span": span}), "utf-8")

    def discard(self) -> None:
        """Delete the part and its description."""
        self.path.unlink(missing_ok=True)
        self.sidecar.unlink(missing_ok=True)


def fetch_part(
    url: str, part: Part, final: Path, *, span: Span | None = None, checked: bool = True, deadline: float
) -> bool:
    """Fetch a file, or a span of it, to its end, going on where the part ends; tell whether it was resumed.

    Args:
        url: where it is.
        part: where the bytes go.
        final: what the file will be called.
        span: the span that is wanted; None is for all of it.
        checked: a digest of the file is known, so that a cut-off one would be noticed.
        deadline: on the clock of `time.monotonic`.

    Raises:
        TransientError: it broke.
        RangeRefusedError: a span was asked for, and the server sends whole files only.
        ServiceError: the answer is not the file.
    """
    with new_client(deadline) as client:
        resume = part.resumable(url, span)
        if span and resume and resume[0] >= span.end - span.start:
            return True
        response = open_url(client, url, _range_headers(resume, span))
        if resume and not _fits(response, (span.start if span else 0) + resume[0], resume[1]):
            response.close()
            resume = None
            response = open_url(client, url, _range_headers(resume, span))
        with contextlib.closing(response):
            _check_range(response, resume, span)
            check_response(response, ranged=bool(resume or span), final=final, checked=checked or span is not None)
            start = resume[0] if resume and response.status_code == 206 else 0
            with store_errors(part.path):
                if not start:
                    part.discard()  # so that a new ETag never stands beside old bytes
                part.describe(url, response.headers.get("etag"), span)
            length = span.end - span.start if span else _whole_length(response)
            magic = b"" if start or span else _MAGIC.get(final.suffix.lower(), b"")
            _copy(response, part, start, length, final, deadline, magic=magic)
    _check_size(part, length)
    return start > 0


def new_client(deadline: float) -> httpx.Client:
    """Return a client that gives up a connection without a byte, at the latest at the deadline."""
    left = deadline - time.monotonic()
    if left <= 0:
        raise DeadlineError
    return httpx.Client(timeout=httpx.Timeout(min(STALL_SECONDS, left)))


def open_url(client: httpx.Client, url: str, headers: dict[str, str]) -> httpx.Response:
    """Send a request, following redirects that stay on HTTPS; the body is still to be read.

    Raises:
        ServiceError: too many redirects, or one that leaves HTTPS.
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
    raise ServiceError(f"more than {MAX_REDIRECTS} redirects")


def check_response(response: httpx.Response, *, ranged: bool, final: Path, checked: bool = True) -> None:
    """Refuse an answer that does not carry the file.

    Args:
        response: the answer.
        ranged: a range was asked for.
        final: what the file will be called.
        checked: a cut-off file would be noticed afterwards, by its digest or its length.

    Raises:
        TransientError: the server says that it cannot answer now.
        ServiceError: it says that it will not, or sends a page.
    """
    kind, encoding = response.headers.get("content-type", ""), response.headers.get("content-encoding", "identity")
    expected = (200, 206) if ranged else (200,)
    if response.status_code not in expected or kind.lower().startswith("text/html"):
        first = next(response.iter_raw(80), b"")[:80]
        problem = (
            f"got status {response.status_code}, content type {kind or 'none'}, beginning {first!r}; expected the file"
        )
        if response.status_code in _PASSING_STATUS:
            asked = response.headers.get("retry-after", "")
            raise TransientError(problem, float(asked) if asked.isdecimal() else 0.0)
        raise ServiceError(problem)
    framed = "content-length" in response.headers or "chunked" in response.headers.get("transfer-encoding", "")
    if not framed and not checked:
        raise ServiceError("states no length, and no digest of the file is known: it could be cut off unnoticed")
    if encoding != "identity" and final.suffix.lower() != ".gz":  # of those, some servers say that they are encoded
        raise ServiceError(f"got content encoding {encoding}, expected the file as it is")


def read_body(response: httpx.Response, most: int, deadline: float) -> bytes:
    """Return a short body; raise a `ServiceError` when it is longer than `most` bytes."""
    body = bytearray()
    for chunk in _chunks(response, deadline):
        body += chunk
        if len(body) > most:
            raise ServiceError(f"got more than {most:,} bytes")
    return bytes(body)


def is_strong(etag: str) -> bool:
    """Tell whether an ETag stands for the very bytes, so that ranges with it belong together (RFC 9110, 8.8.1)."""
    return len(etag) > 2 and etag.startswith('"')


def content_range(response: httpx.Response) -> tuple[int, int] | None:
    """Return the first byte and the length of the whole that a 206 answer states."""
    unit, _, rest = response.headers.get("content-range", "").partition(" ")
    first, whole = rest.partition("-")[0], rest.rpartition("/")[2]
    if unit != "bytes" or not first.isdecimal() or not whole.isdecimal():
        return None
    return int(first), int(whole)


def _range_headers(resume: tuple[int, str] | None, span: Span | None) -> dict[str, str]:
    first = (span.start if span else 0) + (resume[0] if resume else 0)
    etag = resume[1] if resume else span.etag if span else None
    if etag is None:
        return {}
    return {"Range": f"bytes={first}-{span.end - 1 if span else ''}", "If-Range": etag}


def _fits(response: httpx.Response, first: int, etag: str) -> bool:
    """Tell whether a response can follow a part: not when its range or its ETag is another, or out of range."""
    if response.status_code != 206:
        return response.status_code != 416
    stated = content_range(response)
    return stated is not None and stated[0] == first and response.headers.get("etag", etag) == etag


def _check_range(response: httpx.Response, resume: tuple[int, str] | None, span: Span | None) -> None:
    if span is None or response.status_code not in (200, 206, 416):
        return
    stated = content_range(response)
    first = span.start + (resume[0] if resume else 0)
    if response.status_code != 206 or stated != (first, span.total) or not _fits(response, first, span.etag):
        raise RangeRefusedError("does not send the range that was asked for")


def _whole_length(response: httpx.Response) -> int | None:
    if response.status_code == 206:
        stated = content_range(response)
        return stated[1] if stated else None
    length = response.headers.get("content-length", "")
    return int(length) if length.isdecimal() else None


def _copy(
    response: httpx.Response,
    part: Part,
    start: int,
    length: int | None,
    final: Path,
    deadline: float,
    *,
    magic: bytes,
) -> None:
    first = b""
    with (
        store_errors(part.path),
        part.path.open("r+b" if start else "wb") as file,
        track_progress(f"download {final.name}", total=length, unit="B", initial=start) as advance,
    ):
        file.truncate(start)
        file.seek(start)
        for chunk in _chunks(response, deadline):
            if not start:
                first = (first + chunk[:80])[:80]
                if first[: len(magic)] != magic[: len(first)] or first.lower().startswith(_PAGES):
                    raise ServiceError(f"begins with {first!r}, which is no {final.suffix} file")
            file.write(chunk)
            advance(len(chunk))
        if not start and 0 < len(first) < len(magic):
            raise TransientError(f"got {first!r} only, which is no {final.suffix} file")
        file.flush()
        os.fsync(file.fileno())


def _chunks(response: httpx.Response, deadline: float) -> Iterator[bytes]:
    try:
        for chunk in response.iter_raw():
            yield chunk
            if time.monotonic() > deadline:
                raise DeadlineError
    except httpx.TransportError as error:
        raise TransientError(str(error) or type(error).__name__) from error


def _check_size(part: Part, length: int | None) -> None:
    if length is not None and part.size != length:
        got = part.size
        if got > length:
            part.discard()
        raise TransientError(f"got {got:,} bytes, expected {length:,}")
    if not part.size:
        raise ServiceError("got an empty file")
