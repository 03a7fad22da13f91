"""Find texts of a script without spaces between words that a tokenizer left in one piece."""

import logging

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import InputError
from tasks.runtime.arrow import whole_column
from tasks.served.languages import LANGUAGES, require_language
from tasks.served.text import TEXT, largest_bytes

logger = logging.getLogger(__name__)
REFUSED_SHARE, TOLD_SHARE = 0.5, 0.1  # of all characters
KANA_SHARE = 0.05  # of Han and kana letters; more are Japanese
# language, its letters, and the most of them that a word has on average; words have 2 and 4 to 6
_SCRIPTS = (
    ("Chinese or Japanese", r"[\p{Han}\p{Hiragana}\p{Katakana}]", 5),
    ("Thai", r"\p{Thai}", 12),
    ("Lao, Khmer or Burmese", r"[\p{Lao}\p{Khmer}\p{Myanmar}]", 12),
)


def check_segmentation(dictionary: pa.Table, tokenizer: str) -> None:
    """Check that the tokenizer split texts of scripts that have no spaces between words; a small share is only told.

    Goes by what is seen: letters of such a script, in tokens that are much longer than its words. So texts that were
    split before, with spaces, pass.

    Args:
        dictionary: distinct tokens with their counts in the train split (schema `DICTIONARY`).
        tokenizer: its name.

    Raises:
        InputError: most of the train split was not split.
    """
    tokens, counts = whole_column(dictionary["token"]).cast(TEXT), dictionary["train_count"].to_numpy()
    characters = int((pc.utf8_length(tokens).to_numpy() * counts).sum())
    chosen = largest_bytes(tokens) >= 0xE0  # the first byte of Thai letters in UTF-8; the others begin with more
    tokens, counts = tokens.filter(pa.array(chosen)), counts[chosen]
    for language, letters, longest in _SCRIPTS:
        found = _count_letters(tokens, letters)
        total, holding = int((found * counts).sum()), int(counts[found > 0].sum())
        if not holding or total <= TOLD_SHARE * characters or total <= longest * holding:
            continue
        if language == "Chinese or Japanese":
            kana = int((_count_letters(tokens, r"[\p{Hiragana}\p{Katakana}]") * counts).sum())
            language = "Japanese" if kana > KANA_SHARE * total else "Chinese"
        share = total / characters
        message = (
            f"vocabulary: {share:.0%} of the characters of the train split are {language}, which has no spaces between "
            f"words, and tokens of {tokenizer} have {total / holding:.0f} of them on average, too many; "
            f"set tokenization.tokenizer={_name_remedy(language)}"
        )
        if share > REFUSED_SHARE:
            raise InputError(message)
        logger.warning("%s", message)


def describe_long_tokens(dictionary: pa.Table, tokenizer: str) -> str:
    """Return a hint for an error if the tokens of the train split are longer than words are, otherwise nothing."""
    counts = dictionary["train_count"].to_numpy()
    lengths = pc.utf8_length(whole_column(dictionary["token"])).to_numpy()
    mean = (lengths * counts).sum() / max(counts.sum(), 1)
    if mean <= 20:
        return ""
    return (
        f". Its tokens have {mean:.0f} characters on average: {tokenizer} does not split these texts; see "
        "tokenization.tokenizer"
    )


def _count_letters(tokens: pa.Array, pattern: str) -> np.ndarray:
    counts: np.ndarray = pc.count_substring_regex(tokens, pattern).to_numpy()
    return counts


def _name_remedy(language: str) -> str:
    name = language.lower()
    if name not in LANGUAGES:
        return "characters"
    try:
        require_language(name)
    except ValueError:
        return f"{name} (pip install {' '.join(LANGUAGES[name].distributions)} first), or characters"
    return f"{name} or characters"
