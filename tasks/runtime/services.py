"""Whether a server answers at all, asked before a client that would try for minutes is used.

Imports only the standard library, because commands ask before they import anything heavy.
"""

import http.client
import re
import ssl
import time
import urllib.error
import urllib.request

from pipeline_config.errors import ServiceError

ANSWER_SECONDS = 5.0
TRIES = 2
PAUSE_SECONDS = 1.0


def require_answer(name: str, url: str, *, advice: str) -> None:
    """Check that a server answers. It is asked `TRIES` times, and may take `ANSWER_SECONDS` each time.

    Every answer below 500 counts, also that the page is unknown or needs a password: the server is there.

    Args:
        name: name of the service, for the message.
        url: an address of the server that is cheap to answer; user and password in it are not sent or shown.
        advice: what the user can do, for the message.

    Raises:
        ServiceError: it refuses connections, does not answer in time, or answers with a server error.
    """
    shown = hide_credentials(url)
    problem = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_SECONDS)
        problem = _find_problem(shown)
        if not problem:
            return
    raise ServiceError(f"{name} at {shown} does not answer: {problem} (tried {TRIES} times); {advice}")


def hide_credentials(url: str) -> str:
    """Return an address without user and password."""
    return re.sub(r"^([^/]*//)[^/]*@", r"\1", url)


def _find_problem(url: str) -> str:
    """Return why a server does not answer, or an empty string if it does."""
    try:
        with urllib.request.urlopen(url, timeout=ANSWER_SECONDS):  # noqa: S310 (the address is the user's own)
            return ""
    except urllib.error.HTTPError as error:
        error.close()
        return f"HTTP status {error.code}" if error.code >= 500 else ""
    except TimeoutError:
        return f"no answer within {ANSWER_SECONDS:g} s"
    except urllib.error.URLError as error:
        if isinstance(error.reason, ssl.SSLError):
            return ""  # it is there; its client may have certificates that we do not know
        return str(getattr(error.reason, "strerror", None) or error.reason)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return f"{type(error).__name__}: {error}"
