"""Fetch one member of a published zip archive, and no more of the archive than that takes.

Where the server answers range requests, two are made: for the end of the archive, which holds its directory, and for
the member. Its packed bytes are kept as they came, in a gzip file instead of a zip file. Where the server does not,
the whole archive is fetched. The digest of the unpacked member is checked, or recorded and held from then on.
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
from tasks.fetching.archives import Member, find_data, find_member, open_member, open_packed, read_directory
from tasks.fetching.mirrors import (
    check_addresses,
    check_digest,
    fetch_file,
    is_intact,
    local_path,
    one_download,
    part_of,
    read_record,
    refuse_offline,
    try_mirrors,
)  # fmt: skip
from tasks.fetching.transfer import (
    Part,
    RangeRefusedError,
    Span,
    TransientError,
    check_response,
    content_range,
    fetch_part,
    is_strong,
    new_client,
    open_url,
    read_body,
)  # fmt: skip
from tasks.store.artifacts import file_digest
from tasks.store.disk_errors import store_errors

logger = logging.getLogger(__name__)
TAIL_BYTES = 1 << 17  # holds the directory of any archive with less than a thousand members
_GZIP_HEADER = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff"  # RFC 1952: deflate, no name, no time


class Wanted(NamedTuple):
    """A member of an archive, with the digests of both where they are known."""

    member: str
    archive_sha256: str | None
    member_sha256: str | None


class _Places(NamedTuple):
    """Where things are kept: the archive, the member packed by itself, and what its digest is recorded for."""

    archive: Path
    packed: Path
    member: Path


def download_member(
    urls: Sequence[str], wanted: Wanted, *, offline: bool = False, timeout_seconds: float = 3600.0
) -> tuple[Path, str | None]:
    """Return a local file that holds a member, downloading it when it is not there.

    Args:
        urls: addresses of the same archive, tried in this order.
        wanted: the member, and what is known of it.
        offline: fail instead of opening a connection.
        timeout_seconds: deadline for the whole call, new tries included.

    Returns:
        The file, and the name of the member in it if it is the whole archive.

    Raises:
        InputError: an address is not HTTPS, or the member is not there and `offline` is set.
        ServiceError: no address gave the member; a later try may.
    """
    check_addresses(urls)
    member = local_path(urls[0], Path(wanted.member).name)
    places = _Places(
        archive=local_path(urls[0], Path(urlsplit(urls[0]).path).name or "archive.zip"),
        packed=member.with_name(f"{member.name}.gz"),
        member=member,
    )
    deadline = time.monotonic() + timeout_seconds
    with one_download(places.archive, urls[0]):
        found = _find_local(places, wanted)
        if found is None and is_intact(places.archive, wanted.archive_sha256):
            _check_member(places, wanted)
            found = _find_local(places, wanted)
        if found is None:
            refuse_offline(offline, member, urls[0])
            parts = [part_of(places.packed), part_of(places.archive)]
            try_mirrors(urls, lambda url: _fetch(url, places, wanted, deadline), parts, deadline=deadline)
            found = _find_local(places, wanted)
    if found is None:
        raise ServiceError(f"{member}: was damaged while it was being written")
    return found


def _find_local(places: _Places, wanted: Wanted) -> tuple[Path, str | None] | None:
    known = read_record(places.member)
    if known is None or wanted.member_sha256 not in (None, known):
        return None
    for path in (places.packed, places.member):
        if is_intact(path, None):
            return path, None
    return (places.archive, wanted.member) if is_intact(places.archive, wanted.archive_sha256) else None


def _fetch(url: str, places: _Places, wanted: Wanted, deadline: float) -> None:
    part = part_of(places.packed)
    try:
        with _no_archive():
            member, span = _find_remote(url, wanted.member, deadline)
        fetch_part(url, part, places.packed, span=span, deadline=deadline)
        _pack(part, member, places, wanted)
    except RangeRefusedError as error:
        logger.info("%s: %s; fetching the whole archive", url, error)
        fetch_file(url, part_of(places.archive), places.archive, sha256=wanted.archive_sha256, deadline=deadline)
        _check_member(places, wanted)
        part.discard()


def _check_member(places: _Places, wanted: Wanted) -> None:
    with _no_archive(), open_packed(places.archive, wanted.member) as opened:
        digest = hashlib.file_digest(opened.stream, "sha256").hexdigest()
    check_digest(digest, places.member, wanted.member_sha256, what=_what(wanted))


def _find_remote(url: str, name: str, deadline: float) -> tuple[Member, Span]:
    """Read an archive's directory and return the member and the span that it lies in."""
    with (
        new_client(deadline) as client,
        contextlib.closing(open_url(client, url, {"Range": f"bytes=-{TAIL_BYTES}"})) as response,
    ):
        if response.status_code == 416:
            raise RangeRefusedError("does not answer range requests")
        check_response(response, ranged=True, final=Path("archive.zip"))
        etag, stated = response.headers.get("etag", ""), content_range(response)
        if response.status_code != 206 or stated is None or not is_strong(etag):
            raise RangeRefusedError("does not answer range requests")
        first, total = stated
        tail = read_body(response, TAIL_BYTES, deadline)
    if len(tail) != total - first:
        raise TransientError(f"got {len(tail):,} bytes of the archive's end, expected {total - first:,}")
    window = cast("BinaryIO", _Window(tail, total))
    member = find_member(read_directory(window, url), url, name)
    return member, Span(member.start, member.end, total, etag)


def _pack(part: Part, member: Member, places: _Places, wanted: Wanted) -> None:
    """Make a gzip file of a member's packed bytes, or the plain file if they are not packed, and check it."""
    inside = member._replace(start=0, end=member.end - member.start)
    try:
        with part.path.open("rb") as file:
            digest = hashlib.file_digest(open_member(file, inside, member.name), "sha256").hexdigest()
            file.seek(0)
            start = find_data(file.read(1 << 17), inside, member.name)
        check_digest(digest, places.member, wanted.member_sha256, what=_what(wanted))
    except InputError as error:
        part.discard()
        raise TransientError(str(error)) from error
    except ServiceError:
        part.discard()
        raise
    packed = member.method == zipfile.ZIP_DEFLATED
    final = places.packed if packed else places.member
    temporary = final.with_name(f"{final.name}.new")
    with store_errors(final):
        with part.path.open("rb") as source, temporary.open("wb") as target:
            source.seek(start)
            target.write(_GZIP_HEADER if packed else b"")
            left = member.packed
            while left:
                left -= target.write(source.read(min(left, 1 << 20)))
            target.write(struct.pack("<II", member.crc, member.size & 0xFFFFFFFF) if packed else b"")
            target.flush()
            os.fsync(target.fileno())
        check_digest(file_digest(temporary), final, file_digest(temporary))
        temporary.rename(final)
        part.discard()


def _what(wanted: Wanted) -> str:
    return f"the SHA-256 of its member {wanted.member}"


@contextlib.contextmanager
def _no_archive() -> Iterator[None]:
    """Tell a remote archive that is not to be trusted as a failure of its address, so that the next one is tried."""
    try:
        yield
    except InputError as error:
        raise ServiceError(str(error)) from error


class _Window(io.RawIOBase):
    """A file of which only the last bytes are here."""

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
            raise RangeRefusedError("has a larger directory than expected")
        data = self._tail[first : first + len(buffer)]
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
