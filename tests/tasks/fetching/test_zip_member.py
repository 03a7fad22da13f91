"""One member of a remote archive: two range requests, or the whole archive if the server refuses ranges."""

import gzip
import hashlib
import io
import random
import threading
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tasks.fetching.mirrors
import tasks.fetching.zip_member
from pipeline_config.errors import InputError, ServiceError
from tasks.fetching.archives import open_packed
from tasks.fetching.zip_member import TAIL_BYTES, WantedMember, download_member
from tests.https_server import Answer, Handler, Server, fixed, ranged, whole
from tests.zip_files import make_zip

DRAW = random.Random(0)
TEXTS = {
    f"glove.{dim}d.txt": b"".join(
        b"w%d %s\n" % (i, b" ".join(b"%.4f" % DRAW.gauss(0, 1) for _ in range(dim))) for i in range(3000)
    )
    for dim in (5, 10, 20, 30)
}
MEMBER = "glove.10d.txt"
TEXT = TEXTS[MEMBER]


def make_archive(compression: int = zipfile.ZIP_DEFLATED, *, comment: bytes = b"") -> bytes:
    return make_zip(*TEXTS.items(), compression=compression, comment=comment)


ARCHIVE = make_archive()
WANTED = WantedMember(MEMBER, hashlib.sha256(ARCHIVE).hexdigest(), hashlib.sha256(TEXT).hexdigest())


def content(found: tuple[Path, str | None]) -> bytes:
    with open_packed(*found) as opened:
        return opened.stream.read()


def list_names(artifacts: Path) -> list[str]:
    return sorted(path.name.partition("-")[2] for path in (artifacts / "downloads").glob("[!.]*"))


def fail(url: str, wanted: WantedMember = WANTED) -> str:
    with pytest.raises(ServiceError) as caught:
        download_member([url], wanted)
    return str(caught.value)


@pytest.mark.parametrize("comment", [b"", b"a comment"])
def test_two_requests_download_the_directory_and_the_member_and_nothing_else(
    server: Server, artifacts: Path, comment: bytes
) -> None:
    archive = make_archive(comment=comment)
    url = server.script("/glove.zip", ranged(archive))
    found = download_member([url], WANTED)
    assert content(found) == TEXT
    assert gzip.decompress(found[0].read_bytes()) == TEXT
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert server.sent <= TAIL_BYTES + opened.getinfo(MEMBER).compress_size + 100 < len(archive) / 2
    assert len(server.requests) == 2
    assert list_names(artifacts) == [f"{MEMBER}.gz", f"{MEMBER}.gz.sha256", f"{MEMBER}.sha256"]


def test_an_uncompressed_member_is_stored_unchanged(server: Server, artifacts: Path) -> None:
    found = download_member([server.script("/glove.zip", ranged(make_archive(zipfile.ZIP_STORED)))], WANTED)
    assert found[0].read_bytes() == TEXT
    assert list_names(artifacts) == [MEMBER, f"{MEMBER}.sha256"]


def test_a_member_that_exists_is_not_downloaded_again(server: Server) -> None:
    url = server.script("/glove.zip", ranged(ARCHIVE))
    assert download_member([url], WANTED) == download_member([url], WANTED, offline=True)
    assert len(server.requests) == 2


def test_a_damaged_member_is_downloaded_again(server: Server) -> None:
    url = server.script("/glove.zip", ranged(ARCHIVE))
    found = download_member([url], WANTED)
    found[0].write_bytes(found[0].read_bytes()[:-1])
    assert content(download_member([url], WANTED)) == TEXT
    assert len(server.requests) == 4


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(whole(ARCHIVE), id="ranges ignored"),
        pytest.param(whole(ARCHIVE, etag=None), id="no ETag"),
        pytest.param(ranged(ARCHIVE, etag='W/"v1"'), id="weak ETag"),
    ],
)
def test_without_ranges_the_whole_archive_is_downloaded_and_kept(
    server: Server, artifacts: Path, answer: Answer
) -> None:
    url = server.script("/glove.zip", answer)
    found = download_member([url], WANTED)
    assert content(found) == TEXT
    assert found[1] == MEMBER
    assert found[0].read_bytes() == ARCHIVE
    assert download_member([url], WANTED, offline=True) == found
    assert list_names(artifacts) == [f"{MEMBER}.sha256", "glove.zip", "glove.zip.sha256"]


def test_a_server_that_stops_answering_ranges_gives_the_whole_archive(server: Server) -> None:
    url = server.script("/glove.zip", ranged(ARCHIVE), whole(ARCHIVE))
    assert content(download_member([url], WANTED)) == TEXT


def test_a_directory_larger_than_the_tail_leads_to_the_whole_archive(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks.fetching.zip_member, "TAIL_BYTES", 100)
    found = download_member([server.script("/glove.zip", ranged(ARCHIVE))], WANTED)
    assert (content(found), found[1]) == (TEXT, MEMBER)


def test_another_member_is_read_from_an_archive_that_exists(server: Server) -> None:
    url = server.script("/glove.zip", whole(ARCHIVE))
    download_member([url], WANTED)
    asked = len(server.requests)
    other = WANTED._replace(member="glove.5d.txt", member_sha256=None)
    assert content(download_member([url], other)) == TEXTS["glove.5d.txt"]
    assert len(server.requests) == asked


def test_an_archive_that_changes_between_the_requests_is_not_mixed(server: Server) -> None:
    other = make_archive(comment=b"another")
    url = server.script("/glove.zip", ranged(ARCHIVE), ranged(other, etag='"v2"'))
    assert content(download_member([url], WANTED._replace(archive_sha256=None))) == TEXT


def test_a_broken_member_transfer_resumes_where_it_broke(server: Server) -> None:
    url = server.script("/glove.zip", ranged(ARCHIVE), ranged(ARCHIVE, arriving=500), ranged(ARCHIVE))
    assert content(download_member([url], WANTED)) == TEXT
    first, second = (int(r["Range"].removeprefix("bytes=").partition("-")[0]) for _, r in server.requests[1::2])
    assert second == first + 500


# digests


def test_an_unknown_digest_of_a_member_is_recorded_and_checked_later(server: Server, artifacts: Path) -> None:
    unknown = WANTED._replace(member_sha256=None, archive_sha256=None)
    url = server.script("/glove.zip", ranged(ARCHIVE))
    packed, _ = download_member([url], unknown)
    record = next((artifacts / "downloads").glob("*.txt.sha256"))
    assert record.read_text().partition(" ")[0] == WANTED.member_sha256
    packed.unlink()
    changed = make_zip((MEMBER, b"the 1 2\n"))
    server.script("/glove.zip", ranged(changed, etag='"v2"'))
    message = fail(url, unknown)
    assert f"the SHA-256 of its member {MEMBER} is" in message
    assert f"expected {WANTED.member_sha256} as at the first download" in message


def test_a_stored_member_without_the_expected_digest_is_downloaded_again(server: Server) -> None:
    changed = make_zip((MEMBER, b"the 1 2\n"))
    url = server.script("/glove.zip", ranged(changed))
    assert content(download_member([url], WANTED._replace(member_sha256=None, archive_sha256=None))) == b"the 1 2\n"
    server.script("/glove.zip", ranged(ARCHIVE, etag='"v2"'))
    assert content(download_member([url], WANTED)) == TEXT


@pytest.mark.parametrize("answer", [ranged, whole])
def test_a_member_with_another_digest_is_refused_and_the_message_names_the_member(
    server: Server, artifacts: Path, answer: Callable[[bytes], Answer]
) -> None:
    wrong = WANTED._replace(member_sha256="0" * 64)
    url = server.script("/glove.zip", answer(ARCHIVE))
    assert f"{url}: the SHA-256 of its member {MEMBER} is {WANTED.member_sha256}, expected {'0' * 64}" in fail(
        url, wrong
    )
    assert not any(name.startswith(MEMBER) for name in list_names(artifacts))


def test_an_archive_with_another_digest_is_refused(server: Server) -> None:
    url = server.script("/glove.zip", whole(ARCHIVE))
    assert f"{url}: its SHA-256 is" in fail(url, WANTED._replace(archive_sha256="0" * 64))


def test_changed_bytes_are_detected_by_the_crc(server: Server) -> None:
    damaged = bytearray(ARCHIVE)
    with zipfile.ZipFile(io.BytesIO(ARCHIVE)) as opened:
        damaged[opened.getinfo(MEMBER).header_offset + 500] ^= 1
    url = server.script("/glove.zip", ranged(bytes(damaged)))
    assert "is damaged" in fail(url, WANTED._replace(member_sha256=None))


# responses that are refused


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (fixed(404, b"gone"), "got status 404"),
        (fixed(503, b"later"), "got status 503"),
        (fixed(200, b"<html>", Content_Type="text/html"), "content type text/html"),
        (fixed(200, b"<html>"), "expected a .zip file, got one that begins with b'<html>'"),
        (ranged(b"x" * 5000), "no directory at its end"),
        (ranged(make_archive().replace(b"glove.10d.txt", b"glove.11d.txt")), "expected a member glove.10d.txt, got"),
        (ranged(ARCHIVE.replace(b"glove.5d.txt", b"../../a.txt ")), "its name leads out of the archive's folder"),
        (
            fixed(206, b"x" * 10, Content_Range="bytes 0-4/5", ETag='"v1"'),
            "expected 5 bytes of the archive's end, got 10",
        ),
        (
            fixed(206, b"x" * 200_000, Content_Range="bytes 0-199999/200000", ETag='"v1"'),
            "expected at most 131,072 bytes, got more",
        ),
    ],
)
def test_the_next_mirror_is_tried_and_the_reason_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture, answer: Answer, reason: str
) -> None:
    first, second = server.script("/glove.zip", answer), server.script("/mirror/glove.zip", ranged(ARCHIVE))
    assert content(download_member([first, second], WANTED)) == TEXT
    assert any(message.startswith(f"{first}: ") and reason in message for message in caplog.messages)


def test_an_address_that_is_not_https_is_refused(artifacts: Path) -> None:
    with pytest.raises(InputError, match=r"^http://127\.0\.0\.1/glove\.zip: expected an https address$"):
        download_member(["http://127.0.0.1/glove.zip"], WANTED)


def test_offline_opens_no_connection(server: Server) -> None:
    url = server.script("/glove.zip", ranged(ARCHIVE))
    with pytest.raises(InputError, match=r"embeddings\.offline forbids downloading it"):
        download_member([url], WANTED, offline=True)
    assert server.requests == []


def test_several_threads_make_one_download(server: Server) -> None:
    begun = threading.Event()

    def answer(handler: Handler) -> None:
        begun.wait(10)
        ranged(ARCHIVE)(handler)

    url = server.script("/glove.zip", answer)
    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(download_member, [url], WANTED) for _ in range(4)]
        begun.set()
        assert {content(future.result()) for future in running} == {TEXT}
    assert len(server.requests) == 2


def test_an_archive_that_the_user_put_there_is_used_even_offline(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", ranged(ARCHIVE))
    place = tasks.fetching.mirrors.get_local_path(url, "glove.zip")
    place.parent.mkdir(parents=True)
    place.write_bytes(ARCHIVE)
    assert content(download_member([url], WANTED, offline=True)) == TEXT
    assert server.requests == []
    place.write_bytes(ARCHIVE[:-1])
    with pytest.raises(InputError, match=r"embeddings\.offline forbids downloading it"):
        download_member([url], WANTED, offline=True)
