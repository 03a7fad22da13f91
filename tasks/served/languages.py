"""Tokenizers of languages that put no spaces between words; each uses a library of its own, an optional extra.

Tokens are in lower case, and none is white space. A library is imported when its tokenizer is loaded.
"""

import functools
import os
import re
import threading
from collections.abc import Callable
from importlib import metadata
from typing import Any, NamedTuple

MAX_CHARACTERS = 10_000  # of a text that is split at once: Sudachi takes at most 49,149 bytes
_PIECE = re.compile(
    rf"(?s).{{1,{MAX_CHARACTERS - 1}}}[\u3002\uff01\uff1f\s]|.{{1,{MAX_CHARACTERS}}}"  # ends at a full stop if it can
)
Split = Callable[[str], list[str]]


class Language(NamedTuple):
    """A tokenizer: the distributions that it needs, and a function that returns how to split a text."""

    distributions: tuple[str, ...]
    load: Callable[[], Split]


@functools.cache
def _load_chinese() -> Split:
    """Return the segmentation of jieba, by its implementation in Rust."""
    import rjieba

    cut = rjieba.Jieba().cut
    return lambda text: list(cut(text))


@functools.cache
def _load_japanese() -> Split:
    """Return the segmentation of Sudachi into its shortest units, which are those of UniDic."""
    from sudachipy import Dictionary, SplitMode

    dictionary, of_thread = Dictionary(dict="small"), threading.local()  # a tokenizer is for one thread at a time

    def split(text: str) -> list[str]:
        if not hasattr(of_thread, "tokenizer"):
            of_thread.tokenizer = dictionary.tokenizer(mode=SplitMode.A)
        return [morpheme.surface() for morpheme in of_thread.tokenizer.tokenize(text)]

    return split


@functools.cache
def _load_thai() -> Split:
    """Return the segmentation `newmm` of PyThaiNLP."""
    os.environ.setdefault("PYTHAINLP_READ_ONLY", "1")  # the library makes a folder in the user's home otherwise
    from pythainlp.tokenize.newmm import segment

    segment("\u0e01")  # reads the dictionary now
    return lambda text: list(segment(text, safe_mode=True))


LANGUAGES = {
    "chinese": Language(("rjieba",), _load_chinese),
    "japanese": Language(("sudachipy", "sudachidict-small"), _load_japanese),
    "thai": Language(("pythainlp",), _load_thai),
}


def require_language(name: str) -> None:
    """Check that the packages of a language are installed; nothing is imported.

    Raises:
        ValueError: one is missing.
    """
    for distribution in LANGUAGES[name].distributions:
        try:
            metadata.version(distribution)
        except metadata.PackageNotFoundError:
            needed = " ".join(LANGUAGES[name].distributions)
            raise ValueError(
                f"tokenizer {name!r} needs the package {distribution}, which is not installed; run: pip install "
                f"{needed} (the extra {name!r} of gloveflow)"
            ) from None


def load_language(name: str) -> Split:
    """Return the function that splits a text of a language.

    Raises:
        ValueError: a package that it needs is missing.
    """
    require_language(name)
    split = LANGUAGES[name].load()

    def tokenize(text: str) -> list[str]:
        pieces: list[Any] = [text] if len(text) <= MAX_CHARACTERS else _PIECE.findall(text)
        return [token for piece in pieces for part in split(piece) if (token := part.strip().lower())]

    return tokenize


def identify_language(name: str) -> str:
    """Return the name of a language's tokenizer with the versions of its packages.

    Raises:
        ValueError: a package that it needs is missing.
    """
    require_language(name)
    return " ".join([name, *(f"{part} {metadata.version(part)}" for part in LANGUAGES[name].distributions)])
