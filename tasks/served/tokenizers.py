"""Tokenizers by name: on whole Arrow columns for a corpus, and by the same code on single texts for a served model.

It takes and returns Arrow arrays. It imports only modules of this package, so that a registered model can carry it
unchanged. `basic_english` gives exactly the tokens of the tokenizer of that name in torchtext 0.6.
"""

import hashlib
import importlib
import inspect
import os
from collections.abc import Callable, Iterable
from importlib import metadata
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .languages import LANGUAGES, identify_language, load_language, require_language
from .text import TEXT, TOKEN_LISTS, largest_bytes, normalize_texts, text_bytes
from .word_breaks import split_characters, split_words

# Letters whose lower case differs between the Unicode tables of Python and Arrow (blocks of newer letters), has two
# characters (U+0130), or depends on the neighbours (U+03A3). Texts with such letters go through Python's lower().
_ODD_CASE = r"[\x{130}\x{3a3}\x{1c80}-\x{1c8f}\x{a7c0}-\x{a7ff}\x{10d40}-\x{10d8f}\x{16ea0}-\x{16edf}]"

# Classes of bytes, see `_split_bytes`: white space of ASCII, and what basic_english splits at.
_WHITE_SPACE = np.zeros(256, np.uint8)
_WHITE_SPACE[[*range(9, 14), *range(28, 33)]] = 1
_BASIC_ENGLISH = _WHITE_SPACE.copy()
_BASIC_ENGLISH[list(b";:")] = 1
_BASIC_ENGLISH[list(b"'.,()!?")] = 2
# The white space of Unicode outside ASCII.
_ODD_SPACE = r"[\x{85}\x{a0}\x{1680}\x{2000}-\x{200a}\x{2028}\x{2029}\x{202f}\x{205f}\x{3000}]"

# The replacements of treebank, in order, between lower-casing and splitting at white space: pattern, replacement.
# A comma and a full stop that must stay are U+FDD0 and U+FDD1 meanwhile, which Unicode assigns to no character.
_TREEBANK = (("<br />", " "), ("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"'), ("\u2026", "..."))
_TREEBANK_REGEX = (
    *[(r"([0-9]),([0-9])", "\\1\ufdd0\\2")] * 2,  # 1,000; twice, because matches do not overlap: 1,2,3
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

    torchtext replaces, in this order: `'` by ` '  `, `"` by nothing, `.` by ` . `, `<br />` by a space, each of
    `, ( ) ! ?` by itself between spaces, `;` and `:` by spaces. So a quote is deleted; a line break, a semicolon or a
    colon ends a token; each other mark is a token.
    """
    text = pc.replace_substring(lower(texts), '"', "")
    return _split_bytes(pc.replace_substring(text, "<br />", " "), _BASIC_ENGLISH)


def treebank(texts: pa.Array) -> pa.Array:
    """Lower-case and split like the Penn Treebank (Marcus et al. 1993), as GloVe's training text was split.

    Contractions are split (`do n't`, `it 's`, `can not`), each punctuation mark is a token, numbers (`1,000`, `3.14`),
    abbreviations (`u.s.`, `mr.`) and hyphenated words stay whole. Two differences: quotes are not turned into opening
    and closing ones, and a full stop between two words is split off, because reviews often lack the space after it.
    """
    text = lower(texts)
    for pattern, replacement in _TREEBANK:
        text = pc.replace_substring(text, pattern, replacement)
    for pattern, replacement in _TREEBANK_REGEX:
        text = pc.replace_substring_regex(text, pattern, replacement)
    return whitespace(pc.replace_substring(pc.replace_substring(text, "\ufdd0", ","), "\ufdd1", "."))


def unicode_words(texts: pa.Array) -> pa.Array:
    """Lower-case and split at the word boundaries of Unicode (UAX #29), for any language with spaces between words.

    `don't`, `3.14` and `l'eau` stay whole, other punctuation and each emoji is a token, and so is each ideograph. Lower
    case, because a word at the beginning of a sentence is the same word, and small corpora have few of each.
    """
    return split_words(lower(texts))


def characters(texts: pa.Array) -> pa.Array:
    """Lower-case and make each character a token, with its marks; for any script, spaced or not. Drops white space."""
    return split_characters(lower(texts))


def lower(texts: pa.Array) -> pa.Array:
    """Return texts in lower case, exactly as `str.lower()` does."""
    lowered = pc.utf8_lower(texts)
    odd = _find_matches(texts, _ODD_CASE)
    if odd.any():
        mask = pa.array(odd)
        exact = pa.array([text.lower() for text in texts.filter(mask).to_pylist()], TEXT)
        lowered = pc.replace_with_mask(lowered, mask, exact)
    return lowered


def whitespace(texts: pa.Array) -> pa.Array:
    """Split at Unicode white space; equal to `str.split()`."""
    return _split_bytes(texts, _WHITE_SPACE)


def _split_bytes(texts: pa.Array, classes: np.ndarray) -> pa.Array:
    """Split texts by classes of bytes, uint8[256]: bytes of class 1 separate tokens, each byte of class 2 is a token.

    Runs of class 0 are tokens. The array of tokens is built from the bytes of all tokens, joined, and their offsets,
    without a Python or C++ object per token. White space outside ASCII counts as a space.
    """
    odd = _find_matches(texts, _ODD_SPACE)
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
    edges = offsets[offsets < len(data)]  # first byte of each text; the text before it ends one byte earlier
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


def _find_matches(texts: pa.Array, pattern: str) -> np.ndarray:
    """Return bool[N]: which texts match a pattern that consists of characters outside ASCII."""
    found = largest_bytes(texts) >= 0x80
    if found.any():
        found[found] = pc.match_substring_regex(texts.filter(pa.array(found)), pattern).to_numpy(zero_copy_only=False)
    return found


Tokenize = Callable[[pa.Array], pa.Array]
COLUMNAR: dict[str, Tokenize] = {
    "basic_english": basic_english,
    "treebank": treebank,
    "unicode_words": unicode_words,
    "characters": characters,
    "whitespace": whitespace,
}
LISTED = "GLOVEFLOW_TOKENIZERS"  # environment variable: functions that may be tokenizers, `<module>:<function>,...`
VERSION = 1  # of the columnar tokenizers; raise it when one of them gives other tokens (a test notices)


def load_tokenizer(name: str) -> Tokenize:
    """Return the tokenizer of a name: a function from a large_string array of texts to large_list of tokens.

    Besides the columnar tokenizers, a name is a language of `tasks.served.languages`, `<module>:<function>`, a function
    from a text to a list of tokens that `GLOVEFLOW_TOKENIZERS` lists, or one of torchtext's tokenizers (`toktok`,
    `moses`, `spacy`, ...), some of which need a package of their own.

    Raises:
        ValueError: the tokenizer does not exist, its package is not installed, or it is a function that is not listed.
    """
    if name in COLUMNAR:
        return COLUMNAR[name]
    require_available(name)
    try:
        split = _find_split(name)
    except (ValueError, ImportError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"tokenizer {name!r}: {reason}; expected {', '.join([*COLUMNAR, *LANGUAGES])}, <module>:<function>, or a "
            "tokenizer of torchtext whose package is installed"
        ) from error
    return lambda texts: pa.array([_check_tokens(split(text), name) for text in texts.to_pylist()], TOKEN_LISTS)


def require_available(name: str) -> None:
    """Check that a tokenizer may be used on this machine, as far as that is known without importing anything.

    Raises:
        ValueError: the package of a language is missing, or the name is that of a function that is not listed.
    """
    if name in LANGUAGES:
        require_language(name)
    require_listed(name)


def require_listed(name: str) -> None:
    """Check that a name does not name code, or that `GLOVEFLOW_TOKENIZERS` on this machine lists it.

    Configurations, flow parameters and registered models come from elsewhere. The environment belongs to who runs this.

    Raises:
        ValueError: the name is that of a function that is not listed.
    """
    listed = [entry.strip() for entry in os.environ.get(LISTED, "").split(",")]
    if ":" in name and name not in listed:
        raise ValueError(
            f"tokenizer {name!r} is a function, and {LISTED} does not list it; expected {LISTED}={name} (several names "
            "are separated by commas) in the environment of the process that runs it, because it runs code"
        )


def identify_tokenizer(name: str) -> str:
    """Return the name and version of a tokenizer, such as `treebank 1` or `toktok torchtext 0.6.0`.

    The version of a function of the user is the digest of its source file.

    Raises:
        ValueError: a package is missing, or the name is that of a function that `GLOVEFLOW_TOKENIZERS` does not list.
    """
    if name in COLUMNAR:
        return f"{name} {VERSION}"
    if name in LANGUAGES:
        return identify_language(name)
    if ":" not in name:
        return f"{name} torchtext {metadata.version('torchtext')}"
    require_listed(name)
    try:
        source = inspect.getsourcefile(_import_function(name))
        digest = hashlib.sha256(Path(source).read_bytes()).hexdigest() if source else "no source"
    except (ValueError, ImportError, AttributeError, OSError, TypeError):
        digest = "unknown"
    return f"{name} {digest[:16]}"


def tokenize_texts(texts: Iterable[str], name: str) -> list[list[str]]:
    """Normalize and tokenize single texts, exactly as the stages do with a corpus."""
    array = pa.array(list(texts), TEXT)
    return load_tokenizer(name)(normalize_texts(array)).to_pylist() if len(array) else []


def is_columnar(name: str) -> bool:
    """Return True if a tokenizer needs only this package and Arrow."""
    return name in COLUMNAR


def _find_split(name: str) -> Callable[[str], list[str]]:
    if name in LANGUAGES:
        return load_language(name)
    return _import_function(name) if ":" in name else _torchtext_tokenizer(name)


def _import_function(name: str) -> Callable[[str], list[str]]:
    module, _, function = name.partition(":")
    found: Any = importlib.import_module(module)
    for attribute in function.split("."):
        found = getattr(found, attribute)
    if not callable(found):
        raise ValueError(f"{function} is not a function")
    return cast("Callable[[str], list[str]]", found)


def _torchtext_tokenizer(name: str) -> Callable[[str], list[str]]:
    from torchtext.data import get_tokenizer

    return cast("Callable[[str], list[str]]", get_tokenizer(name))


def _check_tokens(tokens: Any, name: str) -> list[str]:
    tokens = list(tokens)
    if not all(isinstance(token, str) for token in tokens):
        raise ValueError(f"tokenizer {name!r}: expected a list of strings, got {tokens!r:.80}")
    return cast("list[str]", tokens)
