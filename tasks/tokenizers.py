"""Tokenizers by name: columnar for a corpus, and the same code for single strings in the served model.

Reads and writes Arrow arrays. This module imports nothing of the project, so that a registered model can
carry it as it is. `basic_english` gives the tokens of torchtext 0.6's tokenizer of that name, token for token.
"""

import unicodedata
from collections.abc import Callable, Iterable

import pyarrow as pa
import pyarrow.compute as pc

TEXT = pa.large_string()
TOKEN_LISTS = pa.large_list(TEXT)

# What basic_english replaces, in this order, after lower-casing.
_BASIC_ENGLISH = (
    ("'", " '  "), ('"', ""), (".", " . "), ("<br />", " "), (",", " , "), ("(", " ( "), (")", " ) "),
    ("!", " ! "), ("?", " ? "), (";", " "), (":", " "),
)  # fmt: skip
# Letters whose lower case differs between Python's and Arrow's Unicode tables (blocks of newer letters), is
# two characters (U+0130), or depends on the neighbours (U+03A3): texts with them take Python's lower().
_ODD_CASE = r"[\x{130}\x{3a3}\x{1c80}-\x{1c8f}\x{a7c0}-\x{a7ff}\x{10d40}-\x{10d8f}\x{16ea0}-\x{16edf}]"


def normalize_text(text: str) -> str:
    """Return a text in Unicode normalization form C, in which GloVe's tokens are written."""
    return unicodedata.normalize("NFC", text)


def basic_english(texts: pa.Array) -> pa.Array:
    """Lower-case, split off punctuation, split at white space; equal to torchtext's `basic_english`."""
    lowered = pc.utf8_lower(texts)
    odd = pc.match_substring_regex(texts, _ODD_CASE)
    if pc.any(odd).as_py():
        exact = pa.array([text.lower() for text in texts.filter(odd).to_pylist()], TEXT)
        lowered = pc.replace_with_mask(lowered, odd, exact)
    for pattern, replacement in _BASIC_ENGLISH:
        lowered = pc.replace_substring(lowered, pattern, replacement)
    return whitespace(lowered)


def whitespace(texts: pa.Array) -> pa.Array:
    """Split at Unicode white space; equal to `str.split()`."""
    trimmed = pc.utf8_trim_whitespace(texts)
    lists = pc.utf8_split_whitespace(trimmed).cast(TOKEN_LISTS)
    empty = pc.equal(trimmed, "")
    if not pc.any(empty).as_py():
        return lists
    # Arrow splits an empty text into one empty token; str.split() into none.
    lengths = pc.if_else(empty, pa.scalar(0, pa.int64()), pc.list_value_length(lists))
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    values = pc.list_flatten(lists)
    return pa.LargeListArray.from_arrays(offsets, values.filter(pc.not_equal(values, "")))


COLUMNAR: dict[str, Callable[[pa.Array], pa.Array]] = {
    "basic_english": basic_english,
    "whitespace": whitespace,
}


def load_tokenizer(name: str) -> Callable[[pa.Array], pa.Array]:
    """Return the tokenizer of a name: large_string array of texts -> large_list array of tokens.

    Names other than the columnar ones are torchtext's (`toktok`, `moses`, `spacy`, ...), which may need
    a package of their own.

    Raises:
        ValueError: torchtext does not know the name, or the package behind it is not installed.
    """
    if name in COLUMNAR:
        return COLUMNAR[name]
    from torchtext.data import get_tokenizer

    try:
        split = get_tokenizer(name)
    except (ValueError, ImportError, AttributeError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ValueError(
            f"tokenizer {name!r}: {reason}; expected {', '.join(COLUMNAR)}, or a tokenizer of torchtext whose "
            "package is installed"
        ) from error
    return lambda texts: pa.array([split(text) for text in texts.to_pylist()], TOKEN_LISTS)


def tokenize_texts(texts: Iterable[str], name: str) -> list[list[str]]:
    """Normalize and tokenize single texts, exactly as the corpus was."""
    array = pa.array([normalize_text(text) for text in texts], TEXT)
    return load_tokenizer(name)(array).to_pylist() if len(array) else []


def is_columnar(name: str) -> bool:
    """Tell whether a tokenizer needs nothing but Arrow."""
    return name in COLUMNAR
