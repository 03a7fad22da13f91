"""Prefect's server as uvicorn runs it for us: it answers only its own addresses and origins, and proves who it is.

Prefect itself checks neither the `Host` header nor the `Origin` of a request, so that a page of another site, or of a
name that resolves to 127.0.0.1, could use it from the user's browser. The auth string is Prefect's own check, behind
this one.
"""

import json
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, TypeAlias

from flows.cli.prefect_secret import PROOF_PATH, sign_challenge

# of ASGI, the interface between uvicorn and Prefect's application
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]


class OwnAddresses:
    """Pass on requests to `127.0.0.1:<port>` and `localhost:<port>` that no foreign page sent; refuse all others."""

    def __init__(self, app: Application, *, port: int, secret: str) -> None:
        self.app = app
        self.port = port
        self.secret = secret
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it to Prefect."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
        elif not self.is_allowed(scope):
            await self.refuse(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith(PROOF_PATH):
            await self.prove(scope["path"].removeprefix(PROOF_PATH), send)
        else:
            await self.app(scope, receive, send)

    def is_allowed(self, scope: Scope) -> bool:
        """Return whether the request names one of our addresses, and comes from one of our pages or from no page."""
        values: dict[bytes, list[str]] = {b"host": [], b"origin": []}
        for name, value in scope["headers"]:
            if name in values:
                values[name].append(value.decode("latin-1").lower())
        return (
            len(values[b"host"]) == 1
            and values[b"host"][0] in self.hosts
            and self.origins.issuperset(values[b"origin"])
        )

    async def refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 403; a web socket that is closed before it is accepted gets 403, too."""
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        message = f"this server answers only requests to {' or '.join(sorted(self.hosts))}, from pages of its own"
        await _respond(send, 403, {"exception_message": message})

    async def prove(self, challenge: str, send: Send) -> None:
        """Answer a challenge with the proof that this process knows the secret."""
        pid = os.getpid()
        proof = sign_challenge(self.secret, challenge, port=self.port, pid=pid)
        await _respond(send, 200, {"pid": pid, "proof": proof})


def create_app() -> Application:
    """Return Prefect's server behind the check of addresses; port and secret come from Prefect's own variables.

    Raises:
        KeyError: one of the variables is not set; without a secret nothing is served.
    """
    port, secret = int(os.environ["PREFECT_SERVER_API_PORT"]), os.environ["PREFECT_SERVER_API_AUTH_STRING"]
    from prefect.server.api.server import create_app as create_prefect_app

    return OwnAddresses(create_prefect_app(), port=port, secret=secret)


async def _respond(send: Send, status: int, content: object) -> None:
    body = json.dumps(content).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
