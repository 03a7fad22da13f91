"""Names of configurations: proposed from other texts, and from where a corpus is. Imports only the standard library."""

import re
import unicodedata
from collections.abc import Sequence
from urllib.parse import urlsplit

_PACKED = r"\.(gz|bz2|zst|xz|zip)$"
_SUFFIX = r"(?<=.)\.[a-z][a-z0-9]*$"
_MAGIC = re.compile(r"[*?\[]|\$\{")


def propose_name(text: str) -> str:
    """Return a text as a name of lowercase letters, digits and -, without accents; empty if nothing of it is left."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.lower()) if not unicodedata.combining(c))
    return re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:200].rstrip("-")


def name_corpus(source: str | Sequence[str]) -> str:
    """Return a name for a corpus: that of its first file without suffixes, or of the folder if there is a pattern.

    Args:
        source: path, pattern, URL or `package:<distribution>:<path>`, or a list of them.

    Returns:
        The name; empty if there is none that is valid.
    """
    first = source if isinstance(source, str) else next(iter(source), "")
    path = urlsplit(first).path if "://" in first else first.removeprefix("package:").rpartition(":")[2]
    parts = [part for part in re.split(r"[/\\]", path) if part.strip(".") and not _MAGIC.search(part)]
    last = parts[-1].lower() if parts else ""
    return propose_name(re.sub(_SUFFIX, "", re.sub(_PACKED, "", last)))
