"""Write words of a corpus into CSV and Markdown, so that they are shown and never run as a formula, link or HTML.

Imports only the standard library; reads and writes nothing.
"""

import re
from typing import Any

_FORMULA = re.compile(r"[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")  # the last four: full-width =, +, -, @
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MARKDOWN = re.compile(r"[\\`*_{}\[\]#!|~$]")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def escape_cell(value: Any) -> Any:
    """Return a value for a cell of a CSV file that people may open as a spreadsheet.

    A text that a spreadsheet would take for a formula gets an apostrophe in front, which makes it a text there. Texts
    that are numbers, such as `-0.5`, and values of other types stay as they are.
    """
    if not isinstance(value, str) or not _FORMULA.match(value) or _NUMBER.fullmatch(value):
        return value
    return f"'{value}"


def escape_markdown(text: str) -> str:
    """Return a text as Markdown that shows it, on one line, in a table cell too.

    `<`, `>`, `&` and `@` become entities, since not every renderer accepts a backslash before them.
    """
    line = " ".join("".join(char if char.isprintable() else " " for char in text).split())
    escaped = _MARKDOWN.sub(r"\\\g<0>", line)
    return re.sub("[&<>@]", lambda found: _ENTITIES[found.group()], escaped)
