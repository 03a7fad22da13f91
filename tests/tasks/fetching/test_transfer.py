"""One transfer over HTTPS; what a download makes of several is in test_download.py."""

import json
import time
from pathlib import Path

import httpx
import pytest

from pipeline_config.errors import ServiceError
from tasks.fetching.transfer import Part, RangeRefusedError, Span, TransientError, content_range, fetch_part, is_strong
from tests.https_server import Server, fixed, ranged, whole

BODY = bytes(range(256)) * 40
SPAN = Span(1000, 3000, len(BODY), '"v1"')


def fetch(url: str, path: Path, span: Span | None = SPAN) -> bool:
    return fetch_part(url, Part(path), path.with_suffix(".dat"), span=span, deadline=time.monotonic() + 30)


@pytest.mark.parametrize(
    ("etag", "strong"), [('"v1"', True), ('W/"v1"', False), ('""', False), ("", False), ("v1", False)]
)
def test_only_a_strong_etag_stands_for_the_very_bytes(etag: str, strong: bool) -> None:
    assert is_strong(etag) is strong


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
def test_a_content_range_states_its_beginning_and_the_whole(header: str, stated: tuple[int, int] | None) -> None:
    assert content_range(httpx.Response(206, headers={"Content-Range": header})) == stated


def test_a_span_is_fetched_and_no_more(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    assert fetch(server.script("/a", ranged(BODY)), part) is False
    assert part.read_bytes() == BODY[1000:3000]
    assert server.sent == 2000
    assert json.loads(Part(part).sidecar.read_text())["span"] == [1000, 3000, len(BODY), '"v1"']


def test_a_span_that_broke_is_resumed(server: Server, tmp_path: Path) -> None:
    part = tmp_path / "a.part"
    url = server.script("/a", ranged(BODY, arriving=300), ranged(BODY))
    with pytest.raises(TransientError):
        fetch(url, part)
    assert fetch(url, part) is True
    assert part.read_bytes() == BODY[1000:3000]
    assert server.sent == 2000


def test_a_span_that_is_there_asks_for_nothing(server: Server, tmp_path: Path) -> None:
    url = server.script("/a", ranged(BODY))
    fetch(url, tmp_path / "a.part")
    assert fetch(url, tmp_path / "a.part") is True
    assert len(server.requests) == 1


def test_a_part_of_one_span_is_not_continued_by_another(server: Server, tmp_path: Path) -> None:
    url = server.script("/a", ranged(BODY))
    fetch(url, tmp_path / "a.part")
    fetch(url, tmp_path / "a.part", SPAN._replace(end=4000))
    assert (tmp_path / "a.part").read_bytes() == BODY[1000:4000]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(whole(BODY), id="the whole"),
        pytest.param(ranged(BODY, etag='"v2"'), id="another ETag"),
        pytest.param(ranged(BODY + b"more"), id="another length"),
        pytest.param(fixed(416), id="not satisfiable"),
        pytest.param(fixed(206, BODY[:2000], Content_Range=f"bytes 0-1999/{len(BODY)}"), id="another place"),
    ],
)
def test_what_is_not_the_span_is_refused(server: Server, tmp_path: Path, answer: object) -> None:
    with pytest.raises(RangeRefusedError, match=r"^does not send the range that was asked for$"):
        fetch(server.script("/a", answer), tmp_path / "a.part")
    assert not (tmp_path / "a.part").exists()


def test_a_status_that_is_no_file_is_a_service_error(server: Server, tmp_path: Path) -> None:
    with pytest.raises(ServiceError, match="got status 404"):
        fetch(server.script("/a", fixed(404)), tmp_path / "a.part")
