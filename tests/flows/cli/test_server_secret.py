"""The secret of an artifacts directory: who can read it, and what a server must answer to count as ours."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from flows.cli.server_secret import PROOF_PATH, Secret, identify_server, make_secret, read_secret, secret_path

SECRET = Secret("secret", "7:7 /a")


def test_a_secret_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    assert read_secret(tmp_path) is None
    secret = make_secret(tmp_path)
    assert make_secret(tmp_path) == read_secret(tmp_path) == secret
    assert secret_path(tmp_path).stat().st_mode & 0o777 == 0o600
    user, _, password = secret.text.partition(":")
    assert user == "gloveflow"
    assert len(password) >= 43  # 256 bits
    assert make_secret(tmp_path / "other").text != secret.text


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o602, 0o666])
def test_a_secret_that_others_could_read_or_write_is_replaced(tmp_path: Path, mode: int) -> None:
    secret = make_secret(tmp_path)
    secret_path(tmp_path).chmod(mode)
    renewed = make_secret(tmp_path)
    assert renewed.text != secret.text
    assert secret_path(tmp_path).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff\xfe"])
def test_an_unusable_file_is_replaced(tmp_path: Path, content: bytes) -> None:
    secret_path(tmp_path).parent.mkdir()
    secret_path(tmp_path).write_bytes(content)
    assert read_secret(tmp_path) is None
    assert make_secret(tmp_path) == read_secret(tmp_path)


@pytest.fixture
def serve_answer() -> Iterator[Callable[..., str]]:
    """Return a function that starts a server whose answer a function of challenge and port gives; returns its address."""
    servers: list[HTTPServer] = []

    def serve_answer(answer: Callable[[str, int], object]) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps(answer(self.path.removeprefix(PROOF_PATH), self.server.server_port)).encode()  # type: ignore[attr-defined]
                self.send_response(200)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = HTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,)).start()
        return f"http://127.0.0.1:{server.server_port}"

    yield serve_answer
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_that_signs_the_challenge_is_ours(serve_answer: Callable[..., str]) -> None:
    url = serve_answer(lambda given, port: {"pid": 7, "proof": SECRET.prove(given, port=port, pid=7)})
    assert identify_server(url, SECRET) == 7
    assert identify_server(url, SECRET._replace(text="another secret")) is None
    assert identify_server(url, SECRET._replace(store="8:8 /b")) is None


@pytest.mark.parametrize(
    "answer",
    [
        lambda _given, _port: True,
        lambda _given, _port: {"pid": 7},
        lambda _given, _port: {"pid": "x", "proof": ""},
        lambda _given, _port: {"pid": 7, "proof": "\u00e9"},
        lambda given, port: {"pid": 8, "proof": SECRET.prove(given, port=port, pid=7)},
        lambda _given, port: {"pid": 7, "proof": SECRET.prove("old", port=port, pid=7)},
        lambda given, port: {"pid": 7, "proof": SECRET.prove(given, port=port + 1, pid=7)},
    ],
    ids=[
        "a health answer",
        "no proof",
        "no pid",
        "no hex",
        "another process",
        "repeated",
        "passed on from another port",
    ],
)
def test_any_other_answer_is_not_ours(serve_answer: Callable[..., str], answer: Callable[[str, int], object]) -> None:
    assert identify_server(serve_answer(answer), SECRET) is None


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://127.0.0.1:x", "nonsense"])
def test_an_address_without_a_server_is_not_ours(url: str) -> None:
    assert identify_server(url, SECRET) is None


def test_what_a_browser_gets_is_of_one_port_and_one_store() -> None:
    other = SECRET._replace(store="8:8 /b")
    values = [maker(port) for maker in (SECRET.login_token, SECRET.cookie, other.login_token) for port in (1, 2)]
    assert len(set(values)) == 6
    assert not any(SECRET.text in value for value in values)


def test_a_moved_or_copied_directory_is_another_store(tmp_path: Path) -> None:
    secret = make_secret(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    copied = read_secret(tmp_path / "b")
    (tmp_path / "a").rename(tmp_path / "c")
    moved = read_secret(tmp_path / "c")
    (tmp_path / "b").rename(tmp_path / "a")
    in_its_place = read_secret(tmp_path / "a")
    assert copied
    assert moved
    assert in_its_place
    assert {copied.text, moved.text, in_its_place.text} == {secret.text}
    assert len({secret.store, copied.store, moved.store, in_its_place.store}) == 4
    (tmp_path / "link").symlink_to(tmp_path / "a")
    assert read_secret(tmp_path / "link") == in_its_place
