"""Which tokens decided: a sample of right and wrong test predictions with the weight of each token.

Touches no file. The weights themselves are computed by `tasks.served.attribution`.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.analysis import Attribution, TokenWeight
from tasks.batches.encoded_split import EncodedSplit
from tasks.runtime.cancellation import raise_if_stopped
from tasks.served.tokenizers import tokenize_texts
from tasks.tokens.vocabulary import Vocabulary

MOST_TOKENS = 400  # of a shown document; the weights are computed with all tokens
Weigh = Callable[[Sequence[str], Sequence[int], Sequence[int], int], list[float]]  # see `EncodedText`; then the class


class EncodedText(NamedTuple):
    """A document to explain: all its tokens, the positions of those that truncation kept, their ids, and its label."""

    doc_id: int
    tokens: Sequence[str]
    positions: Sequence[int]
    input_ids: Sequence[int]
    label: str


def choose_sample(label_ids: np.ndarray, probabilities: np.ndarray, *, each: int = 6) -> np.ndarray:
    """Return int64[up to 2 * each], positions of documents: right predictions, then wrong ones.

    The right ones are spread evenly over the documents, the wrong ones are those of the highest probability.

    Args:
        label_ids: int[N], the true classes.
        probabilities: float64[N, C].
        each: how many of both.
    """
    right = probabilities.argmax(axis=1) == label_ids
    rights = np.flatnonzero(right)
    wrongs = np.flatnonzero(~right)
    count = min(each, len(rights))
    spread = rights[np.arange(count) * len(rights) // max(count, 1)]
    ranked = wrongs[np.argsort(-probabilities[wrongs].max(axis=1), kind="stable")]
    return np.concatenate([spread, ranked[:each]])


def find_weigh(served: Any) -> Weigh | None:
    """Return the function with which the code of a registered model weighs tokens; None if it has none."""
    if hasattr(served, "weigh_tokens"):
        weigh: Weigh = served.weigh_tokens
        return weigh
    if not hasattr(served, "attribution"):
        return None
    attribute = served.attribution.attribute_tokens  # a version of an older release is a network alone
    return lambda _tokens, _positions, ids, target: attribute(served.network, list(map(int, ids)), target)


def attribute_documents(
    weigh: Weigh, documents: Sequence[EncodedText], labels: Sequence[str], probabilities: np.ndarray
) -> tuple[Attribution, ...]:
    """Return the weights of the tokens of documents for the class that was predicted.

    Args:
        weigh: returns the weights of the tokens of a document that truncation kept.
        documents: the documents.
        labels: names of the classes.
        probabilities: float64[documents, C], as the predictions have them.
    """
    found = []
    for document, row in zip(documents, probabilities, strict=True):
        raise_if_stopped()
        predicted = int(row.argmax())
        weights = weigh(document.tokens, document.positions, document.input_ids, predicted)
        tokens = [document.tokens[position] for position in document.positions]
        pairs = zip(tokens, weights, strict=True) if tokens else [("(no tokens)", 0.0)]
        found.append(
            Attribution(
                doc_id=document.doc_id,
                label=document.label,
                prediction=labels[predicted],
                probability=float(row[predicted]),
                tokens=tuple(TokenWeight(token=token, weight=weight) for token, weight in pairs)[:MOST_TOKENS],
            )
        )
    return tuple(found)


def match_tokens(input_ids: Sequence[int], token_ids: Sequence[int]) -> list[int]:
    """Return the positions of the tokens that truncation kept of a document.

    Args:
        input_ids: the ids after truncation; a document without tokens has one unknown token.
        token_ids: the ids of all tokens of the document.

    Raises:
        ValueError: the ids are not those of the tokens under any truncation.
    """
    if not len(token_ids):
        return []
    kept, wanted, whole = len(input_ids), list(map(int, input_ids)), len(token_ids)
    for head in (kept, 0, (kept + 1) // 2):
        positions = [*range(head), *range(whole - (kept - head), whole)]
        if [token_ids[position] for position in positions] == wanted:
            return positions
    raise ValueError(f"expected {kept} token ids of a document with {whole} tokens, got others")


def encode_documents(
    split: EncodedSplit, positions: np.ndarray, texts: Mapping[int, str], vocabulary: Vocabulary, labels: Sequence[str]
) -> list[EncodedText]:
    """Return documents of a split with their tokens as the tokenizer makes them.

    Args:
        split: the split.
        positions: int64, the documents in it.
        texts: their texts by `doc_id`.
        vocabulary: that of the split.
        labels: names of the classes.
    """
    doc_ids = split.doc_ids[positions].tolist()
    tokenized = tokenize_texts([texts[i] for i in doc_ids], vocabulary.tokenizer.partition(" ")[0])
    found = []
    for place, doc_id, tokens in zip(positions, doc_ids, tokenized, strict=True):
        ids = split.input_ids[split.offsets[place] : split.offsets[place + 1]].tolist()
        token_ids = vocabulary.encode(pa.array(tokens, pa.large_string())).tolist()
        found.append(EncodedText(doc_id, tokens, match_tokens(ids, token_ids), ids, labels[split.label_ids[place]]))
    return found
