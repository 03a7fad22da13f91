"""What stands before the Prefect and the MLflow server, and runs them.

Prefect checks neither the `Host` header nor the `Origin` of a request, so that a page of another site, or of a name
that resolves to 127.0.0.1, could use it from the user's browser. MLflow asks nobody for a password. Prefect's auth
string and MLflow's own checks of host and origin work behind these.
"""

import base64
import hmac
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any, TypeAlias
from urllib.parse import parse_qs

import uvicorn
from starlette.requests import HTTPConnection
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from flows.cli.server_process import SECRET_VARIABLE, SOCKET_VARIABLE, STORE_VARIABLE
from flows.cli.server_secret import LOGIN_PATH, PROOF_PATH, Secret

# of ASGI, the interface between uvicorn and the applications
Scope: TypeAlias = MutableMapping[str, Any]
Receive: TypeAlias = Callable[[], Awaitable[Scope]]
Send: TypeAlias = Callable[[Scope], Awaitable[None]]
Application: TypeAlias = Callable[[Scope, Receive, Send], Awaitable[None]]

COOKIE_SECONDS = 30 * 24 * 3600
# location.hash: a link to one page of MLflow goes on to that page
_LOGGED_IN = '<!doctype html><title>Gloveflow</title><script>{script}location.replace("/" + location.hash)</script>'
_ADVICE = (
    "This server asks for the secret of its artifacts directory. In a browser: open the link that `gloveflow ui` "
    "prints. In a program: HTTP Basic with the user and password in <artifacts>/prefect/auth-string.\n"
)


class OwnAddresses:
    """Pass on requests to `127.0.0.1:<port>` and `localhost:<port>` that no foreign page sent; refuse all others.

    Proves that the server is ours, and logs in the browser that opens our link.
    """

    def __init__(self, app: Application, *, port: int, secret: Secret, login: Response) -> None:
        self.app = app
        self.port = port
        self.secret = secret
        self.login = login
        self.hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost")}
        self.origins = {f"http://{host}" for host in self.hosts}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it to the application."""
        app = self.app
        if scope["type"] in ("http", "websocket") and not self.is_allowed(scope):
            app = self.refusal()
        elif scope["type"] == "http" and scope["path"].startswith(PROOF_PATH):
            app = self.proof(scope["path"].removeprefix(PROOF_PATH))
        elif scope["type"] == "http" and scope["path"] == LOGIN_PATH:
            app = self.login if self.has_token(scope) else ask_for_secret()
        await app(scope, receive, send)

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

    def refusal(self) -> Application:
        """Return the answer 403."""
        message = f"this server answers only requests to {' or '.join(sorted(self.hosts))}, from pages of its own"
        return refuse_web_sockets(JSONResponse({"exception_message": message}, 403))

    def proof(self, challenge: str) -> Response:
        """Return the answer to a challenge, the proof that this process knows the secret."""
        pid = os.getpid()
        return JSONResponse({"pid": pid, "proof": self.secret.prove(challenge, port=self.port, pid=pid)})

    def has_token(self, scope: Scope) -> bool:
        """Return whether the query holds the token of the link."""
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]
        return _is_same(given, self.secret.login_token(self.port))


class SecretRequired:
    """Pass on requests with the secret, by HTTP Basic or by the cookie of a logged-in browser, and to open paths."""

    def __init__(self, app: Application, *, port: int, secret: Secret, open_paths: tuple[str, ...]) -> None:
        self.app = app
        self.port = port
        self.secret = secret
        self.open_paths = open_paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand a request to the application, or answer 401."""
        app = self.app
        if scope["type"] in ("http", "websocket") and scope["path"] not in self.open_paths and not self.knows(scope):
            app = refuse_web_sockets(ask_for_secret())
        await app(scope, receive, send)

    def knows(self, scope: Scope) -> bool:
        """Return whether the sender of a request knows the secret."""
        connection = HTTPConnection(scope)
        scheme, _, encoded = connection.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                return _is_same(base64.b64decode(encoded, validate=True).decode("latin-1"), self.secret.text)
            except ValueError:  # no base64
                return False
        return _is_same(connection.cookies.get(cookie_name(self.port), ""), self.secret.cookie(self.port))


def ask_for_secret() -> Response:
    """Return the answer 401."""
    return PlainTextResponse(_ADVICE, 401, {"WWW-Authenticate": 'Basic realm="gloveflow"'})


def refuse_web_sockets(response: Response) -> Application:
    """Return an application that gives this response; a web socket that is closed before it is accepted gets 403."""

    async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await response(scope, receive, send)

    return refuse


def login_page(script: str = "", cookies: Mapping[str, str] | None = None) -> Response:
    """Return the page that a right link opens: it goes on to the first page, in a browser that is logged in.

    Args:
        script: what to do before, in JavaScript.
        cookies: cookies to set, by name.
    """
    headers = {"Cache-Control": "no-store", "Referrer-Policy": "no-referrer"}
    page = HTMLResponse(_LOGGED_IN.format(script=script), headers=headers)
    for name, value in (cookies or {}).items():
        page.set_cookie(name, value, max_age=COOKIE_SECONDS, httponly=True, samesite="strict")
    return page


def cookie_name(port: int) -> str:
    """Return the name of the cookie of the server at a port; a browser keeps the cookies of all ports together."""
    return f"gloveflow-{port}"


def run_server(make_app: Callable[[int, Secret], Application]) -> None:
    """Run an application as the server process that a command has started, until SIGTERM.

    Args:
        make_app: makes the application from its port and the secret.

    Raises:
        KeyError: a variable is not set; without a secret nothing is served.
    """
    secret = Secret(os.environ.pop(SECRET_VARIABLE), os.environ.pop(STORE_VARIABLE))
    listener = socket.socket(fileno=int(os.environ.pop(SOCKET_VARIABLE)))
    config = uvicorn.Config(
        make_app(listener.getsockname()[1], secret),
        log_level="error",
        lifespan="on",
        timeout_keep_alive=5,
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    server.run(sockets=[listener])
    if not server.started:
        sys.exit(3)


def _is_same(given: str, expected: str) -> bool:
    return hmac.compare_digest(given.encode(), expected.encode())
