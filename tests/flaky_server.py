"""A plain HTTP server on 127.0.0.1 that answers, answers 500, hangs, or is gone, and may come back."""

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MODES = ("refuses", "hangs", "answers 500")


class _Handler(BaseHTTPRequestHandler):
    server: "_Listener"

    def do_GET(self) -> None:
        owner, body = self.server.owner, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        owner.asked.append(self.path)
        if owner.mode == "hangs":
            owner.ended.wait(30)
            return
        status = 500 if owner.mode == "answers 500" else owner.statuses.get(self.command, 200)
        if status == 200 and body:
            owner.accepted.append((self.path, json.loads(body)))
        if any(self.path.endswith(path) for path in owner.losing):
            owner.losing.clear()
            self.close_connection = True
            return
        answer = json.dumps(owner.answer).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def do_POST(self) -> None:
        self.do_GET()

    def do_PUT(self) -> None:
        self.do_GET()

    def log_message(self, *args: object) -> None:
        pass


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    owner: "FlakyServer"

    def handle_error(self, *args: object) -> None:
        pass  # clients disconnect


class FlakyServer:
    """Answer every request with the same JSON, until told otherwise.

    Attributes:
        mode: one of `MODES`, or empty while it answers.
        answer: the JSON of every answer.
        statuses: HTTP status by method, where it is not 200.
        losing: ends of paths; the next request to one of them is accepted, but its answer is lost.
        asked: the paths of all requests.
        accepted: path and JSON body of the requests that were answered with success.
    """

    def __init__(self) -> None:
        self.mode = ""
        self.answer: dict = {}
        self.statuses: dict[str, int] = {}
        self.losing: set[str] = set()
        self.asked: list[str] = []
        self.accepted: list[tuple[str, dict]] = []
        self.ended = threading.Event()
        self._port = 0
        self._listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def fail(self, mode: str) -> None:
        """Go out of service in the given way."""
        self.mode = mode
        if mode == "refuses":
            self.close()

    def recover(self) -> None:
        """Answer again, at the same address."""
        refused, self.mode = self.mode == "refuses", ""
        if refused:
            self._listen()
        else:
            self.ended.set()

    def close(self) -> None:
        self.ended.set()
        self._listener.shutdown()
        self._listener.server_close()
        self._thread.join()

    def _listen(self) -> None:
        self.ended.clear()
        self._listener = _Listener(("127.0.0.1", self._port), _Handler)
        self._listener.owner, self._port = self, self._listener.server_port
        self._thread = threading.Thread(target=self._listener.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()


@contextlib.contextmanager
def flaky_server() -> Iterator[FlakyServer]:
    """Run a server during the body."""
    server = FlakyServer()
    try:
        yield server
    finally:
        if server.mode != "refuses":
            server.close()
