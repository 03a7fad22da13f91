"""One transfer over HTTPS: directly for spans, through `download_file` for whole files.

Longer than 300 lines because each test scripts its own server.
"""

import errno
import gzip
import json
import os
import ssl
import threading
import time
from functools import partial
from pathlib import Path

import httpx
import pytest
import trustme

from pipeline_config.errors import ServiceError, StoreError
from tasks.fetching.mirrors import download_file
from tasks.fetching.partial_file import PartialFile, Span, is_strong_etag
from tasks.fetching.transfer import RangeRefusedError, TransientError, parse_content_range, transfer_bytes
from tests.downloads import BODY, DIGEST, HALF, OTHER, fail_download, find_partial_file, list_endings
from tests.https_server import Answer, Handler, Server, fixed, ranged, whole

NUMBERS = bytes(range(256)) * 40
SPAN = Span(1000, 3000, len(NUMBERS), '"v1"')


def transfer(url: str, path: Path, span: Span | None = SPAN) -> bool:
    return transfer_bytes(url, PartialFile(path), path.with_suffix(".dat"), span=span, deadline=time.monotonic() + 30)


@pytest.mark.parametrize(
    ("etag", "strong"), [('"v1"', True), ('W/"v1"', False), ('""', False), ("", False), ("v1", False)]
)
def test_only_a_strong_etag_identifies_exact_bytes(etag: str, strong: bool) -> None:
    assert is_strong_etag(etag) is strong


@pytest.mark.parametrize(
    ("header", "stated"),
    [
        ("bytes 5-9/100", (5, 100)),
        ("bytes 0-0/1", (0, 1)),
        ("bytes 5-9/*", None),
        ("bytes */100", None),
        ("items 5-9/100", None),
        ("bytes x-9/100", None),
        ("", None),
    ],
)
def test_a_content_range_states_its_first_byte_and_the_total_length(
    header: str, stated: tuple[int, int] | None
) -> None:
    assert parse_content_range(httpx.Response(206, headers={"Content-Range": header})) == stated


def test_a_span_is_transferred_and_nothing_else(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    assert transfer(server.script("/a", ranged(NUMBERS)), part) is False
    assert part.read_bytes() == NUMBERS[1000:3000]
    assert server.sent == 2000
    assert json.loads(PartialFile(part).sidecar.read_text())["span"] == [1000, 3000, len(NUMBERS), '"v1"']


def test_a_broken_span_is_resumed(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    url = server.script("/a", ranged(NUMBERS, arriving=300), ranged(NUMBERS))
    with pytest.raises(TransientError):
        transfer(url, part)
    assert transfer(url, part) is True
    assert part.read_bytes() == NUMBERS[1000:3000]
    assert server.sent == 2000


def test_a_complete_span_sends_no_request(server: Server, tmp_path: Path) -> None:
    url = server.script("/a", ranged(NUMBERS))
    transfer(url, tmp_path / "a.part")
    assert transfer(url, tmp_path / "a.part") is True
    assert len(server.requests) == 1


def test_a_partial_file_of_one_span_is_not_resumed_for_another(server: Server, tmp_path: Path) -> None:
    url = server.script("/a", ranged(NUMBERS))
    transfer(url, tmp_path / "a.part")
    transfer(url, tmp_path / "a.part", SPAN._replace(end=4000))
    assert (tmp_path / "a.part").read_bytes() == NUMBERS[1000:4000]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(whole(NUMBERS), id="the whole"),
        pytest.param(ranged(NUMBERS, etag='"v2"'), id="another ETag"),
        pytest.param(ranged(NUMBERS + b"more"), id="another length"),
        pytest.param(fixed(416), id="not satisfiable"),
        pytest.param(fixed(206, NUMBERS[:2000], Content_Range=f"bytes 0-1999/{len(NUMBERS)}"), id="another place"),
    ],
)
def test_a_response_that_is_not_the_span_is_refused(server: Server, tmp_path: Path, answer: object) -> None:
    with pytest.raises(RangeRefusedError, match=r"^does not send the requested range$"):
        transfer(server.script("/a", answer), tmp_path / "a.part")
    assert not (tmp_path / "a.part").exists()


def test_an_error_status_is_a_service_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="got status 404"):
        transfer(server.script("/a", fixed(404)), tmp_path / "a.part")


# whole files


def test_a_body_without_a_stated_length_is_accepted_only_if_its_digest_is_known(server: Server) -> None:
    url = server.script("/glove.zip", lambda handler: handler.answer(200, BODY))
    assert "states no length and no digest of the file is known" in fail_download(url)
    assert download_file([url], sha256=DIGEST).read_bytes() == BODY


def test_a_chunked_body_is_accepted_only_with_its_last_chunk(server: Server) -> None:
    def chunked(handler: Handler, *, last: bytes = b"0\r\n\r\n") -> None:
        handler.protocol_version = "HTTP/1.1"
        body = b"%x\r\n%b\r\n" % (len(BODY), BODY)
        handler.answer(200, body + last, Transfer_Encoding="chunked")

    url = server.script("/glove.zip", partial(chunked, last=b""), chunked)
    fail_download(url)
    assert download_file([url]).read_bytes() == BODY


def test_the_first_bytes_of_a_file_may_arrive_one_by_one(server: Server) -> None:
    def drip(handler: Handler) -> None:
        handler.answer(200, BODY[:1], Content_Length=len(BODY))
        handler.wfile.write(BODY[1:2])
        handler.wfile.write(BODY[2:])

    assert download_file([server.script("/glove.zip", drip)]).read_bytes() == BODY


# resuming


@pytest.mark.parametrize("damaged", [False, True])
def test_a_plain_file_without_a_digest_is_resumed_only_if_its_bytes_so_far_are_intact(
    server: Server, artifacts: Path, damaged: bool
) -> None:
    url = server.script("/corpus.csv", whole(BODY, arriving=HALF), ranged(BODY))
    fail_download(url)
    if damaged:
        find_partial_file(artifacts).write_bytes(bytes([BODY[0] ^ 1]) + BODY[1:HALF])
    assert download_file([url]).read_bytes() == BODY
    assert ("Range" in server.requests[1][1]) is not damaged


def test_a_broken_transfer_resumes_where_it_broke(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), ranged(BODY))
    assert url in fail_download(url)
    assert list_endings(artifacts) == ["zip.part", "zip.part.json"]
    assert find_partial_file(artifacts).read_bytes() == BODY[:HALF]

    assert download_file([url], sha256=DIGEST).read_bytes() == BODY
    asked = server.requests[1][1]
    assert (asked["Range"], asked["If-Range"]) == (f"bytes={HALF}-", '"v1"')
    assert server.sent == len(BODY)
    assert list_endings(artifacts) == ["zip", "zip.sha256"]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ranged(OTHER, etag='"v2"'), id="changed"),
        pytest.param(whole(OTHER, etag='"v1"'), id="range ignored"),
    ],
)
def test_a_whole_file_replaces_the_partial_file(server: Server, answer: Answer) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), answer)
    fail_download(url)
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
def test_a_range_that_does_not_continue_the_partial_file_starts_the_download_over(
    server: Server, status: int, content_range: str | None, etag: str | None
) -> None:
    odd = fixed(status, OTHER[HALF:], Content_Range=content_range, ETag=etag)
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), odd, whole(OTHER))
    fail_download(url)
    assert download_file([url]).read_bytes() == OTHER
    assert "Range" in server.requests[1][1]
    assert "Range" not in server.requests[2][1]


def test_a_partial_file_that_is_already_complete_starts_the_download_over(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), ranged(BODY))
    fail_download(url)
    find_partial_file(artifacts).write_bytes(BODY)  # a process was killed between the last byte and the rename
    assert download_file([url]).read_bytes() == BODY


@pytest.mark.parametrize("etag", [None, ""])
def test_a_partial_file_without_an_etag_is_not_resumed(server: Server, etag: str | None) -> None:
    url = server.script("/glove.zip", whole(BODY, etag=etag, arriving=HALF), whole(OTHER, etag=etag))
    fail_download(url)
    assert download_file([url]).read_bytes() == OTHER
    assert "Range" not in server.requests[1][1]


@pytest.mark.parametrize("sidecar", [b"", b'{"url": "https', b"\xff"])
def test_a_partial_file_with_an_unreadable_sidecar_is_not_resumed(
    server: Server, artifacts: Path, sidecar: bytes
) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), ranged(BODY))
    fail_download(url)
    find_partial_file(artifacts).with_suffix(".part.json").write_bytes(sidecar)
    assert download_file([url]).read_bytes() == BODY
    assert "Range" not in server.requests[1][1]


def test_a_new_etag_is_never_written_beside_the_bytes_of_the_old_content(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_path = Path.open

    def interrupt(path: Path, *args: object, **options: object) -> object:
        if path.suffix == ".part":
            raise KeyboardInterrupt
        return open_path(path, *args, **options)

    url = server.script("/glove.zip", whole(OTHER, arriving=HALF), ranged(BODY, etag='"v2"'))
    fail_download(url)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", interrupt)
        with pytest.raises(KeyboardInterrupt):
            download_file([url])
    assert download_file([url]).read_bytes() == BODY


# responses that are refused


def test_a_truncated_body_is_not_stored(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY, arriving=HALF))
    assert fail_download(url).startswith(f"download failed\n{url}: ")
    assert list_endings(artifacts) == ["zip.part", "zip.part.json"]


def test_a_truncated_range_is_an_error_with_both_lengths_and_is_resumed(server: Server, artifacts: Path) -> None:
    piece = fixed(206, BODY[HALF : HALF + 10], Content_Range=f"bytes {HALF}-{HALF + 9}/{len(BODY)}", ETag='"v1"')
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), piece, ranged(BODY))
    fail_download(url)
    assert f"{url}: expected {len(BODY):,} bytes, got {HALF + 10:,}" in fail_download(url)
    assert list_endings(artifacts) == ["zip.part", "zip.part.json"]
    assert download_file([url]).read_bytes() == BODY
    assert server.requests[2][1]["Range"] == f"bytes={HALF + 10}-"


def test_a_partial_file_longer_than_the_file_is_deleted(server: Server, artifacts: Path) -> None:
    longer = fixed(206, b"12345", Content_Range=f"bytes {HALF}-{HALF}/{HALF + 1}", ETag='"v1"')
    url = server.script("/glove.zip", whole(BODY, arriving=HALF), longer)
    fail_download(url)
    assert f"expected {HALF + 1:,} bytes, got {HALF + 5:,}" in fail_download(url)
    assert list_endings(artifacts) == []


@pytest.mark.parametrize("kind", ["text/html", "text/html; charset=utf-8", "Text/HTML"])
def test_an_html_page_with_status_200_is_refused_with_address_status_and_first_bytes(
    server: Server, artifacts: Path, kind: str
) -> None:
    page = b"<html><body>Down until 3 July</body></html>" + b" " * 100
    url = server.script("/glove.zip", fixed(200, page, Content_Type=kind))
    assert fail_download(url) == (
        f"download failed\n{url}: got status 200, content type {kind}, first bytes {page[:80]!r}; expected the file"
    )
    assert list_endings(artifacts) == []


@pytest.mark.parametrize("name", ["/glove.zip", "/glove.ZIP", "/corpus.parquet", "/vectors.txt.gz"])
def test_an_html_page_with_another_content_type_is_refused_by_its_first_bytes(
    server: Server, artifacts: Path, name: str
) -> None:
    url = server.script(name, fixed(200, b"<html>not found</html>"))
    suffix = Path(name).suffix
    assert f"{url}: expected a {suffix} file, got one that begins with b'<html>not found</html>'" in fail_download(url)
    assert not any(ending.endswith(suffix) for ending in list_endings(artifacts))


@pytest.mark.parametrize("page", [b"<!DOCTYPE html><p>", b"<html><p>"])
def test_an_html_page_is_refused_as_a_text(server: Server, artifacts: Path, page: bytes) -> None:
    url = server.script("/vectors.txt", fixed(200, page, Content_Type="text/plain"))
    assert f"expected a .txt file, got one that begins with {page!r}" in fail_download(url)


@pytest.mark.parametrize("name", ["/glove.zip", "/corpus.csv"])
def test_an_empty_file_is_refused(server: Server, artifacts: Path, name: str) -> None:
    url = server.script(name, fixed(200, b""))
    assert f"{url}: got an empty file" in fail_download(url)
    assert all(".part" in ending for ending in list_endings(artifacts))


def test_a_gzip_file_is_stored_unchanged_even_if_the_server_calls_it_gzip_encoded(server: Server) -> None:
    packed = gzip.compress(b"the 1 2\n")
    url = server.script("/vectors.txt.gz", fixed(200, packed, Content_Encoding="gzip"))
    assert download_file([url]).read_bytes() == packed


def test_a_content_encoding_that_was_not_requested_is_refused(server: Server, artifacts: Path) -> None:
    url = server.script("/vectors.txt", fixed(200, gzip.compress(b"the 1 2\n"), Content_Encoding="gzip"))
    assert "got content encoding gzip, expected none" in fail_download(url)
    assert list_endings(artifacts) == []


def test_a_full_disk_is_a_store_error(server: Server, artifacts: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(
        StoreError,
        match=r"\.part: cannot be written: No space left on device \([\d,.]+ MiB are free\); free some space",
    ):
        download_file([server.script("/glove.zip", whole(BODY))])
    assert list_endings(artifacts) == ["zip.part", "zip.part.json"]


# deadlines


def test_the_deadline_ends_a_download_and_the_next_one_resumes(server: Server) -> None:
    def drip(handler: Handler) -> None:
        handler.answer(200, BODY[:100], Content_Length=len(BODY), ETag='"v1"')
        for at in range(100, 200):
            handler.wfile.write(BODY[at : at + 1])
            time.sleep(0.02)

    url = server.script("/glove.zip", drip, ranged(BODY))
    with pytest.raises(ServiceError, match=r"the deadline has passed \(vectors: embeddings\.timeout_seconds\)"):
        download_file([url], timeout_seconds=0.5)
    assert download_file([url], sha256=DIGEST).read_bytes() == BODY
    assert "Range" in server.requests[1][1]


def test_no_request_is_sent_after_the_deadline(server: Server) -> None:
    with pytest.raises(ServiceError, match=r"the deadline has passed \(vectors: embeddings\.timeout_seconds\)"):
        download_file([server.script("/glove.zip", whole(BODY))], timeout_seconds=1e-9)
    assert server.requests == []


def test_a_stalled_connection_is_closed_and_tried_again(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
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


# redirects and certificates


@pytest.mark.parametrize("absolute", [False, True])
def test_a_redirect_is_followed(server: Server, absolute: bool) -> None:
    target = server.script("/files/glove.zip", whole(BODY))
    url = server.script("/glove.zip", fixed(302, Location=target if absolute else "files/glove.zip"))
    assert download_file([url]).read_bytes() == BODY


def test_a_redirected_download_resumes_with_a_range(server: Server) -> None:
    server.script("/files/glove.zip", whole(BODY, arriving=HALF), ranged(BODY))
    url = server.script("/glove.zip", fixed(307, Location="/files/glove.zip"))
    fail_download(url)
    assert download_file([url]).read_bytes() == BODY
    assert server.sent == len(BODY)


def test_a_redirect_loop_ends(server: Server) -> None:
    url = server.script("/glove.zip", fixed(301, Location="/glove.zip"))
    assert fail_download(url) == f"download failed\n{url}: expected at most 5 redirects, got more"
    assert len(server.requests) == 6


def test_a_redirect_away_from_https_is_refused(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", fixed(302, Location="http://127.0.0.1/glove.zip"))
    assert fail_download(url) == (
        f"download failed\n{url}: redirects to http://127.0.0.1/glove.zip, expected an https address"
    )
    assert list_endings(artifacts) == []


def test_an_untrusted_certificate_is_refused(
    server: Server, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "another.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "another.pem"))
    url = server.script("/glove.zip", whole(BODY))
    assert "CERTIFICATE_VERIFY_FAILED" in fail_download(url)
    assert server.requests == []
    assert list_endings(artifacts) == []


def test_a_certificate_of_another_host_is_refused(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "localhost")
    assert "CERTIFICATE_VERIFY_FAILED" in fail_download(f"https://localhost:{server.server_port}/glove.zip")


def test_the_tls_defaults_of_the_process_do_not_change(server: Server) -> None:
    before = ssl._create_default_https_context
    download_file([server.script("/glove.zip", whole(BODY))])
    assert ssl._create_default_https_context is before
    assert ssl.create_default_context().verify_mode is ssl.CERT_REQUIRED
