"""A proxy on 127.0.0.1 in front of a server, which fails from a chosen call on, for one call, some seconds, or for ever."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

MODES = ("refuses", "hangs", "answers 500", "loses the answer")
FOR_EVER = float("inf")
HEAD_BYTES = 65536


class Outage(NamedTuple):
    """What fails: `call` is the number of the first failing call, `seconds` is 0 for this call alone."""

    call: int
    mode: str
    seconds: float

    def __str__(self) -> str:
        lasting = {0: "once", FOR_EVER: "for ever"}.get(self.seconds, f"for {self.seconds:g} s")
        return f"{self.mode} at call {self.call} {lasting}"


class FailingProxy:
    """Pass on every request to a server, one connection for each, until the outage begins.

    Attributes:
        calls: method and path of every request that came.
        began: when the outage began, by `time.monotonic`, or None.
    """

    def __init__(self, upstream: int, outage: Outage | None = None) -> None:
        self.upstream, self.outage = upstream, outage
        self.calls: list[str] = []
        self.began: float | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    def plan(self, outage: Outage | None) -> None:
        """Forget what was, answer again, and fail as planned from the given call on."""
        self.close()
        with self._lock:
            self.calls, self.began, self.outage = [], None, outage
            self._closed = threading.Event()
        self._listen()

    def close(self) -> None:
        """Stop, and cut all connections that hang."""
        self._closed.set()
        self._stop_listening()

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def _stop_listening(self) -> None:
        if self._listener is not None:
            with contextlib.suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            head, rest = _read_head(client)
            if not head:
                return
            closed, failing = self._closed, self._fails(head.partition(b" HTTP/")[0].decode("latin-1"))
            if failing == "refuses":
                _reset(client)
            elif failing == "answers 500":
                _answer_500(client, head, rest)
            elif failing == "hangs" and not self._hang(closed):
                _reset(client)
            else:
                self._pass_on(client, head, rest, answered=failing != "loses the answer")

    def _fails(self, call: str) -> str:
        """Count a call and return how it fails, or an empty text."""
        with self._lock:
            self.calls.append(call)
            outage = self.outage
            if outage is None or len(self.calls) < outage.call:
                return ""
            if self.began is None:
                self.began = time.monotonic()
                if outage.mode == "refuses" and outage.seconds:
                    self._stop_listening()
                    if outage.seconds < FOR_EVER:
                        threading.Timer(outage.seconds, self._recover, [self._closed]).start()
                return outage.mode
            return outage.mode if time.monotonic() < self.began + outage.seconds else ""

    def _recover(self, closed: threading.Event) -> None:
        if not closed.is_set():
            self._listen()

    def _hang(self, closed: threading.Event) -> bool:
        """Wait for the end of the outage, as a process that is stopped, and return whether it came."""
        outage = self.outage
        lasting = outage is not None and 0 < outage.seconds < FOR_EVER
        return not closed.wait(outage.seconds if outage and lasting else 120) and lasting

    def _pass_on(self, client: socket.socket, head: bytes, rest: bytes, *, answered: bool) -> None:
        with socket.create_connection(("127.0.0.1", self.upstream)) as server:
            server.sendall(_for_server(head, self.upstream) + rest)
            threading.Thread(target=_pump, args=(client, server), daemon=True).start()
            if answered:
                _pump(server, client)
            else:
                while server.recv(HEAD_BYTES):
                    pass
                _reset(client)


@contextlib.contextmanager
def failing_proxy(upstream: int, outage: Outage | None = None) -> Iterator[FailingProxy]:
    """Run a proxy during the body."""
    proxy = FailingProxy(upstream, outage)
    try:
        yield proxy
    finally:
        proxy.close()


def _read_head(client: socket.socket) -> tuple[bytes, bytes]:
    """Return the head of a request, and what came of its body with it."""
    data = b""
    while b"\r\n\r\n" not in data:
        block = client.recv(HEAD_BYTES)
        if not block:
            return b"", b""
        data += block
    head, _, rest = data.partition(b"\r\n\r\n")
    return head, rest


def _for_server(head: bytes, port: int) -> bytes:
    """Return the head of a request with the server's own address, and without a second request on the connection."""
    lines = head.split(b"\r\n")
    upgraded = any(line.lower().startswith(b"upgrade:") for line in lines)
    dropped = (b"host:",) if upgraded else (b"host:", b"connection:")
    kept = [line for line in lines if not line.lower().startswith(dropped)]
    added = [f"Host: 127.0.0.1:{port}".encode(), *([] if upgraded else [b"Connection: close"])]
    return b"\r\n".join([kept[0], *added, *kept[1:], b"", b""])


def _answer_500(client: socket.socket, head: bytes, rest: bytes) -> None:
    """Read the body, then answer: an answer before it would be cut."""
    lengths = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    missing = sum(lengths) - len(rest)
    while missing > 0 and (block := client.recv(HEAD_BYTES)):
        missing -= len(block)
    client.sendall(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(HEAD_BYTES):
            sink.sendall(block)
        sink.shutdown(socket.SHUT_WR)


def _reset(client: socket.socket) -> None:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads from it
