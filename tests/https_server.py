"""An HTTPS server on 127.0.0.1 with scripted answers; tests and campaigns of downloads share it."""

import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import trustme

Answer = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Answer each request with the next answer that is scripted for its path."""

    server: "Server"

    def do_GET(self) -> None:
        self.server.requests.append((self.path, dict(self.headers)))
        answers = self.server.answers[self.path]
        (answers.pop(0) if len(answers) > 1 else answers[0])(self)

    def log_message(self, *args: object) -> None:
        pass

    def answer(self, status: int, body: bytes, **headers: object) -> None:
        self.send_response(status)
        for name, value in {"Content_Type": "application/zip", **headers}.items():
            if value is not None:
                self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)
        self.server.sent += len(body)


class Server(ThreadingHTTPServer):
    """Hold the answers by path, the requests that came, and the number of bytes that were sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers: dict[str, list[Answer]] = {}
        self.requests: list[tuple[str, dict[str, str]]] = []
        self.sent = 0

    def url(self, path: str) -> str:
        return f"https://127.0.0.1:{self.server_port}{path}"

    def script(self, path: str, *answers: Answer) -> str:
        """Set the answers for a path, in order; the last one is repeated. Return the URL."""
        self.answers[path] = list(answers)
        return self.url(path)

    def handle_error(self, *args: object) -> None:
        pass  # some tests let the client disconnect


@contextlib.contextmanager
def serve(authority: trustme.CA) -> Iterator[Server]:
    """Run a server in a thread, with a certificate that the authority issues."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with Server() as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def whole(body: bytes, *, etag: str | None = '"v1"', arriving: int | None = None) -> Answer:
    """Send a whole file and ignore the requested range; with `arriving`, stop after so many bytes."""
    return lambda handler: handler.answer(200, body[:arriving], Content_Length=len(body), ETag=etag)


def ranged(body: bytes, *, etag: str = '"v1"', arriving: int | None = None) -> Answer:
    """Send the requested range of a file; with `arriving`, stop after so many bytes of a range."""

    def answer(handler: Handler) -> None:
        wanted = handler.headers["Range"]
        if wanted is None or handler.headers.get("If-Range", etag) != etag:
            whole(body, etag=etag)(handler)
            return
        first, last = parse_range(wanted, len(body))
        if first >= len(body):
            handler.answer(416, b"", Content_Length=0, Content_Range=f"bytes */{len(body)}")
            return
        stated = f"bytes {first}-{last}/{len(body)}"
        piece = body[first : last + 1]
        handler.answer(206, piece[:arriving], Content_Length=len(piece), Content_Range=stated, ETag=etag)

    return answer


def parse_range(wanted: str, size: int) -> tuple[int, int]:
    """Return the first and the last byte of a `bytes=` range of a file."""
    first, _, last = wanted.removeprefix("bytes=").partition("-")
    if not first:
        return max(size - int(last), 0), size - 1
    return int(first), min(int(last or size), size - 1)


def fixed(status: int, body: bytes = b"", **headers: object) -> Answer:
    """Send the same answer to every request."""
    return lambda handler: handler.answer(status, body, Content_Length=len(body), **headers)
