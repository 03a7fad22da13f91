"""Keep secrets of addresses out of everything that is shown or stored: messages, log lines, MLflow, manifests.

`pipeline_config.references` keeps them out of the configuration. Imports only the standard library, since the errors
of the project use it.
"""

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

MASK = "***"
REFERENCE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_MIN_VALUE = 6  # a shorter value of a variable is not searched for in texts, which it may occur in by chance
# What comes before the @ of an address. The second form is for passwords with characters that should be encoded.
# The lengths are bounded, so that the time grows with the length of the text.
_USER_INFO = re.compile(
    r"(?P<before>(?<![A-Za-z0-9+.-])[A-Za-z][A-Za-z0-9+.-]{0,30}://)"
    r"(?P<secret>[^\s/?#@]{0,300}(?:@[^\s/?#@]{1,300}){0,3}|[^\s/@:]{1,100}:(?!\d+(?:[/?#]|$))[^\s@]{1,300})(?=@)"
)
_PARAMETER = re.compile(
    r"(?P<before>[?&;#](?:(?:x-amz-|x-goog-|x-ms-)[\w.-]{0,60}|[\w.-]{0,60}(?:token|secret|passw(?:or)?d|passphrase|"
    r"signature|credential|access_?key|api[_-]?key|[_-]key|session|auth|jwt)[\w.-]{0,60}|sig|sas|pwd|pw|pass|key|code|"
    r"rlkey|resourcekey)=)(?P<secret>[^\s&;#'\"<>]+)",
    re.IGNORECASE,
)
# Parameters that prove who asks and never say what is asked for, so that they do not tell addresses apart.
_PROOF = re.compile(
    r"(?:x-amz-|x-goog-)[\w.-]*|awsaccesskeyid|expires|signature|sig|(?:access_|auth_)?token|password|jwt",
    re.IGNORECASE,
)
_known: dict[str, str] = {}  # value of a variable that a reference was replaced by -> the reference


def mask_secrets(text: str) -> str:
    """Return a text without secrets: user and password of addresses, and query parameters that carry secrets.

    Values of variables that references were replaced by (`remember_value`) become the reference again.
    """
    for value, reference in sorted(_known.copy().items(), key=lambda item: -len(item[0])):
        text = text.replace(value, reference)
    return replace_secrets(text, lambda _: MASK)


def mask_values(value: Any) -> Any:
    """Return a value of JSON types with `mask_secrets` applied to every text in it, keys of mappings excepted."""
    if isinstance(value, str):
        return mask_secrets(value)
    if isinstance(value, Mapping):
        return {key: mask_values(inner) for key, inner in value.items()}
    return [mask_values(inner) for inner in value] if isinstance(value, list | tuple) else value


@contextlib.contextmanager
def masked_errors() -> Iterator[None]:
    """Replace an error of a library whose text holds a secret by one with the masked text.

    Every task and flow has it around its body, because Prefect stores the text of an error in its database.

    Raises:
        RuntimeError: in place of such an error; other errors pass as they are.
    """
    try:
        yield
    except Exception as error:
        text = mask_secrets(str(error))
        if text == str(error):
            raise
        raise RuntimeError(f"{type(error).__name__}: {text}") from None


def replace_secrets(text: str, replace: Callable[[str], str]) -> str:
    """Return a text with each secret of its addresses replaced; those that only refer to variables stay."""

    def substitute(found: re.Match[str]) -> str:
        secret = found["secret"]
        return found[0] if not secret or _only_refers(secret) else found["before"] + replace(secret)

    return _PARAMETER.sub(substitute, _USER_INFO.sub(substitute, text))


def remember_value(value: str, reference: str) -> None:
    """Let `mask_secrets` show a value as its reference from now on, wherever in a text it stands."""
    _known.update({form: reference for form in (value, quote(value, safe="")) if len(form) >= _MIN_VALUE})


def digest_url(url: str) -> str:
    """Return a SHA-256, in hexadecimal, of an address without user, password and parameters that prove who asks.

    So what was downloaded is found again with a new password or signature.
    """
    parts = urlsplit(url)
    query = "&".join(part for part in parts.query.split("&") if not _PROOF.fullmatch(part.partition("=")[0]))
    identity = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2], query=query))
    return hashlib.sha256(identity.encode()).hexdigest()


def split_user(url: str) -> tuple[str, str]:
    """Return an address without user and password, and these as `user:password`, empty if there are none."""
    found = _USER_INFO.match(url)
    return (found["before"] + url[found.end() + 1 :], found["secret"]) if found else (url, "")


def _only_refers(secret: str) -> bool:
    """Return whether a secret is `${NAME}`, several of them, or `user:${NAME}`."""
    return bool(REFERENCE.search(secret)) and not REFERENCE.sub("", secret.rpartition(":")[2])
