"""Download one file over HTTPS from one of several addresses; only a verified file ever gets its final name.

Reads a URL. Writes `<artifacts>/downloads/<name>` and beside it `<name>.sha256` with its digest, which the file must
have from then on. A broken transfer leaves `<name>.part`, which the next try resumes. After a transient failure, every
mirror is tried again in turn, with growing pauses, until the deadline.
"""

import contextlib
import logging
import random
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import httpx

from pipeline_config.errors import InputError, ServiceError
from pipeline_config.masking import digest_url, mask_secrets
from tasks.fetching.archives import check_complete
from tasks.fetching.partial_file import PartialFile
from tasks.fetching.transfer import DeadlineError, TransientError, transfer_bytes
from tasks.runtime.progress import track_progress
from tasks.store.artifacts import artifacts_root, file_digest
from tasks.store.disk_errors import store_errors
from tasks.store.locks import file_lock

logger = logging.getLogger(__name__)
PAUSE_SECONDS = 2.0  # before the second try; doubles with each further one
MAX_TRIES_WITHOUT_PROGRESS = 5  # the download fails after so many rounds through all mirrors without a new byte


def download_file(
    urls: Sequence[str], *, sha256: str | None = None, offline: bool = False, timeout_seconds: float = 3600.0
) -> Path:
    """Return the local path of a file, and download it first if it is not there.

    Args:
        urls: addresses of the same file, tried in this order.
        sha256: digest that the file must have. With None the first download accepts any content of the right type and
            length and records its digest; later downloads must have that digest.
        offline: fail instead of opening a connection.
        timeout_seconds: deadline for the whole call, retries included.

    Raises:
        InputError: an address is not HTTPS, or the file is not there and `offline` is set.
        ServiceError: no address gave the file; a later call may succeed.
    """
    require_https(urls)
    final = get_local_path(urls[0], Path(urlsplit(mask_secrets(urls[0])).path).name or "file")
    with lock_download(final, urls[0]):
        if is_intact(final, sha256):
            return final
        require_online(offline, final, urls[0])

        partial, deadline = get_partial_file(final), time.monotonic() + timeout_seconds
        try_mirrors(
            urls,
            lambda url: fetch_file(url, partial, final, sha256=sha256, deadline=deadline),
            [partial],
            deadline=deadline,
        )
    return final


def require_https(urls: Sequence[str]) -> None:
    """Raise an `InputError` unless all addresses are HTTPS."""
    for url in urls:
        if urlsplit(url).scheme != "https":
            raise InputError(f"{url}: expected an https address")


def get_local_path(url: str, name: str) -> Path:
    """Return where a file from an address is stored; files of the same name from two addresses are kept apart.

    A new password or signature in the address changes nothing.
    """
    return artifacts_root() / "downloads" / f"{digest_url(url)[:8]}-{name}"


def get_partial_file(final: Path) -> PartialFile:
    """Return the unfinished download of a file."""
    return PartialFile(final.with_name(f"{final.name}.part"))


def lock_download(final: Path, url: str) -> contextlib.AbstractContextManager[None]:
    """Hold the lock that lets one run at a time download a file."""
    return file_lock(final.with_name(f".{final.name}.lock"), waiting_for=f"another run to download {mask_secrets(url)}")


def require_online(offline: bool, final: Path, url: str) -> None:
    """Raise an `InputError` if no connection may be opened."""
    if offline:
        raise InputError(
            f"{url}: is not in {final.parent}, and embeddings.offline forbids downloading it; set it to false once"
        )


def is_intact(final: Path, sha256: str | None) -> bool:
    """Return whether a file is there with the expected digest, or with the recorded one if none is given."""
    expected = sha256 or read_recorded_digest(final)
    return final.is_file() and expected is not None and file_digest(final) == expected


def read_recorded_digest(final: Path) -> str | None:
    """Return the SHA-256 that was recorded at the first download of a file, or None."""
    try:
        return _record_path(final).read_text("utf-8").partition(" ")[0]
    except (OSError, ValueError):
        return None


def check_and_record_digest(got: str, final: Path, sha256: str | None, *, what: str = "its SHA-256") -> None:
    """Compare a digest with the expected or recorded one, and record it if there is no record of it.

    Raises:
        ServiceError: the digests differ.
    """
    recorded = read_recorded_digest(final)
    expected = sha256 or recorded
    if expected not in (None, got):
        advice = "" if sha256 else f" as at the first download; delete {_record_path(final)} to accept the new content"
        raise ServiceError(f"{what} is {got}, expected {expected}{advice}")
    if recorded != got:
        with store_errors(final):
            _record_path(final).write_text(f"{got}  {final.name}\n", "utf-8")


def try_mirrors(
    urls: Sequence[str], fetch: Callable[[str], None], partials: Sequence[PartialFile], *, deadline: float
) -> None:
    """Call `fetch(url)` until it succeeds for one address.

    Addresses with a transient failure are tried again after a pause. An address that gave new bytes is tried again
    before the others, so that it resumes its own partial file.

    Args:
        urls: addresses of the same file, tried in this order.
        fetch: downloads from an address, or raises.
        partials: the files that `fetch` may write to; if they grow, the address made progress.
        deadline: on the clock of `time.monotonic`.

    Raises:
        ServiceError: no address gave the file.
    """
    failures: dict[str, str] = {}
    urls_left = list(urls)
    tries_without_progress = 0
    while urls_left and tries_without_progress < MAX_TRIES_WITHOUT_PROGRESS:
        requested_pause = 0.0
        tries_without_progress += 1
        for url in list(urls_left):
            before = sum(partial.size for partial in partials)
            try:
                return fetch(url)
            except (ServiceError, httpx.HTTPError, httpx.InvalidURL) as error:
                failures[url] = str(error) or type(error).__name__
                logger.warning("%s: %s", mask_secrets(url), mask_secrets(failures[url]))
                if isinstance(error, DeadlineError):
                    raise _summarize(failures) from error
                if not _is_transient(error):
                    urls_left.remove(url)
                requested_pause = max(requested_pause, getattr(error, "pause_seconds", 0.0))
            if sum(partial.size for partial in partials) > before:
                tries_without_progress = 0
                break
        own_pause = PAUSE_SECONDS * 2 ** max(tries_without_progress - 1, 0) * random.uniform(0.75, 1.25)  # noqa: S311
        pause = max(requested_pause, own_pause)
        if urls_left and tries_without_progress < MAX_TRIES_WITHOUT_PROGRESS:
            if time.monotonic() + pause > deadline:
                failures[urls_left[0]] += "; the deadline (embeddings.timeout_seconds) leaves no time for another try"
                break
            _wait(pause)
    raise _summarize(failures)


def fetch_file(url: str, partial: PartialFile, final: Path, *, sha256: str | None, deadline: float) -> None:
    """Download a whole file, verify it and give it its final name.

    Raises:
        ServiceError: the response is not the file.
    """
    digest_known = sha256 is not None or read_recorded_digest(final) is not None
    resumed = transfer_bytes(url, partial, final, digest_known=digest_known, deadline=deadline)
    try:
        if not digest_known:
            check_complete(partial.path)
        check_and_record_digest(file_digest(partial.path), final, sha256)
    except (InputError, ServiceError) as error:
        partial.discard()
        raise TransientError(str(error)) if resumed else ServiceError(str(error)) from error
    with store_errors(final):
        partial.path.rename(final)
        partial.sidecar.unlink(missing_ok=True)


def _record_path(final: Path) -> Path:
    return final.with_name(f"{final.name}.sha256")


def _summarize(failures: dict[str, str]) -> ServiceError:
    return ServiceError("download failed\n" + "\n".join(f"{url}: {reason}" for url, reason in failures.items()))


def _is_transient(error: Exception) -> bool:
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
