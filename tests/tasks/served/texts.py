"""Odd texts, all letters of Unicode, and columns of texts."""

import sys

import pyarrow as pa

from tasks.served.text import TEXT

LETTERS = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]


ODD = [
    "",
    " ",
    "\t\n",
    '"',
    '"""',
    "'",
    "''",
    ".",
    "...",
    "a",
    " a ",
    "a  b",
    "Don't stop; can't: won't.",
    'He said: "Yes!" (twice)?',
    "<br />",
    "<br/>",
    "<BR />",
    "<br /><br />Great<br />",
    "<br  />",
    "<b'r />",
    '<br" />',
    "<br .../>",
    "3.14,15",
    "e-mail me@example.com",
    "\u039f\u0394\u03a5\u03a3\u03a3\u0395\u03a5\u03a3",  # final sigma
    "\u03a3",
    "A\u03a3.",
    "\u03a3\u03a3 \u03a3",
    "\u0130STANBUL",
    "I\u0307",
    "STRASSE Stra\u00dfe \u1e9e",
    "\u01c5 \u01c4",
    "\u0345\u0399",
    "a\u00a0b",
    "a\u2028b\u0085c",
    "a\u200bb",
    "a\ufeffb",
    "a\x00b",
    "a\x1cb\x1fc",
    "\U0001f600\U0001f1e9\U0001f1ea",
    "\U00010400",
    "\ua7dc\ua7cb",
    "\u1c89\u1c8a",
    "cafe\u0301",
    "<unk> <pad>",
    "x" * 10_000,
]


def column(texts: list[str]) -> pa.Array:
    return pa.array(texts, TEXT)
