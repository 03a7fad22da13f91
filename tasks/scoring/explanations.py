"""The tokens of texts that weighed most for their labels, with the code that a model carries for this.

One thread computes them, one text after the other: gradients of oneDNN's LSTM that two threads compute at once are not
always the same.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from pipeline_config.errors import InputError
from tasks.evaluation.attribution import find_weigh
from tasks.runtime.cancellation import raise_if_stopped

EXPLANATIONS = pa.list_(pa.struct([pa.field("token", pa.string()), pa.field("weight", pa.float64())]))
MOST_EXPLAINED = 100  # tokens of a text
PART = "attribution"  # of a model's code: what computes the weights
_DIGITS = 4  # of a weight, behind the point


def explain_labels(served: Any, tokens: Sequence[list[str]], targets: np.ndarray, count: int) -> pa.Array:
    """Return the tokens of texts that weighed most, an array of `EXPLANATIONS`; none for a text without tokens.

    Args:
        served: the loaded object of the model's code.
        tokens: of each text.
        targets: int64[N], the class of each text.
        count: the largest number of tokens of a text.
    """
    options, found, weigh = served.text, [], find_weigh(served)
    longest = options["max_length"]
    head = {"head": longest, "tail": 0, "head_tail": (longest + 1) // 2}[options["truncation"]]
    for words, target in zip(tokens, targets.tolist(), strict=True):
        raise_if_stopped()
        positions = list(range(len(words)))
        if len(words) > longest:
            positions = positions[:head] + positions[len(words) - (longest - head) :]
        read = [words[position] for position in positions]
        ids = [served.token_ids.get(word, options["unk_idx"]) for word in read]
        weights = weigh(words, positions, ids, target) if weigh and ids else []
        found.append(choose_tokens(read, weights, count))
    return pa.array(found, EXPLANATIONS)


def choose_tokens(tokens: Sequence[str], weights: Sequence[float], count: int) -> list[dict[str, Any]]:
    """Return the tokens with the largest weights, for the label or against it, the largest first.

    A token that occurs several times has the sum of its weights. Of equal ones the first in the text comes first.
    """
    sums: dict[str, float] = {}
    for token, weight in zip(tokens, weights, strict=True):
        sums[token] = sums.get(token, 0.0) + weight
    ranked = sorted(sums.items(), key=lambda item: -abs(item[1]))[:count]
    return [{"token": token, "weight": round(weight, _DIGITS)} for token, weight in ranked]


def require_explaining(uri: str, *, explains: bool) -> None:
    """Find out whether a version explains its labels.

    Raises:
        InputError: it does not.
    """
    if not explains:
        raise InputError(
            f"--explain: {uri} was registered by a release whose models explain nothing; `gloveflow run` registers one "
            "that does"
        )
