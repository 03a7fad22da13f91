"""Tokenizers by name: columnar for a corpus, and the same code for single strings in the served model.

Reads and writes Arrow arrays. This module imports nothing of the project, so that a registered model can
carry it as it is. `basic_english` gives the tokens of torchtext 0.6's tokenizer of that name, token for token.
"""

import hashlib
import importlib
import inspect
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .text import TEXT, TOKEN_LISTS, largest_bytes, normalize_texts, text_bytes

# Letters whose lower case differs between Python's and Arrow's Unicode tables (blocks of newer letters), is
# two characters (U+0130), or depends on the neighbours (U+03A3): texts with them take Python's lower().
_ODD_CASE = r"[\x{130}\x{3a3}\x{1c80}-\x{1c8f}\x{a7c0}-\x{a7ff}\x{10d40}-\x{10d8f}\x{16ea0}-\x{16edf}]"


_WHITE_SPACE = np.zeros(256, np.uint8)  # of ASCII, as `_split` takes it
_WHITE_SPACE[[*range(9, 14), *range(28, 33)]] = 1
_BASIC_ENGLISH = _WHITE_SPACE.copy()
_BASIC_ENGLISH[list(b";:")] = 1
_BASIC_ENGLISH[list(b"'.,()!?")] = 2
# The white space of Unicode outside ASCII.
_ODD_SPACE = r"[\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"

# What treebank does after lower-casing and before splitting at white space, in this order: a pattern and its
# replacement. U+FDD0 and U+FDD1, which are no characters, stand for a comma and a full stop that are kept.
_TREEBANK = (
    ("<br />", " "), ("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2026", "..."),
)  # fmt: skip
_TREEBANK_REGEX = (
    *[(r"([0-9]),([0-9])", "\\1\ufdd0\\2")] * 2,  # 1,000; twice, as matches do not overlap: 1,2,3
    (r"\b(mr|mrs|ms|dr|st|jr|sr|vs|prof|gen|sen|rep|lt|col|inc|corp|ltd|etc)\.", "\\1\ufdd1"),
    (r"(\.\.+|--+|[\[\]!?;\"(){}<>@#$%&*+=~/|_^`\\\x{2013}\x{2014}])", " \\1 "),
    (r"([,:])", " \\1 "),
    (r"([^\s.][^\s.]|[0-9])\.([\s']|$)", "\\1 . \\2"),  # not u.s. and not j.
    (r"([a-z]{3})\.([a-z]{2})", "\\1 . \\2"),  # end.begin
    (r"n't\b", " n't"),
    (r"'(s|m|d|ll|re|ve)\b", " '\\1"),
    (r"(^|\s)'([^\s])", "\\1' \\2"),
    (r"([^\s])'(\s|$)", "\\1 '\\2"),
    (r"' (s|m|d|ll|re|ve)\b", "'\\1"),
    (r"\bcannot\b", "can not"),
)


def basic_english(texts: pa.Array) -> pa.Array:
    """Lower-case, split off punctuation, split at white space; equal to torchtext's `basic_english`.

    That one replaces, in this order: `'` by ` '  `, `"` by nothing, `.` by ` . `, `<br />` by a space, each of
    `, ( ) ! ?` by itself between spaces, `;` and `:` by spaces. So a quote vanishes within a token, a line break, a
    semicolon and a colon end one, and the other marks stand alone.
    """
    text = pc.replace_substring(lower(texts), '"', "")
    return _split(pc.replace_substring(text, "<br />", " "), _BASIC_ENGLISH)


def treebank(texts: pa.Array) -> pa.Array:
    """Lower-case and split as the Penn Treebank does (Marcus et al. 1993), and so GloVe's own training text.

    Contractions come apart (`do n't`, `it 's`, `can not`), punctuation stands alone, numbers (`1,000`, `3.14`),
    abbreviations (`u.s.`, `mr.`) and hyphenated words stay whole. Differences: quotes are not turned into
    opening and closing ones, and a full stop between two words is split off, as reviews often lack the space.
    """
    text = lower(texts)
    for pattern, replacement in _TREEBANK:
        text = pc.replace_substring(text, pattern, replacement)
    for pattern, replacement in _TREEBANK_REGEX:
        text = pc.replace_substring_regex(text, pattern, replacement)
    return whitespace(pc.replace_substring(pc.replace_substring(text, "\ufdd0", ","), "\ufdd1", "."))


def lower(texts: pa.Array) -> pa.Array:
    """Return texts in lower case, letter for letter as `str.lower()` does it."""
    lowered = pc.utf8_lower(texts)
    odd = _matching(texts, _ODD_CASE)
    if odd.any():
        mask = pa.array(odd)
        exact = pa.array([text.lower() for text in texts.filter(mask).to_pylist()], TEXT)
        lowered = pc.replace_with_mask(lowered, mask, exact)
    return lowered


def whitespace(texts: pa.Array) -> pa.Array:
    """Split at Unicode white space; equal to `str.split()`.

    Runs of bytes that are no white space are tokens: their bytes side by side and the lengths of the runs make the
    array of tokens, without a Python or C++ object per token.
    """
    return _split(texts, _WHITE_SPACE)


def _split(texts: pa.Array, classes: np.ndarray) -> pa.Array:
    """Split texts by classes of bytes: at each of class 1, and before and after each of class 2, which is a token.

    Runs of bytes between are tokens: the bytes of all of them side by side and the lengths of the runs make the
    array of tokens, without a Python or C++ object per token. White space outside ASCII counts as a space.
    """
    odd = _matching(texts, _ODD_SPACE)
    if odd.any():
        mask = pa.array(odd)
        plain = pc.replace_substring_regex(texts.filter(mask), _ODD_SPACE, " ")
        texts = pc.replace_with_mask(texts, mask, plain)
    data, offsets = text_bytes(texts)
    if not len(data):
        return pa.array([[]] * len(texts), TOKEN_LISTS)
    found = np.take(classes, data)
    inside, alone = found != 1, found == 2
    borders = found > 0
    first, last = alone.copy(), alone
    first[1:] |= borders[:-1]
    last[:-1] |= borders[1:]
    edges = offsets[offsets < len(data)]  # where a text begins; the one before it ends at the byte before
    first[edges] = True
    last[edges[edges > 0] - 1] = True
    last[-1] = True
    first &= inside
    last &= inside
    starts = np.flatnonzero(first)
    ends = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(np.flatnonzero(last) + 1 - starts, out=ends[1:])
    letters = data.tobytes().translate(None, np.flatnonzero(classes == 1).astype(np.uint8).tobytes())
    tokens = pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(ends), pa.py_buffer(letters))
    return pa.LargeListArray.from_arrays(pa.array(np.searchsorted(starts, offsets)), tokens)


def _matching(texts: pa.Array, pattern: str) -> np.ndarray:
    """Return bool[N]: which texts match a pattern that has letters outside ASCII alone."""
    found = largest_bytes(texts) >= 0x80
    if found.any():
        found[found] = pc.match_substring_regex(texts.filter(pa.array(found)), pattern).to_numpy(zero_copy_only=False)
    return found


Tokenize = Callable[[pa.Array], pa.Array]
COLUMNAR: dict[str, Tokenize] = {
    "basic_english": basic_english,
    "treebank": treebank,
    "whitespace": whitespace,
}
VERSION = 1  # of the columnar tokenizers; raise it when one of them gives other tokens


def load_tokenizer(name: str) -> Tokenize:
    """Return the tokenizer of a name: large_string array of texts -> large_list array of tokens.

    Names other than the columnar ones are `<module>:<function>` of a function from text to a list of tokens, or
    torchtext's (`toktok`, `moses`, `spacy`, ...), which may need a package of their own.

    Raises:
        ValueError: there is no such tokenizer, or the package behind it is not installed.
    """
    if name in COLUMNAR:
        return COLUMNAR[name]
    try:
        split = _import_function(name) if ":" in name else _torchtext_tokenizer(name)
    except (ValueError, ImportError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"tokenizer {name!r}: {reason}; expected {', '.join(COLUMNAR)}, <module>:<function>, or a tokenizer of "
            "torchtext whose package is installed"
        ) from error
    return lambda texts: pa.array([_checked(split(text), name) for text in texts.to_pylist()], TOKEN_LISTS)


def identify_tokenizer(name: str) -> str:
    """Return the name with the version of what is behind it, such as `treebank 1` or `toktok torchtext 0.6.0`."""
    if name in COLUMNAR:
        return f"{name} {VERSION}"
    if ":" not in name:
        return f"{name} torchtext {metadata.version('torchtext')}"
    try:
        source = inspect.getsourcefile(_import_function(name))
        digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else "no source"
    except (ValueError, ImportError, AttributeError, OSError, TypeError):
        digest = "unknown"
    return f"{name} {digest[:16]}"


def tokenize_texts(texts: Iterable[str], name: str) -> list[list[str]]:
    """Normalize and tokenize single texts, exactly as the corpus was."""
    array = pa.array(list(texts), TEXT)
    return load_tokenizer(name)(normalize_texts(array)).to_pylist() if len(array) else []


def is_columnar(name: str) -> bool:
    """Tell whether a tokenizer needs nothing but Arrow."""
    return name in COLUMNAR


def _import_function(name: str) -> Callable[[str], list[str]]:
    module, _, function = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in function.split("."):
        found = getattr(found, part)
    if not callable(found):
        raise ValueError(f"{function} is no function")
    return cast("Callable[[str], list[str]]", found)


def _torchtext_tokenizer(name: str) -> Callable[[str], list[str]]:
    from torchtext.data import get_tokenizer

    return cast("Callable[[str], list[str]]", get_tokenizer(name))


def _checked(tokens: Any, name: str) -> list[str]:
    tokens = list(tokens)
    if not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"tokenizer {name!r}: expected a list of texts, got {tokens!r:.80}")
    return cast("list[str]", tokens)
