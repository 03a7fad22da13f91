"""Downloads against a local HTTPS server whose answers are scripted."""

import contextlib
import errno
import gzip
import hashlib
import io
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import trustme

import tasks.fetching.mirrors
from pipeline_config.errors import InputError, ServiceError, StoreError
from tasks.fetching.mirrors import download_file
from tests.campaigns import network_schedules
from tests.https_server import Answer, Handler, Server, fixed, ranged, whole


def zipped(content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("glove.txt", content)
    return buffer.getvalue()


BODY = zipped(bytes(range(256)) * 300)
OTHER = zipped(bytes(reversed(range(256))) * 400)
HALF = len(BODY) // 2
DIGEST = hashlib.sha256(BODY).hexdigest()


def left_behind(artifacts: Path) -> list[str]:
    """Return the endings of what is in the download directory: of a.zip, a.zip.part and a.zip.part.json."""
    return sorted(path.name.partition(".")[2] for path in (artifacts / "downloads").glob("[!.]*"))


def part_file(artifacts: Path) -> Path:
    return next((artifacts / "downloads").glob("*.part"))


def fail(*urls: str, sha256: str | None = None) -> str:
    """Return the message of a download that asks every address once and fails."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tasks.fetching.mirrors, "_may_pass", lambda _: False)
        with pytest.raises(ServiceError) as caught:
            download_file(urls, sha256=sha256)
    return str(caught.value)


# plain downloads


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_download_holds_the_servers_bytes_and_leaves_no_part(
    server: Server, artifacts: Path, sha256: str | None
) -> None:
    path = download_file([server.script("/glove.zip", whole(BODY))], sha256=sha256)
    assert path.read_bytes() == BODY
    assert path.parent == artifacts / "downloads"
    assert left_behind(artifacts) == ["zip", "zip.sha256"]


def test_a_file_that_is_there_is_not_downloaded_again(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY))
    assert download_file([url], sha256=DIGEST) == download_file([url], sha256=DIGEST)
    assert len(server.requests) == 1


def test_a_stored_file_that_lost_its_digest_is_replaced(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY))
    download_file([url], sha256=DIGEST).write_bytes(b"damaged")
    assert download_file([url], sha256=DIGEST).read_bytes() == BODY


def test_files_of_the_same_name_from_two_addresses_are_kept_apart(server: Server) -> None:
    first = download_file([server.script("/a/glove.zip", whole(BODY))])
    second = download_file([server.script("/b/glove.zip", whole(OTHER))])
    assert (first.read_bytes(), second.read_bytes()) == (BODY, OTHER)


@pytest.mark.parametrize(("path", "ending"), [("/corpus.csv?raw=true", "-corpus.csv"), ("/", "-file")])
def test_the_file_is_named_after_the_address(server: Server, path: str, ending: str) -> None:
    assert download_file([server.script(path, whole(b"text,label\n"))]).name.endswith(ending)


def test_a_body_without_a_length_is_taken_to_its_end_if_its_digest_is_known(server: Server) -> None:
    url = server.script("/glove.zip", lambda handler: handler.answer(200, BODY))
    assert "states no length, and no digest of the file is known" in fail(url)
    assert download_file([url], sha256=DIGEST).read_bytes() == BODY


def test_a_chunked_body_is_taken_to_its_end_and_not_before(server: Server) -> None:
    def chunked(handler: Handler, *, last: bytes = b"0\r\n\r\n") -> None:
        handler.protocol_version = "HTTP/1.1"
        body = b"%x\r\n%b\r\n" % (len(BODY), BODY)
        handler.answer(200, body + last, Transfer_Encoding="chunked")

    url = server.script("/glove.zip", partial(chunked, last=b""), chunked)
    fail(url)
    assert download_file([url]).read_bytes() == BODY


def test_the_kind_of_a_file_is_told_even_if_its_first_bytes_arrive_one_by_one(server: Server) -> None:
    def drip(handler: Handler) -> None:
        handler.answer(200, BODY[:1], Content_Length=len(BODY))
        handler.wfile.write(BODY[1:2])
        handler.wfile.write(BODY[2:])

    assert download_file([server.script("/glove.zip", drip)]).read_bytes() == BODY


# resuming


def test_a_broken_transfer_resumes_where_it_broke(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), ranged(BODY))
    assert url in fail(url)
    assert left_behind(artifacts) == ["zip.part", "zip.part.json"]
    assert part_file(artifacts).read_bytes() == BODY[:HALF]

    assert download_file([url], sha256=DIGEST).read_bytes() == BODY
    asked = server.requests[1][1]
    assert (asked["Range"], asked["If-Range"]) == (f"bytes={HALF}-", '"v1"')
    assert server.sent == len(BODY)
    assert left_behind(artifacts) == ["zip", "zip.sha256"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ranged(OTHER, etag='"v2"'), id="changed"),
        pytest.param(whole(OTHER, etag='"v1"'), id="range ignored"),
    ],
)
def test_a_server_that_sends_the_whole_file_again_replaces_the_part(server: Server, answer: Answer) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), answer)
    fail(url)
    assert download_file([url]).read_bytes() == OTHER
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    ("status", "content_range", "etag"),
    [
        pytest.param(206, f"bytes {HALF}-{len(OTHER) - 1}/{len(OTHER)}", '"v2"', id="If-Range ignored, other ETag"),
        pytest.param(206, f"bytes 0-{len(OTHER) - 1}/{len(OTHER)}", '"v1"', id="other start"),
        pytest.param(206, None, '"v1"', id="no content range"),
        pytest.param(416, f"bytes */{HALF}", None, id="range not satisfiable"),
    ],
)
def test_a_range_that_does_not_continue_the_part_starts_the_download_over(
    server: Server, status: int, content_range: str | None, etag: str | None
) -> None:
    odd = fixed(status, OTHER[HALF:], Content_Range=content_range, ETag=etag)
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), odd, whole(OTHER))
    fail(url)
    assert download_file([url]).read_bytes() == OTHER
    assert "Range" in server.requests[1][1]
    assert "Range" not in server.requests[2][1]


def test_a_part_that_is_already_whole_starts_the_download_over(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), ranged(BODY))
    fail(url)
    part_file(artifacts).write_bytes(BODY)  # a process was killed between the last byte and the rename
    assert download_file([url]).read_bytes() == BODY


@pytest.mark.parametrize("etag", [None, ""])
def test_a_part_without_an_etag_is_not_resumed(server: Server, etag: str | None) -> None:
    url = server.script("/glove.zip", whole(BODY, etag=etag, arriving=HALF), whole(OTHER, etag=etag))
    fail(url)
    assert download_file([url]).read_bytes() == OTHER
    assert "Range" not in server.requests[1][1]


@pytest.mark.parametrize("sidecar", [b"", b'{"url": "https', b"\xff"])
def test_a_part_with_an_unreadable_sidecar_is_not_resumed(server: Server, artifacts: Path, sidecar: bytes) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), ranged(BODY))
    fail(url)
    part_file(artifacts).with_suffix(".part.json").write_bytes(sidecar)
    assert download_file([url]).read_bytes() == BODY
    assert "Range" not in server.requests[1][1]


def test_a_new_etag_never_stands_beside_the_bytes_of_the_old_content(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_path = Path.open

    def interrupt(path: Path, *args: object, **options: object) -> object:
        if path.suffix == ".part":
            raise KeyboardInterrupt
        return open_path(path, *args, **options)

    url = server.script("/glove.zip", whole(OTHER, arriving=HALF), ranged(BODY, etag='"v2"'))
    fail(url)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download_file([url])
    assert download_file([url]).read_bytes() == BODY


def test_a_part_of_one_mirror_is_not_continued_by_another(server: Server) -> None:
    first = server.script("/glove.zip", whole(BODY, arriving=HALF))
    second = server.script("/mirror/glove.zip", ranged(OTHER))
    assert download_file([first, second]).read_bytes() == OTHER
    assert [("Range" in headers) for path, headers in server.requests if path == "/mirror/glove.zip"] == [False]


def test_a_file_pieced_together_from_two_contents_fails_its_digest_and_is_thrown_away(
    server: Server, artifacts: Path
) -> None:
    url = server.script("/glove.zip", whole(OTHER, arriving=HALF), ranged(BODY))  # the ETag lies
    fail(url, sha256=DIGEST)
    mixed = hashlib.sha256(OTHER[:HALF] + BODY[HALF:]).hexdigest()
    assert f"{url}: its SHA-256 is {mixed}, expected {DIGEST}" in fail(url, sha256=DIGEST)
    assert left_behind(artifacts) == []
    assert download_file([url], sha256=DIGEST).read_bytes() == BODY


# what is refused


def test_a_truncated_body_is_not_stored(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF))
    assert fail(url).startswith(f"download failed\n{url}: ")
    assert left_behind(artifacts) == ["zip.part", "zip.part.json"]


def test_a_rest_that_ends_too_early_is_told_with_both_lengths_and_resumed(server: Server, artifacts: Path) -> None:
    piece = fixed(206, BODY[HALF : HALF + 10], Content_Range=f"bytes {HALF}-{HALF + 9}/{len(BODY)}", ETag='"v1"')
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), piece, ranged(BODY))
    fail(url)
    assert f"{url}: got {HALF + 10:,} bytes, expected {len(BODY):,}" in fail(url)
    assert left_behind(artifacts) == ["zip.part", "zip.part.json"]
    assert download_file([url]).read_bytes() == BODY
    assert server.requests[2][1]["Range"] == f"bytes={HALF + 10}-"


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, artifacts: Path) -> None:
    longer = fixed(206, b"12345", Content_Range=f"bytes {HALF}-{HALF}/{HALF + 1}", ETag='"v1"')
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), longer)
    fail(url)
    assert f"got {HALF + 5:,} bytes, expected {HALF + 1:,}" in fail(url)
    assert left_behind(artifacts) == []


def test_a_file_of_another_digest_is_not_stored_and_the_message_has_both(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(OTHER))
    got = hashlib.sha256(OTHER).hexdigest()
    assert fail(url, sha256=DIGEST) == f"download failed\n{url}: its SHA-256 is {got}, expected {DIGEST}"
    assert left_behind(artifacts) == []


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "Text/HTML"])
def test_a_page_with_status_200_is_refused_with_address_status_and_first_bytes(
    server: Server, artifacts: Path, kind: str
) -> None:
    page = b"<html><body>Down until 3 July</body></html>" + b" " * 100
    url = server.script("/glove.zip", fixed(200, page, Content_Type=kind))
    assert fail(url) == (
        f"download failed\n{url}: got status 200, content type {kind}, beginning {page[:80]!r}; expected the file"
    )
    assert left_behind(artifacts) == []


@pytest.mark.parametrize("name", ["/glove.zip", "/glove.ZIP", "/corpus.parquet", "/vectors.txt.gz"])
def test_a_page_that_calls_itself_a_file_is_refused_by_its_first_bytes(
    server: Server, artifacts: Path, name: str
) -> None:
    url = server.script(name, fixed(200, b"<html>not found</html>"))
    suffix = Path(name).suffix
    assert f"{url}: begins with b'<html>not found</html>', which is no {suffix} file" in fail(url)
    assert not any(ending.endswith(suffix) for ending in left_behind(artifacts))


@pytest.mark.parametrize("name", ["/glove.zip", "/corpus.csv"])
def test_an_empty_file_is_refused(server: Server, artifacts: Path, name: str) -> None:
    url = server.script(name, fixed(200, b""))
    assert f"{url}: got an empty file" in fail(url)
    assert all(".part" in ending for ending in left_behind(artifacts))


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        pytest.param(fixed(404, b"gone"), "got status 404", id="404"),
        pytest.param(fixed(503, b"later"), "got status 503", id="503"),
        pytest.param(fixed(300, b"choose"), "got status 300", id="redirection without an address"),
        pytest.param(fixed(206, BODY, Content_Range="bytes 0-3/4"), "got status 206", id="part nobody asked for"),
        pytest.param(fixed(200, b"<p>", Content_Type="text/html"), "content type text/html", id="page"),
        pytest.param(fixed(200, OTHER), "its SHA-256 is", id="digest"),
        pytest.param(fixed(302, Location="http://127.0.0.1:9/"), "redirects to http://127.0.0.1:9/", id="downgrade"),
        pytest.param(fixed(302, Location="https://[::1"), "Invalid URL", id="redirection to no address"),
        pytest.param(lambda handler: handler.connection.close(), "", id="connection closed"),
    ],
)
def test_the_next_mirror_is_tried_and_the_reason_is_logged(
    server: Server, caplog: pytest.LogCaptureFixture, answer: Answer, reason: str
) -> None:
    first, second = server.script("/glove.zip", answer), server.script("/mirror/glove.zip", whole(BODY))
    with caplog.at_level(logging.WARNING, logger="tasks.fetching.mirrors"):
        assert download_file([first, second], sha256=DIGEST).read_bytes() == BODY
    assert [path for path, _ in server.requests] == ["/glove.zip", "/mirror/glove.zip"]
    assert [message.startswith(f"{first}: ") and reason in message for message in caplog.messages] == [True]


def test_the_message_of_a_failure_names_every_address_and_its_reason(server: Server) -> None:
    first = server.script("/glove.zip", fixed(404, b"gone"))
    second = server.script("/mirror/glove.zip", fixed(503, b"later", Content_Type=None))
    assert fail(first, second) == (
        "download failed\n"
        f"{first}: got status 404, content type application/zip, beginning b'gone'; expected the file\n"
        f"{second}: got status 503, content type none, beginning b'later'; expected the file"
    )


def test_nobody_listening_is_a_service_error_that_names_the_address(server: Server) -> None:
    url = f"https://127.0.0.1:{server.server_port}/glove.zip"
    server.answers.clear()
    server.shutdown()
    server.socket.close()
    assert fail(url).startswith(f"download failed\n{url}: ")


@pytest.mark.parametrize("url", ["https://", "https://exa\x7fmple.test/glove.zip"])
def test_an_address_that_is_none_is_a_service_error(artifacts: Path, url: str) -> None:
    assert fail(url).startswith(f"download failed\n{url}: ")


def test_the_deadline_ends_a_download_and_the_next_one_resumes(server: Server) -> None:
    def drip(handler: Handler) -> None:
        handler.answer(200, BODY[:100], Content_Length=len(BODY), ETag='"v1"')
        for at in range(100, 200):
            handler.wfile.write(BODY[at : at + 1])
            time.sleep(0.02)

    url = server.script("/glove.zip", drip, ranged(BODY))
    with pytest.raises(ServiceError, match=r"the deadline embeddings\.timeout_seconds has passed"):
        download_file([url], timeout_seconds=0.5)
    assert download_file([url], sha256=DIGEST).read_bytes() == BODY
    assert "Range" in server.requests[1][1]


def test_a_deadline_that_has_passed_asks_nobody(server: Server) -> None:
    with pytest.raises(ServiceError, match=r"the deadline embeddings\.timeout_seconds has passed"):
        download_file([server.script("/glove.zip", whole(BODY))], timeout_seconds=1e-9)
    assert server.requests == []


def test_a_connection_without_a_byte_is_given_up_and_tried_again(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.fetching.transfer.STALL_SECONDS", 0.2)
    release = threading.Event()

    def stall(handler: Handler) -> None:
        whole(BODY, arriving=HALF)(handler)
        handler.wfile.flush()
        release.wait(30)

    url = server.script("/glove.zip", stall, ranged(BODY))
    assert download_file([url]).read_bytes() == BODY
    release.set()
    assert server.requests[1][1]["Range"] == f"bytes={HALF}-"


# new tries


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the pauses between tries instead of making them."""
    noted: list[float] = []
    monkeypatch.setattr(tasks.fetching.mirrors, "PAUSE_SECONDS", 2.0)
    monkeypatch.setattr(tasks.fetching.mirrors, "FRUITLESS_TRIES", 4)
    monkeypatch.setattr(tasks.fetching.mirrors, "_wait", noted.append)
    return noted


def test_what_may_pass_is_tried_again_after_growing_pauses_until_it_is_hopeless(
    server: Server, pauses: list[float]
) -> None:
    url = server.script("/glove.zip", fixed(503))
    with pytest.raises(ServiceError, match=f"^download failed\n{url}: got status 503"):
        download_file([url])
    assert len(server.requests) == 4
    assert [round(pause / expected) for pause, expected in zip(pauses, [2.0, 4.0, 8.0], strict=True)] == [1, 1, 1]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_status_that_may_pass_is_tried_again(server: Server, pauses: list[float], status: int) -> None:
    url = server.script("/glove.zip", fixed(status), whole(BODY))
    assert download_file([url]).read_bytes() == BODY
    assert len(pauses) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_status_that_stays_is_not_tried_again(server: Server, pauses: list[float], status: int) -> None:
    url = server.script("/glove.zip", fixed(status), whole(BODY))
    with pytest.raises(ServiceError, match=f"got status {status}"):
        download_file([url])
    assert pauses == []


def test_the_server_may_ask_for_a_longer_pause(server: Server, pauses: list[float]) -> None:
    url = server.script("/glove.zip", fixed(429, Retry_After=77), whole(BODY))
    assert download_file([url]).read_bytes() == BODY
    assert pauses == [77.0]


def test_a_pause_beyond_the_deadline_is_not_made(server: Server, pauses: list[float]) -> None:
    url = server.script("/glove.zip", fixed(429, Retry_After=77), whole(BODY))
    with pytest.raises(ServiceError, match=r"leaves no time for another try$"):
        download_file([url], timeout_seconds=60)
    assert pauses == []


def test_an_address_that_gave_bytes_resumes_as_often_as_it_takes(server: Server, pauses: list[float]) -> None:
    def some(handler: Handler) -> None:
        ranged(BODY, arriving=10_000)(handler)

    url = server.script("/glove.zip", whole(BODY, arriving=10_000), some)
    mirror = server.script("/mirror/glove.zip", fixed(404))
    assert download_file([url, mirror], sha256=DIGEST).read_bytes() == BODY
    assert len(server.requests) == -(-len(BODY) // 10_000)
    assert server.sent == len(BODY)


def test_a_pause_lasts_as_long_as_it_should(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.fetching.mirrors, "PAUSE_SECONDS", 0.4)
    monkeypatch.setattr(tasks.fetching.mirrors, "FRUITLESS_TRIES", 2)
    url = server.script("/glove.zip", fixed(503), whole(BODY))
    started = time.monotonic()
    download_file([url])
    assert time.monotonic() - started >= 0.3


# the recorded digest


def test_the_digest_of_a_download_is_recorded(server: Server) -> None:
    path = download_file([server.script("/glove.zip", whole(BODY))])
    assert path.with_name(f"{path.name}.sha256").read_text() == f"{DIGEST}  {path.name}\n"


def test_a_stored_file_that_is_not_what_came_is_replaced(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY))
    download_file([url]).write_bytes(b"damaged")
    assert download_file([url]).read_bytes() == BODY


def test_another_content_than_at_the_first_download_is_refused_until_the_record_is_deleted(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY), whole(OTHER))
    path = download_file([url])
    path.unlink()
    record = path.with_name(f"{path.name}.sha256")
    assert f"expected {DIGEST}, as at the first download; delete {record} to accept another content" in fail(url)
    assert not path.exists()
    record.unlink()
    assert download_file([url]).read_bytes() == OTHER


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("/glove.zip", BODY[:-1]),
        ("/glove.zip", BODY[:HALF]),
        ("/glove.zip", b"PK\x03"),
        ("/vectors.txt.gz", gzip.compress(b"the 1 2\n")[:-1]),
    ],
)
def test_a_file_that_ends_too_early_is_not_stored_even_if_the_server_says_that_this_is_all(
    server: Server, artifacts: Path, name: str, content: bytes
) -> None:
    url = server.script(name, fixed(200, content))
    assert f"{url}: " in fail(url)
    assert all(".part" in ending for ending in left_behind(artifacts))


# content encoding


def test_a_gzip_file_is_stored_as_it_is_even_if_the_server_calls_it_an_encoding(server: Server) -> None:
    packed = gzip.compress(b"the 1 2\n")
    url = server.script("/vectors.txt.gz", fixed(200, packed, Content_Encoding="gzip"))
    assert download_file([url]).read_bytes() == packed


def test_an_encoding_that_nobody_asked_for_is_refused(server: Server, artifacts: Path) -> None:
    url = server.script("/vectors.txt", fixed(200, gzip.compress(b"the 1 2\n"), Content_Encoding="gzip"))
    assert "got content encoding gzip, expected the file as it is" in fail(url)
    assert left_behind(artifacts) == []


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>", b"<html><p>"])
def test_a_page_that_calls_itself_a_text_is_refused(server: Server, artifacts: Path, page: bytes) -> None:
    url = server.script("/vectors.txt", fixed(200, page, Content_Type="text/plain"))
    assert f"begins with {page!r}, which is no .txt file" in fail(url)


def test_a_full_disk_is_a_store_error(server: Server, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match=r"\.part: cannot be written: No space left on device; free some space"):
        download_file([server.script("/glove.zip", whole(BODY))])
    assert left_behind(artifacts) == ["zip.part", "zip.part.json"]


# redirects


@pytest.mark.parametrize("absolute", [False, True])
def test_a_redirect_is_followed(server: Server, absolute: bool) -> None:
    target = server.script("/files/glove.zip", whole(BODY))
    url = server.script("/glove.zip", fixed(302, Location=target if absolute else "files/glove.zip"))
    assert download_file([url]).read_bytes() == BODY


def test_a_redirected_download_resumes_with_a_range(server: Server) -> None:
    server.script("/files/glove.zip", whole(BODY, arriving=HALF), ranged(BODY))
    url = server.script("/glove.zip", fixed(307, Location="/files/glove.zip"))
    fail(url)
    assert download_file([url]).read_bytes() == BODY
    assert server.sent == len(BODY)


def test_a_redirect_loop_ends(server: Server) -> None:
    url = server.script("/glove.zip", fixed(301, Location="/glove.zip"))
    assert fail(url) == f"download failed\n{url}: more than 5 redirects"
    assert len(server.requests) == 6


def test_a_redirect_away_from_https_is_refused(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", fixed(302, Location="http://127.0.0.1/glove.zip"))
    assert fail(url) == (f"download failed\n{url}: redirects to http://127.0.0.1/glove.zip, expected an https address")
    assert left_behind(artifacts) == []


# addresses, certificates, offline


@pytest.mark.parametrize("url", ["http://127.0.0.1/glove.zip", "ftp://127.0.0.1/a", "file:///etc/passwd", "glove.zip"])
def test_an_address_that_is_not_https_is_refused(artifacts: Path, url: str) -> None:
    with pytest.raises(InputError) as caught:
        download_file(["https://127.0.0.1:9/glove.zip", url])
    assert str(caught.value) == f"{url}: expected an https address"
    assert not artifacts.exists()


def test_a_certificate_that_nobody_trusts_is_refused(
    server: Server, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "another.pem"))
    url = server.script("/glove.zip", whole(BODY))
    assert "CERTIFICATE_VERIFY_FAILED" in fail(url)
    assert server.requests == []
    assert left_behind(artifacts) == []


def test_a_certificate_of_another_host_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert "CERTIFICATE_VERIFY_FAILED" in fail(f"https://localhost:{server.server_port}/glove.zip")


def test_the_tls_defaults_of_the_process_stay_as_they_are(server: Server) -> None:
    before = ssl._create_default_https_context
    download_file([server.script("/glove.zip", whole(BODY))])
    assert ssl._create_default_https_context is before
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED


def test_offline_asks_nobody_and_names_what_is_missing(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY))
    with pytest.raises(InputError) as caught:
        download_file([url], offline=True)
    assert str(caught.value) == (
        f"{url}: is not in {artifacts / 'downloads'} and embeddings.offline forbids to fetch it"
    )
    assert server.requests == []


def test_offline_takes_what_is_there(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY))
    assert download_file([url], sha256=DIGEST) == download_file([url], sha256=DIGEST, offline=True)
    assert len(server.requests) == 1


# several at once


@contextlib.contextmanager
def somebody_waits() -> Iterator[threading.Event]:
    """Yield an event that is set as soon as somebody waits for a download's lock."""
    waiting = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.getMessage().startswith("waiting for another run to download"):
                waiting.set()

    logger, listener = logging.getLogger("tasks.store.locks"), Listener()
    level = logger.level
    logger.addHandler(listener)
    logger.setLevel(logging.INFO)
    yield waiting
    logger.setLevel(level)
    logger.removeHandler(listener)


def test_two_threads_make_one_download(server: Server) -> None:
    with somebody_waits() as waiting, ThreadPoolExecutor(2) as pool:

        def answer(handler: Handler) -> None:
            assert waiting.wait(30)
            whole(BODY)(handler)

        url = server.script("/glove.zip", answer)
        paths = list(pool.map(lambda _: download_file([url]), range(2)))
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_killed_process_frees_its_lock_and_leaves_a_part_that_resumes(server: Server, artifacts: Path) -> None:
    half_sent, killed = threading.Event(), threading.Event()

    def hang(handler: Handler) -> None:
        whole(BODY, arriving=HALF)(handler)
        half_sent.set()
        killed.wait(30)

    url = server.script("/glove.zip", hang, ranged(BODY))
    code = f"from tasks.fetching.mirrors import download_file; download_file([{url!r}])"
    with (
        subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[3]) as process,
        somebody_waits() as waiting,
        ThreadPoolExecutor(1) as pool,
    ):
        assert half_sent.wait(60)
        other = pool.submit(download_file, [url])
        assert waiting.wait(30)
        while not any(part.stat().st_size for part in (artifacts / "downloads").glob("*.part")):
            assert process.poll() is None
            time.sleep(0.01)
        assert left_behind(artifacts) == ["zip.part", "zip.part.json"]
        assert json.loads(part_file(artifacts).with_suffix(".part.json").read_text()) == {
            "url": url,
            "etag": '"v1"',
            "span": None,
        }
        process.kill()
        killed.set()
        assert other.result(30).read_bytes() == BODY
    assert 0 < int(server.requests[1][1]["Range"].removeprefix("bytes=").removesuffix("-")) <= HALF


def test_random_misbehaviour_of_servers_never_leaves_a_wrong_file() -> None:
    tally = network_schedules.run_campaign(schedules=40, seed=100)
    assert tally["right at once"] + tally["an error, then right"] == 40
    assert min(tally["right at once"], tally["an error, then right"]) > 0


def test_several_processes_make_one_download(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY))
    code = f"from tasks.fetching.mirrors import download_file; print(download_file([{url!r}], sha256={DIGEST!r}))"
    command = [sys.executable, "-c", code]
    running = [
        subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, text=True) for _ in range(2)
    ]
    paths = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [Path(path).read_bytes() for path in paths] == [BODY]
    assert len(server.requests) == 1
