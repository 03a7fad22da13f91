"""The licences of vectors and corpora, where they are known, and their names without places on a machine."""

from collections.abc import Sequence
from importlib import metadata
from urllib.parse import urlsplit

from tasks.vectors.published import full_name

UNKNOWN = "licence not known"


def describe_vectors(source: str) -> str:
    """Return name and licence of a vector set, given as in `embeddings.source`."""
    if source == "none":
        return "none: the embedding layer started fresh"
    if "://" in source:
        return f"vectors from {_place(source)}; {UNKNOWN}"
    name = full_name(source)
    if name.startswith("fasttext."):
        return f"{name}: Creative Commons Attribution-ShareAlike 3.0"
    if name.startswith("glove.") and "/" not in source and not source.endswith((".txt", ".zip", ".gz", ".vec", ".bin")):
        return f"{name}: Open Data Commons Public Domain Dedication and License 1.0"
    return f"vectors of a file; {UNKNOWN}"


def describe_corpus_licence(source: str | Sequence[str]) -> str:
    """Return name and licence of a corpus, given as in `corpus.source`; of a file neither name nor place is told."""
    first = source if isinstance(source, str) else next(iter(source), "")
    if first.startswith("package:"):
        distribution = first.split(":")[1]
        return f"the package {distribution}: {_licence(distribution)}"
    if "://" in first:
        return f"{_place(first)}; {UNKNOWN}"
    return f"files of the user; {UNKNOWN}"


def _place(url: str) -> str:
    """Return an address without user, password and parameters."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{parts.path if parts.scheme.startswith('http') else ''}"


def _licence(distribution: str) -> str:
    try:
        found = metadata.metadata(distribution)
    except metadata.PackageNotFoundError:
        return UNKNOWN
    names = [found[key] for key in ("License-Expression", "License") if key in found]
    return names[0].splitlines()[0][:100] if names and names[0] else UNKNOWN
