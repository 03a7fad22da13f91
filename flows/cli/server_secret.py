"""The secret of an artifacts directory: what its servers ask for, and how they prove that they are its servers.

The secret is in `<artifacts>/prefect/auth-string`, which only its owner can read. A server signs a random challenge
with it. So a program that has got the port of an ended server cannot pass for it and learns nothing. Imports only the
standard library, because variables must be set before prefect is imported.
"""

import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

from tasks.store.locks import file_lock

PROOF_PATH = "/gloveflow/proof/"  # followed by the challenge
LOGIN_PATH = "/gloveflow/login"


class Secret(NamedTuple):
    """The secret of one artifacts directory.

    Attributes:
        text: `user:password`, as Prefect's auth string and HTTP Basic have it.
        store: which directory it is. A copy of a directory has the same text, but is another one.
    """

    text: str
    store: str

    def prove(self, challenge: str, *, port: int, pid: int) -> str:
        """Return the proof that a server with this port and process id knows the secret and serves this directory."""
        return self._sign(f"proof {challenge} {port} {pid}")

    def login_token(self, port: int) -> str:
        """Return the token with which a link logs a browser in to the server at a port."""
        return self._sign(f"login {port}")

    def cookie(self, port: int) -> str:
        """Return the value of the cookie with which a browser stays logged in."""
        return self._sign(f"cookie {port}")

    def _sign(self, text: str) -> str:
        return hmac.new(self.text.encode(), f"{text} {self.store}".encode(), hashlib.sha256).hexdigest()


def secret_path(root: Path) -> Path:
    """Return the file that holds the secret."""
    return root / "prefect" / "auth-string"


def read_secret(root: Path) -> Secret | None:
    """Return the secret, or None if there is none or this user cannot read it."""
    try:
        text = secret_path(root).read_text("ascii").strip()
        return Secret(text, _identify_store(root)) if text else None
    except (OSError, ValueError):
        return None


def make_secret(root: Path) -> Secret:
    """Return the secret for a server; make a new one if there is none, or if other users could read or write it."""
    path = secret_path(root)
    with file_lock(path.with_name(".auth-string.lock"), waiting_for="another command to start its servers"):
        secret = read_secret(root)
        if secret and _is_private(path):
            return secret
        secret = Secret(f"gloveflow:{secrets.token_urlsafe(32)}", _identify_store(root))
        temporary = path.with_name(f".auth-string-{secrets.token_hex(8)}")
        with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{secret.text}\n")
        temporary.replace(path)
        return secret


def identify_server(url: str, secret: Secret, seconds: float = 1.0) -> int | None:
    """Return the process id of the server at an address, or None if it does not prove that it knows the secret.

    The port is part of the proof, so no other server can pass the challenge on to ours and use its answer.

    Args:
        url: `http://<host>:<port>`.
        secret: of the artifacts whose server is expected there.
        seconds: how long to wait for an answer.
    """
    import http.client
    import urllib.request  # here: `gloveflow --help` does not need it

    challenge = secrets.token_urlsafe(16)
    try:
        with urllib.request.urlopen(f"{url}{PROOF_PATH}{challenge}", timeout=seconds) as response:  # noqa: S310
            answer = json.loads(response.read(1000))
        pid, proof = int(answer["pid"]), str(answer["proof"])
        expected = secret.prove(challenge, port=urlsplit(url).port or 80, pid=pid)
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None
    return pid if hmac.compare_digest(proof.encode(), expected.encode()) else None


def _identify_store(root: Path) -> str:
    status = root.stat()
    return f"{status.st_dev}:{status.st_ino} {root.resolve()}"


def _is_private(path: Path) -> bool:
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o077
