"""Downloads from servers with random faults: no wrong file may ever get its final name.

    python -m tests.campaigns.network_schedules [--schedules 2000] [--seed 0]

A schedule is one or two addresses on a local TLS server, each with a random list of faults. The download must end with
the correct bytes or a clear error. After it, every file with a final name must be complete and correct. Once the server
works, the next call must give the correct bytes. An unexpected exception, wrong bytes or a hang ends the campaign. The
module is longer than 300 lines because it holds one function for each of 20 faults.
"""

import argparse
import contextlib
import gzip
import hashlib
import logging
import os
import random
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import trustme

from pipeline_config.errors import GloveflowError, ServiceError
from tasks.fetching.archives import open_packed
from tasks.fetching.mirrors import download_file
from tasks.fetching.zip_member import WantedMember, download_member
from tests.https_server import Answer, Handler, Server, fixed, parse_range, ranged, serve, whole
from tests.zip_files import make_zip

MEMBER = "glove.2d.txt"
PATHS = ("/data/glove.zip", "/mirror/glove.zip")
SECONDS = 10.0
PAGE = b"<!DOCTYPE html><html><body>The server is down until Monday</body></html>"


class Content(NamedTuple):
    """An archive and its wanted member."""

    archive: bytes
    text: bytes


class Schedule(NamedTuple):
    """What is downloaded, and how each address answers, request by request; `names` are those of the faults."""

    wants_member: bool
    digests_known: bool
    answers: tuple[tuple[Answer, ...], ...]
    names: tuple[tuple[str, ...], ...]


def make_content(draw: random.Random) -> Content:
    texts = {
        name: b"".join(b"w%d %.5f %.5f\n" % (i, draw.gauss(0, 1), draw.gauss(0, 1)) for i in range(6000))
        for name in ("glove.1d.txt", MEMBER, "glove.3d.txt")
    }
    archive = make_zip(*texts.items(), compression=draw.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED]))
    return Content(archive, texts[MEMBER])


# The faults: each returns an answer, made from the file, its ETag and a random generator.


def cut(draw: random.Random, body: bytes, etag: str) -> Answer:
    kind = draw.choice([whole, ranged])
    return kind(body, etag=etag, arriving=draw.choice([0, 1, 3, draw.randrange(len(body))]))


def wrong_length(draw: random.Random, body: bytes, etag: str) -> Answer:
    length = draw.choice([0, 1, len(body) - 1, len(body) + 1, 10 * len(body), "-1", "many", None])
    return lambda handler: handler.answer(200, body[: draw.randrange(len(body) + 1)], Content_Length=length, ETag=etag)


def wrong_range(draw: random.Random, body: bytes, etag: str) -> Answer:
    first, size = draw.randrange(len(body)), draw.randrange(1, 5000)
    stated = draw.choice(
        [f"bytes {first}-{first + size - 1}/{len(body)}", f"bytes 0-{size - 1}/{size}", "bytes */9", "x", None]
    )
    return lambda handler: handler.answer(
        206, body[first : first + size], Content_Length=size, Content_Range=stated, ETag=etag
    )


def too_many_bytes(draw: random.Random, body: bytes, etag: str) -> Answer:
    def answer(handler: Handler) -> None:
        first, last = parse_range(handler.headers.get("Range", "bytes=0-"), len(body))
        piece = body[first : last + 1] + b"more"
        handler.answer(
            206, piece, Content_Length=len(piece), Content_Range=f"bytes {first}-{last}/{len(body)}", ETag=etag
        )

    return answer


def stall(draw: random.Random, body: bytes, etag: str) -> Answer:
    def answer(handler: Handler) -> None:
        whole(body, etag=etag, arriving=draw.choice([0, 5, 50_000]))(handler)
        handler.wfile.flush()
        time.sleep(0.4)

    return answer


def drip(draw: random.Random, body: bytes, etag: str) -> Answer:
    def answer(handler: Handler) -> None:
        handler.answer(200, b"", Content_Length=len(body), ETag=etag)
        step = draw.choice([1, 7, len(body) // 20])
        for at in range(0, 30 * step, step):
            handler.wfile.write(body[at : at + step])
            time.sleep(0.002)

    return answer


def status(draw: random.Random, body: bytes, etag: str) -> Answer:
    code = draw.choice([204, 304, 400, 401, 403, 404, 410, 416, 429, 500, 502, 503, 504])
    return fixed(code, b"" if code in (204, 304) else b"no", Retry_After=draw.choice([None, None, 0, "soon", 10**9]))


def page(draw: random.Random, body: bytes, etag: str) -> Answer:
    kind = draw.choice(["text/html", "application/zip", "text/plain", None])
    return fixed(draw.choice([200, 200, 404]), PAGE, Content_Type=kind, ETag=etag)


def empty(draw: random.Random, body: bytes, etag: str) -> Answer:
    return fixed(draw.choice([200, 206]), b"", ETag=etag)


def loop(draw: random.Random, body: bytes, etag: str) -> Answer:
    return lambda handler: fixed(302, Location=handler.path)(handler)


def downgrade(draw: random.Random, body: bytes, etag: str) -> Answer:
    return fixed(
        301, Location=draw.choice(["http://127.0.0.1:9/glove.zip", "ftp://127.0.0.1/glove.zip", "file:///etc/passwd"])
    )


def broken_redirect(draw: random.Random, body: bytes, etag: str) -> Answer:
    return fixed(302, Location=draw.choice(["https://[::1", "//", "https://127.0.0.1:1/x", "", "\x7f"]))


def bad_certificate(draw: random.Random, body: bytes, etag: str) -> Answer:
    return lambda handler: fixed(302, Location=os.environ["CAMPAIGN_UNTRUSTED"])(handler)


def hang_up(draw: random.Random, body: bytes, etag: str) -> Answer:
    return lambda handler: handler.connection.close()


def nonsense(draw: random.Random, body: bytes, etag: str) -> Answer:
    return lambda handler: (
        handler.wfile.write(draw.choice([b"HTTP/9 what\r\n\r\n", draw.randbytes(200), b"\r\n\r\n"])) and None
    )


def range_ignored(draw: random.Random, body: bytes, etag: str) -> Answer:
    return whole(body, etag=etag)


def no_etag(draw: random.Random, body: bytes, etag: str) -> Answer:
    return whole(body, etag=draw.choice([None, "", 'W/"v1"', "bare"]), arriving=draw.choice([None, 1000]))


def encoded(draw: random.Random, body: bytes, etag: str) -> Answer:
    return fixed(200, gzip.compress(body, 1), Content_Encoding="gzip", ETag=etag)


def without_length(draw: random.Random, body: bytes, etag: str) -> Answer:
    arriving = draw.choice([len(body), draw.randrange(len(body))])
    return lambda handler: handler.answer(200, body[:arriving], ETag=etag)


def flipped(draw: random.Random, body: bytes, etag: str) -> Answer:
    """Damage that only a digest or a CRC can detect; TLS would not let it through."""
    changed = bytearray(body)
    changed[draw.randrange(4, len(body))] ^= 1 << draw.randrange(8)
    return draw.choice([whole, ranged])(bytes(changed), etag=etag)


FAULTS: list[Callable[[random.Random, bytes, str], Answer]] = [
    cut, cut, cut, wrong_length, wrong_range, too_many_bytes, stall, drip, status, status, page, empty, loop, downgrade,
    broken_redirect, bad_certificate, hang_up, nonsense, range_ignored, no_etag, encoded, without_length, flipped,
]  # fmt: skip


def draw_schedule(draw: random.Random, content: Content, other: Content) -> Schedule:
    """Return random answers; undetectable damage is among them only if the download knows the digests."""
    wants_member, digests_known = draw.random() < 0.5, draw.random() < 0.5
    answers, names = [], []
    for _ in range(draw.choice([1, 2])):
        listed: list[Answer] = []
        listed_names: list[str] = []
        for _ in range(draw.randint(1, 5)):
            kind = draw.choice(FAULTS)
            if kind is flipped and not digests_known:
                continue
            changed = digests_known and draw.random() < 0.15
            body, etag = (other.archive, '"v2"') if changed else (content.archive, draw.choice(['"v1"'] * 5 + ['"v2"']))
            listed.append(kind(draw, body, etag))
            listed_names.append(kind.__name__ + (" of another content" if changed else ""))
        if draw.random() < 0.6 or not listed:
            listed.append(draw.choice([whole, ranged])(content.archive))
            listed_names.append("good")
        answers.append(tuple(listed))
        names.append(tuple(listed_names))
    return Schedule(wants_member, digests_known, tuple(answers), tuple(names))


# running them


def fetch(server: Server, schedule: Schedule, content: Content) -> bytes:
    """Download, and return the bytes of the member or of the archive."""
    urls = [server.url(path) for path, _ in zip(PATHS, schedule.answers, strict=False)]
    archive_digest, digest = (hashlib.sha256(part).hexdigest() if schedule.digests_known else None for part in content)
    if not schedule.wants_member:
        return download_file(urls, sha256=archive_digest, timeout_seconds=SECONDS).read_bytes()
    with open_packed(
        *download_member(urls, WantedMember(MEMBER, archive_digest, digest), timeout_seconds=SECONDS)
    ) as opened:
        return opened.stream.read()


def check_store(content: Content) -> None:
    """Raise unless every file with a final name is complete and correct."""
    for path in Path(os.environ["GLOVEFLOW_ARTIFACTS"], "downloads").glob("*"):
        if path.name.startswith(".") or path.suffix in (".part", ".json", ".sha256", ".new"):
            continue
        data = path.read_bytes()
        expected = {".zip": content.archive, ".txt": content.text}.get(path.suffix)
        if (gzip.decompress(data) if path.suffix == ".gz" else data) != (expected or content.text):
            raise AssertionError(f"{path.name} has its final name and wrong content")


def run_schedule(server: Server, schedule: Schedule, content: Content) -> str:
    """Run one schedule and return how it ended."""
    for path, answers in zip(PATHS, schedule.answers, strict=False):
        server.script(path, *answers)
    expected = content.text if schedule.wants_member else content.archive
    ended = "correct at once"
    try:
        if fetch(server, schedule, content) != expected:
            raise AssertionError("wrong bytes")
    except GloveflowError as error:
        if not isinstance(error, ServiceError) or "https://127.0.0.1" not in str(error):
            raise AssertionError(f"an unclear error: {error}") from error
        ended = "an error, then correct"
    check_store(content)
    for path in PATHS:
        server.script(path, ranged(content.archive))
    if fetch(server, schedule, content) != expected:
        raise AssertionError("wrong bytes although the server works")
    check_store(content)
    return ended


@contextlib.contextmanager
def short_waits() -> Iterator[None]:
    """Make pauses and timeouts short."""
    with (
        mock.patch("tasks.fetching.mirrors.PAUSE_SECONDS", 0.001),
        mock.patch("tasks.fetching.mirrors.MAX_TRIES_WITHOUT_PROGRESS", 3),
        mock.patch("tasks.fetching.transfer.STALL_SECONDS", 0.2),
        mock.patch("tasks.fetching.zip_member.TAIL_BYTES", 70_000),
    ):
        yield


def run_campaign(schedules: int, seed: int) -> Counter[str]:
    """Run random schedules, and return how often each outcome and fault occurred.

    Raises:
        AssertionError: a wrong file got its final name, or the last download did not give the correct file.
    """
    tally: Counter[str] = Counter()
    make = random.Random(seed)
    contents = [make_content(make) for _ in range(4)]
    authority = trustme.CA()
    with (
        tempfile.TemporaryDirectory() as folder,
        short_waits(),
        serve(authority) as server,
        serve(trustme.CA()) as untrusted,
        mock.patch.dict(os.environ),
    ):
        authority.cert_pem.write_to_path(f"{folder}/authority.pem")
        os.environ |= {"SSL_CERT_FILE": f"{folder}/authority.pem", "NO_PROXY": "127.0.0.1"}
        os.environ["CAMPAIGN_UNTRUSTED"] = untrusted.url("/glove.zip")
        for number in range(schedules):
            draw = random.Random(f"{seed}:{number}")
            content, other = draw.sample(contents, 2)
            untrusted.script("/glove.zip", whole(content.archive))
            schedule = draw_schedule(draw, content, other)
            os.environ["GLOVEFLOW_ARTIFACTS"] = f"{folder}/{number}"
            try:
                ended = run_schedule(server, schedule, content)
            except Exception as error:
                raise AssertionError(f"{seed}:{number}: {schedule.names}, {schedule[:2]}: {error!r}") from error
            if untrusted.requests:
                raise AssertionError(f"{seed}:{number}: a request was sent to a server with a bad certificate")
            tally[ended] += 1
            tally.update({f"with {name}": 1 for names in schedule.names for name in names if name != "good"})
    return tally


def main() -> None:
    """Run the campaign and print how often each outcome and fault occurred."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    started = time.perf_counter()
    for what, count in sorted(run_campaign(options.schedules, options.seed).items()):
        print(f"{what:44} {count:6,}")
    print(f"{options.schedules:,} schedules, no wrong file, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
