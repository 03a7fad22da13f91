"""Downloads from one or several addresses, against a local HTTPS server with scripted responses.

Longer than 300 lines because each test scripts its own server. How one transfer behaves is tested in `test_transfer.py`.
"""

import contextlib
import gzip
import hashlib
import json
import logging
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import tasks.fetching.mirrors
from pipeline_config.errors import InputError, ServiceError
from tasks.fetching.mirrors import download_file
from tests.campaigns import network_schedules
from tests.downloads import BODY, DIGEST, HALF, OTHER, fail_download, find_partial_file, list_endings
from tests.https_server import Answer, Handler, Server, fixed, ranged, whole

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("sha256", [None, DIGEST])
def test_a_download_has_the_bytes_of_the_server_and_leaves_no_partial_file(
    server: Server, artifacts: Path, sha256: str | None
) -> None:
    path = download_file([server.script("/glove.zip", whole(BODY))], sha256=sha256)
    assert path.read_bytes() == BODY
    assert path.parent == artifacts / "downloads"
    assert list_endings(artifacts) == ["zip", "zip.sha256"]


def test_a_file_that_exists_is_not_downloaded_again(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY))
    assert download_file([url], sha256=DIGEST) == download_file([url], sha256=DIGEST)
    assert len(server.requests) == 1


def test_files_of_the_same_name_from_two_addresses_are_kept_apart(server: Server) -> None:
    first = download_file([server.script("/a/glove.zip", whole(BODY))])
    second = download_file([server.script("/b/glove.zip", whole(OTHER))])
    assert (first.read_bytes(), second.read_bytes()) == (BODY, OTHER)


@pytest.mark.parametrize(("path", "ending"), [("/corpus.csv?raw=true", "-corpus.csv"), ("/", "-file")])
def test_the_file_is_named_after_the_address(server: Server, path: str, ending: str) -> None:
    assert download_file([server.script(path, whole(b"text,label\n"))]).name.endswith(ending)


@pytest.mark.parametrize("url", ["http://127.0.0.1/glove.zip", "ftp://127.0.0.1/a", "file:///etc/passwd", "glove.zip"])
def test_an_address_that_is_not_https_is_refused(artifacts: Path, url: str) -> None:
    with pytest.raises(InputError) as caught:
        download_file(["https://127.0.0.1:9/glove.zip", url])
    assert str(caught.value) == f"{url}: expected an https address"
    assert not artifacts.exists()


def test_offline_opens_no_connection_and_the_message_names_the_missing_file(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY))
    with pytest.raises(InputError) as caught:
        download_file([url], offline=True)
    assert str(caught.value) == (
        f"{url}: is not in {artifacts / 'downloads'}, and embeddings.offline forbids downloading it; set it to false once"
    )
    assert server.requests == []


def test_offline_uses_a_file_that_exists(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY))
    assert download_file([url], sha256=DIGEST) == download_file([url], sha256=DIGEST, offline=True)
    assert len(server.requests) == 1


# digests


def test_a_stored_file_without_the_expected_digest_is_replaced(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY))
    download_file([url], sha256=DIGEST).write_bytes(b"damaged")
    assert download_file([url], sha256=DIGEST).read_bytes() == BODY


def test_a_file_with_another_digest_is_not_stored_and_the_message_has_both_digests(
    server: Server, artifacts: Path
) -> None:
    url = server.script("/glove.zip", whole(OTHER))
    got = hashlib.sha256(OTHER).hexdigest()
    assert fail_download(url, sha256=DIGEST) == f"download failed\n{url}: its SHA-256 is {got}, expected {DIGEST}"
    assert list_endings(artifacts) == []


def test_the_digest_of_a_download_is_recorded(server: Server) -> None:
    path = download_file([server.script("/glove.zip", whole(BODY))])
    assert path.with_name(f"{path.name}.sha256").read_text() == f"{DIGEST}  {path.name}\n"


def test_a_stored_file_without_the_recorded_digest_is_replaced(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY))
    download_file([url]).write_bytes(b"damaged")
    assert download_file([url]).read_bytes() == BODY


def test_other_content_than_at_the_first_download_is_refused_until_the_record_is_deleted(server: Server) -> None:
    url = server.script("/glove.zip", whole(BODY), whole(OTHER))
    path = download_file([url])
    path.unlink()
    record = path.with_name(f"{path.name}.sha256")
    assert f"expected {DIGEST} as at the first download; delete {record} to accept the new content" in fail_download(
        url
    )
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
def test_a_truncated_file_is_not_stored_even_if_the_server_states_its_length(
    server: Server, artifacts: Path, name: str, content: bytes
) -> None:
    url = server.script(name, fixed(200, content))
    assert f"{url}: " in fail_download(url)
    assert all(".part" in ending for ending in list_endings(artifacts))


def test_a_mixture_of_two_contents_fails_the_digest_check_and_is_deleted(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(OTHER, arriving=HALF), ranged(BODY))  # the ETag lies
    fail_download(url, sha256=DIGEST)
    mixed = hashlib.sha256(OTHER[:HALF] + BODY[HALF:]).hexdigest()
    assert f"{url}: its SHA-256 is {mixed}, expected {DIGEST}" in fail_download(url, sha256=DIGEST)
    assert list_endings(artifacts) == []
    assert download_file([url], sha256=DIGEST).read_bytes() == BODY


# mirrors and new tries


def test_a_partial_file_of_one_mirror_is_not_resumed_from_another(server: Server) -> None:
    first = server.script("/glove.zip", whole(BODY, arriving=HALF))
    second = server.script("/mirror/glove.zip", ranged(OTHER))
    assert download_file([first, second]).read_bytes() == OTHER
    assert [("Range" in headers) for path, headers in server.requests if path == "/mirror/glove.zip"] == [False]


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
    assert fail_download(first, second) == (
        "download failed\n"
        f"{first}: got status 404, content type application/zip, first bytes b'gone'; expected the file\n"
        f"{second}: got status 503, content type none, first bytes b'later'; expected the file"
    )


def test_a_refused_connection_is_a_service_error_with_the_address(server: Server) -> None:
    url = f"https://127.0.0.1:{server.server_port}/glove.zip"
    server.answers.clear()
    server.shutdown()
    server.socket.close()
    assert fail_download(url).startswith(f"download failed\n{url}: ")


@pytest.mark.parametrize("url", ["https://", "https://exa\x7fmple.test/glove.zip"])
def test_an_invalid_address_is_a_service_error(artifacts: Path, url: str) -> None:
    assert fail_download(url).startswith(f"download failed\n{url}: ")


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Note the pauses between tries instead of making them."""
    noted: list[float] = []
    monkeypatch.setattr(tasks.fetching.mirrors, "PAUSE_SECONDS", 2.0)
    monkeypatch.setattr(tasks.fetching.mirrors, "MAX_TRIES_WITHOUT_PROGRESS", 4)
    monkeypatch.setattr(tasks.fetching.mirrors, "_wait", noted.append)
    return noted


def test_a_transient_failure_is_tried_again_after_growing_pauses_up_to_a_limit(
    server: Server, pauses: list[float]
) -> None:
    url = server.script("/glove.zip", fixed(503))
    with pytest.raises(ServiceError, match=f"^download failed\n{url}: got status 503"):
        download_file([url])
    assert len(server.requests) == 4
    assert [round(pause / expected) for pause, expected in zip(pauses, [2.0, 4.0, 8.0], strict=True)] == [1, 1, 1]


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504])
def test_a_transient_status_is_tried_again(server: Server, pauses: list[float], status: int) -> None:
    url = server.script("/glove.zip", fixed(status), whole(BODY))
    assert download_file([url]).read_bytes() == BODY
    assert len(pauses) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_permanent_status_is_not_tried_again(server: Server, pauses: list[float], status: int) -> None:
    url = server.script("/glove.zip", fixed(status), whole(BODY))
    with pytest.raises(ServiceError, match=f"got status {status}"):
        download_file([url])
    assert pauses == []


def test_a_longer_pause_that_the_server_requests_is_made(server: Server, pauses: list[float]) -> None:
    url = server.script("/glove.zip", fixed(429, Retry_After=77), whole(BODY))
    assert download_file([url]).read_bytes() == BODY
    assert pauses == [77.0]


def test_a_pause_that_ends_after_the_deadline_is_not_made(server: Server, pauses: list[float]) -> None:
    url = server.script("/glove.zip", fixed(429, Retry_After=77), whole(BODY))
    with pytest.raises(ServiceError, match=r"leaves no time for another try$"):
        download_file([url], timeout_seconds=60)
    assert pauses == []


def test_an_address_that_gave_new_bytes_is_resumed_without_limit(server: Server, pauses: list[float]) -> None:
    def some(handler: Handler) -> None:
        ranged(BODY, arriving=10_000)(handler)

    url = server.script("/glove.zip", whole(BODY, arriving=10_000), some)
    mirror = server.script("/mirror/glove.zip", fixed(404))
    assert download_file([url, mirror], sha256=DIGEST).read_bytes() == BODY
    assert len(server.requests) == -(-len(BODY) // 10_000)
    assert server.sent == len(BODY)


def test_a_pause_lasts_as_long_as_stated(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tasks.fetching.mirrors, "PAUSE_SECONDS", 0.4)
    monkeypatch.setattr(tasks.fetching.mirrors, "MAX_TRIES_WITHOUT_PROGRESS", 2)
    url = server.script("/glove.zip", fixed(503), whole(BODY))
    started = time.monotonic()
    download_file([url])
    assert time.monotonic() - started >= 0.3


def test_random_faults_of_servers_never_leave_a_wrong_file() -> None:
    tally = network_schedules.run_campaign(schedules=40, seed=100)
    assert tally["correct at once"] + tally["an error, then correct"] == 40
    assert min(tally["correct at once"], tally["an error, then correct"]) > 0


# several at once


@contextlib.contextmanager
def watch_for_waiting() -> Iterator[threading.Event]:
    """Yield an event that is set as soon as another caller waits for a download's lock."""
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
    with watch_for_waiting() as waiting, ThreadPoolExecutor(2) as pool:

        def answer(handler: Handler) -> None:
            assert waiting.wait(30)
            whole(BODY)(handler)

        url = server.script("/glove.zip", answer)
        paths = list(pool.map(lambda _: download_file([url]), range(2)))
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == BODY
    assert len(server.requests) == 1


def test_a_killed_process_releases_its_lock_and_its_partial_file_is_resumed(server: Server, artifacts: Path) -> None:
    half_sent, killed = threading.Event(), threading.Event()

    def hang(handler: Handler) -> None:
        whole(BODY, arriving=HALF)(handler)
        half_sent.set()
        killed.wait(30)

    url = server.script("/glove.zip", hang, ranged(BODY))
    code = f"from tasks.fetching.mirrors import download_file; download_file([{url!r}])"
    with (
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT) as process,
        watch_for_waiting() as waiting,
        ThreadPoolExecutor(1) as pool,
    ):
        assert half_sent.wait(60)
        other = pool.submit(download_file, [url])
        assert waiting.wait(30)
        while not any(part.stat().st_size for part in (artifacts / "downloads").glob("*.part")):
            assert process.poll() is None
            time.sleep(0.01)
        assert list_endings(artifacts) == ["zip.part", "zip.part.json"]
        assert json.loads(find_partial_file(artifacts).with_suffix(".part.json").read_text()) == {
            "url": url,
            "etag": '"v1"',
            "span": None,
        }
        process.kill()
        killed.set()
        assert other.result(30).read_bytes() == BODY
    assert 0 < int(server.requests[1][1]["Range"].removeprefix("bytes=").removesuffix("-")) <= HALF


def test_several_processes_make_one_download(server: Server, artifacts: Path) -> None:
    url = server.script("/glove.zip", whole(BODY))
    code = f"from tasks.fetching.mirrors import download_file; print(download_file([{url!r}], sha256={DIGEST!r}))"
    command = [sys.executable, "-c", code]
    running = [subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    paths = {process.communicate(timeout=60)[0].strip() for process in running}
    assert [Path(path).read_bytes() for path in paths] == [BODY]
    assert len(server.requests) == 1
