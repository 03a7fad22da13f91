"""A text with the weights of its tokens, in colours or with numbers."""

import os
import sys
from collections.abc import Sequence
from typing import Any

_FOR, _AGAINST = (22, 28, 34), (52, 88, 124)  # backgrounds of the 256 colours of terminals, from weak to strong
_WEAK = 0.1  # of the largest weight; tokens below it are not marked


def use_colours() -> bool:
    """Return whether standard output is a terminal and NO_COLOR is not set."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")


def mark_tokens(text: str, tokens: Sequence[dict[str, Any]], *, truncation: str, colours: bool) -> str:
    """Return a text in which the tokens that weigh most are marked.

    A green background, or `+` behind the token, speaks for the label; a red one, or `-`, against it.

    Args:
        text: the text.
        tokens: `token` and `weight` of the tokens that the model read, in their order.
        truncation: which part of a long text the model reads.
        colours: whether to mark with colours.
    """
    largest = max((abs(token["weight"]) for token in tokens), default=0.0)
    marked, at = [], 0
    for (start, end), token in zip(_find_tokens(text, tokens, truncation), tokens, strict=True):
        strength = abs(token["weight"]) / largest if largest else 0.0
        if start < at or strength < _WEAK:
            continue
        marked += [text[at:start], _mark(text[start:end], token["weight"], strength, colours=colours)]
        at = end
    return "".join([*marked, text[at:]])


def _mark(word: str, weight: float, strength: float, *, colours: bool) -> str:
    if not colours:
        return f"{word}[{weight:+.2f}]"
    shades = _FOR if weight > 0 else _AGAINST
    shade = shades[min(int(strength * len(shades)), len(shades) - 1)]
    return f"\x1b[97;48;5;{shade}m{word}\x1b[0m"


def _find_tokens(text: str, tokens: Sequence[dict[str, Any]], truncation: str) -> list[tuple[int, int]]:
    """Return where each token stands in the text; (-1, -1) for one that the tokenizer has made into something else.

    Tokens of the beginning of a long text are looked for from its beginning, those of its end from its end.
    """
    lowered = text.lower()
    if len(lowered) != len(text):  # few letters have two characters in lower case
        lowered = text
    first = {"head": len(tokens), "tail": 0, "head_tail": (len(tokens) + 1) // 2}[truncation]
    found, at = [], 0
    for token in tokens[:first]:
        start = lowered.find(token["token"], at)
        found.append((start, start + len(token["token"])) if start >= 0 else (-1, -1))
        at = max(at, found[-1][1])
    last, end = [], len(lowered)
    for token in reversed(tokens[first:]):
        start = lowered.rfind(token["token"], at, end)
        last.append((start, start + len(token["token"])) if start >= 0 else (-1, -1))
        end = start if start >= 0 else end
    return found + last[::-1]
