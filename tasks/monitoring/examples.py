"""What gives a change away: words by name, and texts."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from tasks.monitoring.domain_classifier import Distinction
from tasks.monitoring.sample import hash_word_bits, split_words

MOST = 15  # words of each kind, and texts


class NamedShift(NamedTuple):
    """A word, and the share of the texts that have it in reference and window; the word is None if nothing names it."""

    word: str | None
    reference: float
    window: float


class Example(NamedTuple):
    """A text that is unlike the reference, with its answer and the output that it is in."""

    text: str
    label: str
    confidence: float
    output: str


def name_words(
    found: Distinction, texts: Sequence[str | None], vocabulary: Iterable[str]
) -> tuple[list[NamedShift], list[NamedShift]]:
    """Return the words that came up and those that went away, the most telling first.

    Args:
        found: how the window was told from the reference.
        texts: of the window, as far as they are known; they name new words.
        vocabulary: the tokens of the model, which name the others.
    """
    names = {hash_word_bits(word): word for word in vocabulary}
    there = pa.array([text for text in texts if text], pa.large_string())
    names |= {hash_word_bits(word): word for word in split_words(there).flatten().unique().to_pylist()}
    named = [NamedShift(names.get(shift.word), shift.reference, shift.window) for shift in found.words]
    more = [shift for shift in named if shift.window > shift.reference]
    return more[:MOST], [shift for shift in named if shift.window < shift.reference][:MOST]


def choose_examples(
    found: Distinction, texts: Sequence[str | None], sample: pa.Table, outputs: Sequence[str]
) -> list[Example]:
    """Return the texts of a window that are least like the reference, each once."""
    chosen: dict[str, Example] = {}
    for place in np.argsort(-found.scores, kind="stable").tolist():
        text = texts[place]
        if text is not None and text not in chosen:
            row = sample.slice(place, 1).to_pylist()[0]
            chosen[text] = Example(text, row["label"], row["confidence"], outputs[row["scoring"]])
        if len(chosen) == MOST:
            break
    return list(chosen.values())
