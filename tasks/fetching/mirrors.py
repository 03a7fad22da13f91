"""Fetch one file over HTTPS, so that nothing wrong ever gets its final name.

Reads a URL, writes `<artifacts>/downloads/<name>` and, beside it, `<name>.sha256` with its digest, which is held from
then on. A broken transfer leaves `<name>.part`, from which the next try resumes. What may pass is tried again with
growing pauses, by every mirror in turn, until the deadline.
"""

import contextlib
import hashlib
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from pipeline_config.errors import InputError, ServiceError
from tasks.fetching.archives import check_whole
from tasks.fetching.transfer import DeadlineError, Part, TransientError, fetch_part
from tasks.runtime.progress import track_progress
from tasks.store.artifacts import artifacts_root, file_digest
from tasks.store.disk_errors import store_errors
from tasks.store.locks import file_lock

logger = logging.getLogger(__name__)
PAUSE_SECONDS = 2.0  # before the first new try; doubles with each one
FRUITLESS_TRIES = 5  # after so many rounds without a new byte the download fails


def download_file(
    urls: Sequence[str], *, sha256: str | None = None, offline: bool = False, timeout_seconds: float = 3600.0
) -> Path:
    """Return the local path of a file, downloading it when it is not there.

    Args:
        urls: addresses of the same file, tried in this order.
        sha256: digest that the file must have; None accepts any content of the right kind and length, records its
            digest, and accepts no other from then on.
        offline: fail instead of opening a connection.
        timeout_seconds: deadline for the whole call, new tries included.

    Raises:
        InputError: an address is not HTTPS, or the file is not there and `offline` is set.
        ServiceError: no address gave the file; a later try may.
    """
    check_addresses(urls)
    final = local_path(urls[0], Path(urlsplit(urls[0]).path).name or "file")
    with one_download(final, urls[0]):
        if is_intact(final, sha256):
            return final
        refuse_offline(offline, final, urls[0])

        part, deadline = part_of(final), time.monotonic() + timeout_seconds
        try_mirrors(
            urls, lambda url: fetch_file(url, part, final, sha256=sha256, deadline=deadline), [part], deadline=deadline
        )
    return final


def check_addresses(urls: Sequence[str]) -> None:
    """Raise an `InputError` unless all addresses are HTTPS."""
    for url in urls:
        if urlsplit(url).scheme != "https":
            raise InputError(f"{url}: expected an https address")


def local_path(url: str, name: str) -> Path:
    """Return where a file that comes from an address is kept."""
    return artifacts_root() / "downloads" / f"{hashlib.sha256(url.encode()).hexdigest()[:8]}-{name}"


def part_of(final: Path) -> Part:
    """Return the unfinished download of a file."""
    return Part(final.with_name(f"{final.name}.part"))


def one_download(final: Path, url: str) -> contextlib.AbstractContextManager[None]:
    """Hold the lock by which several runs make one download."""
    return file_lock(final.with_name(f".{final.name}.lock"), waiting_for=f"another run to download {url}")


def refuse_offline(offline: bool, final: Path, url: str) -> None:
    """Raise an `InputError` if no connection may be opened."""
    if offline:
        raise InputError(f"{url}: is not in {final.parent} and embeddings.offline forbids to fetch it")


def is_intact(final: Path, sha256: str | None) -> bool:
    """Tell whether a file is there with the digest that it must have, or that was recorded when it came."""
    expected = sha256 or read_record(final)
    return final.is_file() and expected is not None and file_digest(final) == expected


def read_record(final: Path) -> str | None:
    """Return the SHA-256 that was recorded for a file, if it was."""
    try:
        return _record_path(final).read_text("utf-8").partition(" ")[0]
    except (OSError, ValueError):
        return None


def check_digest(got: str, final: Path, sha256: str | None, *, what: str = "its SHA-256") -> None:
    """Compare a digest with the one it must be, or with the record; make the record when there is none.

    Raises:
        ServiceError: it is another one.
    """
    recorded = read_record(final)
    expected = sha256 or recorded
    if expected not in (None, got):
        advice = "" if sha256 else f", as at the first download; delete {_record_path(final)} to accept another content"
        raise ServiceError(f"{what} is {got}, expected {expected}{advice}")
    if recorded != got:
        with store_errors(final):
            _record_path(final).write_text(f"{got}  {final.name}\n", "utf-8")


def try_mirrors(urls: Sequence[str], fetch: Callable[[str], None], parts: Sequence[Part], *, deadline: float) -> None:
    """Call `fetch(url)` until one address gives the file.

    What may pass is tried again after a pause. An address that gave new bytes is asked again before the next one, so
    that it resumes.

    Raises:
        ServiceError: no address gave the file.
    """
    failures: dict[str, str] = {}
    hopeful = list(urls)
    fruitless = 0
    while hopeful and fruitless < FRUITLESS_TRIES:
        asked = 0.0
        fruitless += 1
        for url in list(hopeful):
            before = sum(part.size for part in parts)
            try:
                return fetch(url)
            except (ServiceError, httpx.HTTPError, httpx.InvalidURL) as error:
                failures[url] = str(error) or type(error).__name__
                logger.warning("%s: %s", url, failures[url])
                if isinstance(error, DeadlineError):
                    raise _failed(failures) from error
                if not _may_pass(error):
                    hopeful.remove(url)
                asked = max(asked, getattr(error, "pause_seconds", 0.0))
            if sum(part.size for part in parts) > before:
                fruitless = 0
                break
        pause = max(asked, PAUSE_SECONDS * 2 ** max(fruitless - 1, 0) * random.uniform(0.75, 1.25))  # noqa: S311
        if hopeful and fruitless < FRUITLESS_TRIES:
            if time.monotonic() + pause > deadline:
                failures[hopeful[0]] += "; the deadline embeddings.timeout_seconds leaves no time for another try"
                break
            _wait(pause)
    raise _failed(failures)


def fetch_file(url: str, part: Part, final: Path, *, sha256: str | None, deadline: float) -> None:
    """Fetch a whole file, check it and give it its final name.

    Raises:
        ServiceError: the answer is not the file.
    """
    known = sha256 is not None or read_record(final) is not None
    resumed = fetch_part(url, part, final, checked=known, deadline=deadline)
    try:
        if not known:
            check_whole(part.path)
        check_digest(file_digest(part.path), final, sha256)
    except (InputError, ServiceError) as error:
        part.discard()
        raise TransientError(str(error)) if resumed else ServiceError(str(error)) from error
    with store_errors(final):
        part.path.rename(final)
        part.sidecar.unlink(missing_ok=True)


def _record_path(final: Path) -> Path:
    return final.with_name(f"{final.name}.sha256")


def _failed(failures: dict[str, str]) -> ServiceError:
    return ServiceError("download failed\n" + "\n".join(f"{url}: {reason}" for url, reason in failures.items()))


def _may_pass(error: Exception) -> bool:
    causes = (error, error.__cause__, error.__context__)
    if any(isinstance(cause, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY" in str(cause) for cause in causes):
        return False
    return isinstance(error, TransientError | httpx.TransportError)


def _wait(seconds: float) -> None:
    until = time.monotonic() + seconds
    with track_progress("wait before the next try", total=round(seconds, 1), unit="s") as advance:
        while (left := until - time.monotonic()) > 0:
            time.sleep(min(left, 0.2))
            advance(min(left, 0.2))
