"""`gloveflow serve-model` as a process: a stream of requests while the alias moves, and its end."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from flows.cli.main import run_command
from flows.cli.model_server import listen_at
from pipeline_config.errors import ServiceError
from tasks.tracking.model_files import write_files_tag
from tasks.tracking.models import set_alias
from tasks.tracking.scoring_app import VERSION_HEADER
from tasks.tracking.server import open_client
from tasks.tracking.version_files import FILES_TAG
from tests.registrations import model_folder
from tests.small_run import CommandLine

MODEL = "gloveflow-tiny"
BODY = {"inputs": ["the goal of the match", "rain and wind"]}


class Running:
    """A server in a process of its own, with the lines that it has written so far."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self.lines.extend(iter(process.stdout.readline, "")))
        self._reader.start()
        self.url = self.wait_for("answers on ").partition("answers on ")[2].partition("/invocations")[0]

    def wait_for(self, part: str) -> str:
        """Return the first line with a text."""
        wait_until(lambda: any(part in line for line in self.lines) or self.process.poll() is not None)
        return next(line for line in self.lines if part in line)

    def end(self) -> str:
        self._reader.join()
        return "".join(self.lines)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@contextlib.contextmanager
def start(artifacts: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    with CommandLine(artifacts).start("serve-model", "--model", MODEL, *options) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def running(artifacts_of_copy: Path) -> Iterator[Running]:
    with start(artifacts_of_copy, "--port", "0", "--poll", "0.1") as process:
        yield Running(process)


@pytest.fixture
def artifacts_of_copy(on_copy: Any) -> Path:
    return Path(os.environ["GLOVEFLOW_ARTIFACTS"])


def add_version(folder: Path, *, temperature: float) -> str:
    """Register a copy of version 1 that divides its logits by another temperature, and return its number."""
    shutil.copytree(model_folder("1", MODEL), folder, ignore=shutil.ignore_patterns("__pycache__", "registered_m*"))
    path = folder / "artifacts" / "bundle" / "model.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | {"temperature": temperature}), "utf-8")
    tags = {FILES_TAG: write_files_tag(folder)}
    return str(open_client().create_model_version(MODEL, folder.as_uri(), tags=tags).version)


class Stream:
    """Requests one after another in several threads, each over a connection of its own."""

    def __init__(self, url: str, threads: int = 3) -> None:
        self.url, self.found, self._ended = url, [], threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _send(self) -> None:
        with httpx.Client(base_url=self.url, timeout=60) as client:
            while not self._ended.is_set():
                try:
                    response = client.post("/invocations", json=BODY)
                    answers = response.json()["predictions"] if response.status_code == 200 else response.text
                    self.found.append((response.status_code, response.headers.get(VERSION_HEADER), answers))
                except httpx.HTTPError as error:
                    self.found.append((0, None, repr(error)))

    def wait_for(self, version: str) -> None:
        wait_until(lambda: self.found and self.found[-1][1] == f"models:/{MODEL}/{version}")

    def end(self) -> list[tuple[int, str | None, Any]]:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        return self.found


def test_no_request_fails_while_the_alias_moves_and_a_broken_version_keeps_the_old(
    running: Running, artifacts_of_copy: Path, tmp_path: Path
) -> None:
    sharp, broken = (add_version(tmp_path / name, temperature=0.1) for name in ("sharp", "broken"))
    with (tmp_path / "broken" / "artifacts" / "bundle" / "network.py").open("a") as file:
        file.write(f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
    stream = Stream(running.url)
    try:
        stream.wait_for("1")
        set_alias(MODEL, "champion", sharp)
        stream.wait_for(sharp)
        set_alias(MODEL, "champion", broken)
        running.wait_for("network.py was changed after it was registered; models:/gloveflow-tiny/2 goes on")
        seen = len(stream.found)
        wait_until(lambda: len(stream.found) > seen + 5)
    finally:
        found = stream.end()
    assert {status for status, _, _ in found} == {200}
    by_version = {version: answers for _, version, answers in found}
    assert set(by_version) == {f"models:/{MODEL}/1", f"models:/{MODEL}/{sharp}"}
    assert found[-1][1] == f"models:/{MODEL}/{sharp}"
    first, second = by_version.values()
    assert [answer["label"] for answer in first] == [answer["label"] for answer in second] == ["sports", "weather"]
    assert all(new["score"] > old["score"] for old, new in zip(first, second, strict=True))
    assert not (tmp_path / "ran").exists()
    finish_open_request(running)


def finish_open_request(running: Running) -> None:
    """End the server while a request is half sent: it takes no new ones, answers this one, and ends with code 0."""
    host, port = running.url.removeprefix("http://").split(":")
    content = json.dumps(BODY).encode()
    head = f"POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}"
    with socket.create_connection((host, int(port)), timeout=30) as connection:
        connection.sendall(f"{head}\r\n\r\n".encode() + content[:10])
        httpx.get(f"{running.url}/ping").raise_for_status()  # by now the server has read the half
        running.process.send_signal(signal.SIGTERM)
        wait_until(lambda: not is_open(host, int(port)))
        connection.sendall(content[10:])
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 200 OK")
    assert b'"label": "sports"' in answer
    assert running.process.wait(5) == 0
    assert "Traceback" not in running.end()


def is_open(host: str, port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1):
        return True
    return False


def test_two_processes_serve_one_port_and_end_together(artifacts_of_copy: Path) -> None:
    with listen_at("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
    with start(artifacts_of_copy, "--version", "1", "--port", str(port), "--workers", "2") as process:
        wait_until(lambda: is_open("127.0.0.1", port))
        answer = httpx.post(f"http://127.0.0.1:{port}/invocations", json=BODY, timeout=120)
        assert answer.headers[VERSION_HEADER] == f"models:/{MODEL}/1"
        process.terminate()
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "by 2 processes" in output
    assert "Traceback" not in output


def test_a_version_that_cannot_be_used_is_told_before_anything_starts(
    on_copy: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = model_folder("1", MODEL) / "artifacts" / "bundle"
    (bundle / "text.py").write_text("changed")
    assert run_command(["serve-model", "--model", MODEL, "--port", "0"]) == 5
    assert "artifacts/bundle/text.py was changed after it was registered" in capsys.readouterr().err


def test_what_is_not_there_is_told(on_finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command(["serve-model", "--model", MODEL, "--alias", "nobody", "--port", "0"]) == 5
    assert "no version has this alias; there are" in capsys.readouterr().err
    assert run_command(["serve-model", "--model", MODEL, "--version", "9", "--port", "0"]) == 5
    assert "models:/gloveflow-tiny/9: no such version" in capsys.readouterr().err


def test_a_port_that_is_taken_is_told(on_finished: Any, capsys: pytest.CaptureFixture[str]) -> None:
    with listen_at("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        assert run_command(["serve-model", "--model", MODEL, "--port", str(port)]) == 5
    assert f"cannot listen on port {port} of 127.0.0.1: Address already in use" in capsys.readouterr().err
    with pytest.raises(ServiceError, match=r"cannot listen on port 1 of nowhere\.invalid"):
        listen_at("nowhere.invalid", 1)


def test_a_container_is_written_instead_of_serving(
    on_finished: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["serve-model", "--model", MODEL, "--write-container", str(tmp_path / "box")]
    assert run_command(command) == 0
    assert f"docker build --tag model {tmp_path / 'box'}" in capsys.readouterr().out
    assert {path.name for path in (tmp_path / "box").iterdir()} == {
        "Dockerfile", "model", "requirements.txt", "server.py"
    }  # fmt: skip
    assert run_command(command) == 2
    assert "expected a new or empty directory" in capsys.readouterr().err


@pytest.mark.parametrize(
    "option", [["--port", "70000"], ["--poll", "0"], ["--workers", "0"], ["--version", "1", "--alias", "a"]]
)
def test_options_that_cannot_be_are_refused(option: list[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        run_command(["serve-model", *option])
    assert caught.value.code == 2
