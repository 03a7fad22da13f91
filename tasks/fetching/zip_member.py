"""Download one member of a published zip archive, without the rest of the archive where the server allows it.

If the server answers range requests, two are made: one for the end of the archive, which holds its directory, and one
for the member. The compressed bytes of the member are stored unchanged, in a gzip file instead of a zip file. If the
server does not, the whole archive is downloaded. The digest of the decompressed member is checked. If it is not
published, it is recorded at the first download and checked later.
"""

import contextlib
import hashlib
import io
import logging
import os
import struct
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast
from urllib.parse import urlsplit

from pipeline_config.errors import InputError, ServiceError
from pipeline_config.masking import mask_secrets
from tasks.fetching.archives import Member, find_data_start, find_member, open_member, open_packed, read_directory
from tasks.fetching.mirrors import (
    check_and_record_digest,
    fetch_file,
    get_local_path,
    get_partial_file,
    is_intact,
    lock_download,
    read_recorded_digest,
    require_https,
    require_online,
    try_mirrors,
)
from tasks.fetching.partial_file import PartialFile, Span, is_strong_etag
from tasks.fetching.transfer import (
    RangeRefusedError,
    TransientError,
    check_response,
    new_client,
    open_url,
    parse_content_range,
    read_body,
    transfer_bytes,
)
from tasks.store.artifacts import file_digest
from tasks.store.disk_errors import store_errors

logger = logging.getLogger(__name__)
TAIL_BYTES = 1 << 17  # requested from the end; holds the directory of any archive with less than a thousand members
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952: deflate, no name, no time


class WantedMember(NamedTuple):
    """The name of a member, and the digests of its archive and of itself, None where they are not known."""

    member: str
    archive_sha256: str | None
    member_sha256: str | None


class _LocalFiles(NamedTuple):
    """Local paths: the whole archive, the member as a gzip file, and the member decompressed.

    The digest of the member is recorded beside `member`, even if only the gzip file or the archive is there.
    """

    archive: Path
    packed: Path
    member: Path


def download_member(
    urls: Sequence[str], wanted: WantedMember, *, offline: bool = False, timeout_seconds: float = 3600.0
) -> tuple[Path, str | None]:
    """Return a local file that holds a member, and download it first if it is not there.

    Args:
        urls: addresses of the same archive, tried in this order.
        wanted: the member and its known digests.
        offline: fail instead of opening a connection.
        timeout_seconds: deadline for the whole call, retries included.

    Returns:
        The file, and the name of the member if the file is the whole archive, else None.

    Raises:
        InputError: an address is not HTTPS, or the member is not there and `offline` is set.
        ServiceError: no address gave the member; a later call may succeed.
    """
    require_https(urls)
    member = get_local_path(urls[0], Path(wanted.member).name)
    files = _LocalFiles(
        archive=get_local_path(urls[0], Path(urlsplit(mask_secrets(urls[0])).path).name or "archive.zip"),
        packed=member.with_name(f"{member.name}.gz"),
        member=member,
    )
    deadline = time.monotonic() + timeout_seconds
    with lock_download(files.archive, urls[0]):
        found = _find_local(files, wanted)
        if found is None and is_intact(files.archive, wanted.archive_sha256):
            _check_member(files, wanted)
            found = _find_local(files, wanted)
        if found is None:
            require_online(offline, member, urls[0])
            partials = [get_partial_file(files.packed), get_partial_file(files.archive)]
            try_mirrors(urls, lambda url: _fetch(url, files, wanted, deadline=deadline), partials, deadline=deadline)
            found = _find_local(files, wanted)
    if found is None:
        raise ServiceError(f"{member}: the downloaded file does not have the digest of what was sent; run again")
    return found


def _find_local(files: _LocalFiles, wanted: WantedMember) -> tuple[Path, str | None] | None:
    recorded = read_recorded_digest(files.member)
    if recorded is None or wanted.member_sha256 not in (None, recorded):
        return None
    for path in (files.packed, files.member):
        if is_intact(path, None):
            return path, None
    return (files.archive, wanted.member) if is_intact(files.archive, wanted.archive_sha256) else None


def _fetch(url: str, files: _LocalFiles, wanted: WantedMember, *, deadline: float) -> None:
    partial = get_partial_file(files.packed)
    try:
        with _input_errors_as_service_errors():
            member, span = _find_remote(url, wanted.member, deadline)
        transfer_bytes(url, partial, files.packed, span=span, deadline=deadline)
        _store_member(partial, member, files, wanted=wanted)
    except RangeRefusedError as error:
        logger.info("%s: %s; downloading the whole archive", mask_secrets(url), error)
        fetch_file(url, get_partial_file(files.archive), files.archive, sha256=wanted.archive_sha256, deadline=deadline)
        _check_member(files, wanted)
        partial.discard()


def _check_member(files: _LocalFiles, wanted: WantedMember) -> None:
    with _input_errors_as_service_errors(), open_packed(files.archive, wanted.member) as opened:
        digest = hashlib.file_digest(opened.stream, "sha256").hexdigest()
    check_and_record_digest(digest, files.member, wanted.member_sha256, what=_name_digest(wanted))


def _find_remote(url: str, name: str, deadline: float) -> tuple[Member, Span]:
    """Read the directory of a remote archive, and return the entry of the member and the span of its bytes."""
    with (
        new_client(deadline) as client,
        contextlib.closing(open_url(client, url, {"Range": f"bytes=-{TAIL_BYTES}"})) as response,
    ):
        if response.status_code == 416:
            raise RangeRefusedError("does not answer range requests")
        check_response(response, ranged=True, final=Path("archive.zip"))  # only the suffix matters
        etag, stated = response.headers.get("etag", ""), parse_content_range(response)
        if response.status_code != 206 or stated is None or not is_strong_etag(etag):
            raise RangeRefusedError("does not answer range requests")
        first, total = stated
        tail = read_body(response, TAIL_BYTES, deadline)
    if len(tail) != total - first:
        raise TransientError(f"expected {total - first:,} bytes of the archive's end, got {len(tail):,}")
    tail_file = cast("BinaryIO", _TailFile(tail, total))
    member = find_member(read_directory(tail_file, url), url, name)
    return member, Span(member.start, member.end, total, etag)


def _store_member(partial: PartialFile, member: Member, files: _LocalFiles, *, wanted: WantedMember) -> None:
    """Verify a downloaded member and store it: as a gzip file if it is compressed, otherwise as it is."""
    entry = member._replace(start=0, end=member.end - member.start)  # the partial file begins with its local header
    try:
        with partial.path.open("rb") as file:
            digest = hashlib.file_digest(open_member(file, entry, member.name), "sha256").hexdigest()
            file.seek(0)
            start = find_data_start(file.read(1 << 17), entry, member.name)
        check_and_record_digest(digest, files.member, wanted.member_sha256, what=_name_digest(wanted))
    except InputError as error:
        partial.discard()
        raise TransientError(str(error)) from error
    except ServiceError:
        partial.discard()
        raise
    compressed = member.method == zipfile.ZIP_DEFLATED
    final = files.packed if compressed else files.member
    temporary = final.with_name(f"{final.name}.new")
    with store_errors(final):
        with partial.path.open("rb") as source, temporary.open("wb") as target:
            source.seek(start)
            target.write(_GZIP_HEADER if compressed else b"")
            left = member.packed_size
            while left:
                left -= target.write(source.read(min(left, 1 << 20)))
            target.write(struct.pack("<II", member.crc, member.size & 0xFFFFFFFF) if compressed else b"")
            target.flush()
            os.fsync(target.fileno())
        stored = file_digest(temporary)
        check_and_record_digest(stored, final, stored)  # only records it
        temporary.rename(final)
        partial.discard()


def _name_digest(wanted: WantedMember) -> str:
    return f"the SHA-256 of its member {wanted.member}"


@contextlib.contextmanager
def _input_errors_as_service_errors() -> Iterator[None]:
    """Report a refused remote archive as a failure of its address, so that the next address is tried."""
    try:
        yield
    except InputError as error:
        raise ServiceError(str(error)) from error


class _TailFile(io.RawIOBase):
    """A file of `size` bytes of which only the last ones are available."""

    def __init__(self, tail: bytes, size: int) -> None:
        self._tail, self._size, self._at = tail, size, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        first = self._at - (self._size - len(self._tail))
        if first < 0:
            raise RangeRefusedError(f"has a directory that begins before its last {len(self._tail):,} bytes")
        data = self._tail[first : first + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
