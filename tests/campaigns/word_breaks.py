"""Random texts, split at word boundaries by the project and by an oracle that reads the rules one by one.

    python -m tests.campaigns.word_breaks [--texts 100000] [--seed 0] [--test-file WordBreakTest.txt] [--uniseg]
    python -m tests.campaigns.word_breaks --table

The oracle goes through UAX #29 rule by rule, one pair of characters at a time, and takes the classes from the package
`regex`. `--test-file` compares with the file of that name that Unicode publishes, `--uniseg` with that package
(`pip install uniseg` first). `--table` prints the table of `tasks/served/word_breaks.py` for the Unicode of `regex`.
"""

import argparse
import base64
import random
import sys
import textwrap
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow as pa
import regex

from tasks.served.text import TEXT
from tasks.served.word_breaks import CLASSES, class_table, split_characters, split_words

MARKS = ("Extend", "ZWJ", "Format")
LINE_ENDS = ("CR", "LF", "Newline")
OWN_PROPERTIES = ("Other", "Invisible", "Pictographic", "Pictographic_ALetter")
PIECES = [
    *"aZ9 _.,:;'\"-!\n\r\t\x00", "\u00a0", "\u3000", "\u2028", "\u0301", "\u200d", "\u00ad", "\ufe0f", "\u200b", "\u2019",
    "\u00b7", "\u05d0", "\u05f4", "\u30ab", "\u3042", "\u6f22", "\uac00", "\u0e01", "\u0e34", "\u0663", "\u066b", "\u203f",
    "\U0001f1e9", "\U0001f1ea", "\U0001f600", "\U0001f3fd", "\u24c2", "\u2139", "\ud55c", "\u0939", "\u093f", "don't", "3,000.5",
    "\U0001f468\u200d\U0001f469", "e\u0301", "\u0130", "\U0001d11e", "\u0600", "\uff11", "\u2018",
]  # fmt: skip


# the classes


def build_table() -> np.ndarray:
    """Return the class of each code point by the package `regex`, uint8[0x110000]."""
    letters = "".join(chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000)
    table = np.zeros(sys.maxunicode + 1, np.uint8)

    def fill(pattern: str, name: str) -> None:
        for letter in regex.findall(pattern, letters):
            table[ord(letter)] = CLASSES.index(name)

    fill(r"[\p{White_Space}\p{Cc}\p{Cf}]", "Invisible")
    fill(r"\p{ExtPict}", "Pictographic")
    for name in set(CLASSES) - {*OWN_PROPERTIES}:
        fill(rf"\p{{WB={name}}}", name)
    fill(r"(?=\p{ExtPict})\p{WB=ALetter}", "Pictographic_ALetter")
    return table


def print_table() -> None:
    """Print the table as the lines of a string in Python."""
    table = build_table()
    starts = np.append(0, np.flatnonzero(np.diff(table)) + 1)
    runs = np.diff(np.append(starts, len(table))).astype("<u4") * 32 + table[starts]
    for line in textwrap.wrap(base64.b85encode(zlib.compress(runs.astype("<u4").tobytes(), 9)).decode(), 112):
        print(f'    "{line}"')


@cache
def find_class(letter: str) -> str:
    """Return the value of Word_Break of a letter."""
    names = set(CLASSES) - {*OWN_PROPERTIES}
    return next((name for name in names if regex.match(rf"\p{{WB={name}}}", letter)), "Other")


@cache
def is_pictographic(letter: str) -> bool:
    return bool(regex.match(r"\p{ExtPict}", letter))


@cache
def is_invisible(letter: str) -> bool:
    """Return whether a letter begins no token: white space, a control character, or one that only formats."""
    mark = find_class(letter)
    return (mark == "Other" and bool(regex.match(r"[\p{White_Space}\p{Cc}\p{Cf}]", letter))) or mark in (
        *LINE_ENDS, "WSegSpace", "Format", "ZWJ"
    )  # fmt: skip


# the oracle


def find_words(text: str) -> list[str]:
    """Return the segments of a text that do not begin with white space or an invisible character."""
    segments: list[str] = []
    for place, letter in enumerate(text):
        after_space = segments and is_invisible(segments[-1][0])
        if segments and not is_boundary(text, place) and not (after_space and is_pictographic(letter)):
            segments[-1] += letter
        else:
            segments.append(letter)
    return [segment for segment in segments if not is_invisible(segment[0])]


def is_boundary(text: str, place: int) -> bool:
    """Return whether a boundary is before a place that is neither the start nor the end of a text."""
    raw, here = find_class(text[place - 1]), find_class(text[place])
    if raw == "CR" and here == "LF":
        return False  # WB3
    if raw in LINE_ENDS or here in LINE_ENDS:
        return True  # WB3a, WB3b
    if raw == "ZWJ" and is_pictographic(text[place]):
        return False  # WB3c
    if raw == here == "WSegSpace":
        return False  # WB3d
    if here in MARKS:
        return False  # WB4
    before = list(skip_marks(text, range(place - 1, -1, -1)))
    after = list(skip_marks(text, range(place + 1, len(text))))[:1]
    one, two, next_one = before[0], before[1] if len(before) > 1 else "", after[0] if after else ""
    letter, number = ("ALetter", "Hebrew_Letter"), ("Numeric",)
    in_word, in_number = ("MidLetter", "MidNumLet", "Single_Quote"), ("MidNum", "MidNumLet", "Single_Quote")
    joined = (
        (one in letter and here in letter)  # WB5
        or (one in letter and here in in_word and next_one in letter)  # WB6
        or (two in letter and one in in_word and here in letter)  # WB7
        or (one == "Hebrew_Letter" and here == "Single_Quote")  # WB7a
        or (one == "Hebrew_Letter" and here == "Double_Quote" and next_one == "Hebrew_Letter")  # WB7b
        or (two == "Hebrew_Letter" and one == "Double_Quote" and here == "Hebrew_Letter")  # WB7c
        or (one in number and here in number)  # WB8
        or (one in letter and here in number)  # WB9
        or (one in number and here in letter)  # WB10
        or (two in number and one in in_number and here in number)  # WB11
        or (one in number and here in in_number and next_one in number)  # WB12
        or (one == here == "Katakana")  # WB13
        or (one in (*letter, *number, "Katakana", "ExtendNumLet") and here == "ExtendNumLet")  # WB13a
        or (one == "ExtendNumLet" and here in (*letter, *number, "Katakana"))  # WB13b
    )
    if one == here == "Regional_Indicator":  # WB15, WB16
        run = next((i for i, name in enumerate(before) if name != "Regional_Indicator"), len(before))
        return run % 2 == 0
    return not joined


def skip_marks(text: str, places: Iterable[int]) -> Iterator[str]:
    """Yield the classes of the characters at places, without the marks that belong to the character before them."""
    for place in places:
        name = find_class(text[place])
        if name not in MARKS or place == 0 or find_class(text[place - 1]) in LINE_ENDS:
            yield name


# the comparison


def compare(texts: list[str], expected: Callable[[str], list[str]]) -> None:
    """Compare the project's words with others.

    Raises:
        AssertionError: they differ.
    """
    got = split_words(pa.array(texts, TEXT))
    got.validate(full=True)
    for text, tokens in zip(texts, got.to_pylist(), strict=True):
        if tokens != expected(text):
            raise AssertionError(f"{text!r}: expected {expected(text)}, got {tokens}")
    letters = split_characters(pa.array(texts, TEXT)).to_pylist()
    for text, tokens in zip(texts, letters, strict=True):
        kept = "".join(tokens)
        lost = [letter for letter in text if letter not in kept and not is_invisible(letter)]
        if any(find_class(letter) not in MARKS for letter in lost) or any(is_invisible(token[0]) for token in tokens):
            raise AssertionError(f"{text!r}: expected all visible characters, got {tokens}")


def draw_texts(draw: random.Random, count: int) -> list[str]:
    """Return texts of pieces that the rules treat differently, and of any letters."""
    return [
        "".join(
            draw.choice(PIECES) if draw.random() < 0.95 else chr(draw.choice([draw.randrange(0xD800), draw.randrange(0xE000, 0x110000)]))
            for _ in range(draw.randrange(12))
        )
        for _ in range(count)
    ]  # fmt: skip


def run_campaign(texts: int, seed: int, *, expected: Callable[[str], list[str]] = find_words) -> int:
    """Compare random texts, a column of some at a time, and return how many."""
    done = 0
    while done < texts:
        draw = random.Random(f"{seed}:{done}")
        column = draw_texts(draw, min(draw.choice([1, 2, 50, 500]), texts - done))
        compare(column, expected)
        done += len(column)
    return done


def keep_visible(segments: Iterable[str]) -> list[str]:
    """Return those of all segments that the project keeps; an emoji after white space and a joiner is cut off."""
    kept = []
    for segment in segments:
        visible = segment
        while visible and is_invisible(visible[0]):
            visible = visible[1:]
        if visible == segment or (visible and is_pictographic(visible[0])):
            kept.append(visible)
    return kept


def compare_with_file(path: Path) -> int:
    """Compare with the segments that `WordBreakTest.txt` of Unicode states, and return how many cases it has."""
    cases = {}
    for line in path.read_text("utf-8").splitlines():
        stated = line.partition("#")[0].strip().strip("\u00f7").strip()
        if stated:
            parts = [
                "".join(chr(int(code, 16)) for code in part.split(" \u00d7 ")) for part in stated.split(" \u00f7 ")
            ]
            cases["".join(parts)] = keep_visible(parts)
    compare(list(cases), cases.__getitem__)
    return len(cases)


def main() -> None:
    """Run the campaign, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--test-file", type=Path)
    parser.add_argument("--uniseg", action="store_true")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        print_table()
        return
    started = time.perf_counter()
    expected = find_words
    if options.uniseg:
        from uniseg.wordbreak import words

        def expected(text: str) -> list[str]:
            return keep_visible(words(text))

    differ = int((build_table() != class_table()).sum())
    print(f"{run_campaign(options.texts, options.seed, expected=expected):,} texts, {differ} letters of another class")
    if options.test_file:
        print(f"{compare_with_file(options.test_file):,} cases of {options.test_file.name}")
    print(f"no difference, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
