"""The reference of a registered version: the sample of its held-out documents, in a file of its bundle.

It is made when a version is registered, from verified outputs, and covered by the digest of the version. So every
version is compared with its own documents, and a promotion changes what later windows are compared with.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import UnusableModelError
from pipeline_config.schemas import DOCUMENTS_FILE, PREDICTIONS_FILE, REFERENCE_FILE
from tasks.corpus.hashing import mix_hashes
from tasks.monitoring.sample import LARGEST, Answers, draw_sample, read_sample
from tasks.runtime.arrow import whole_column
from tasks.served.text import normalize_texts
from tasks.served.tokenizers import load_tokenizer
from tasks.store.artifacts import ArtifactRef
from tasks.tokens.vocabulary import Vocabulary

_SEED = 0
_PART = 500  # documents that are tokenized at once


def make_reference(
    documents: ArtifactRef, evaluation: ArtifactRef, vocabulary: ArtifactRef, tokenizer: str
) -> pa.Table:
    """Return the sample of the test and validation documents, with their predicted labels."""
    rows = documents.read_table(DOCUMENTS_FILE, ["doc_id", "text", "split"])
    rows = rows.filter(pc.not_equal(rows["split"], "train"))
    ids = rows["doc_id"].to_numpy()
    chosen = np.argsort(mix_hashes(ids, _SEED), kind="stable")[:LARGEST]  # the same as `draw_sample` draws
    texts, ids = whole_column(rows["text"]).take(pa.array(chosen)), ids[chosen]
    tokens, unknown = count_tokens(texts, tokenizer, Vocabulary.read(vocabulary))
    predictions = evaluation.read_table(PREDICTIONS_FILE)
    order = np.argsort(predictions["doc_id"].to_numpy(), kind="stable")
    places = order[np.searchsorted(predictions["doc_id"].to_numpy()[order], ids)]
    predictions = predictions.take(pa.array(places))
    answers = Answers(
        labels=predictions["prediction"].to_pylist(),
        confidence=np.max([column.to_numpy() for column in predictions.columns[4:]], axis=0),
        tokens=tokens,
        unknown=unknown,
        correct=pc.equal(predictions["prediction"], predictions["label"]).to_numpy(),
    )
    return draw_sample(texts, ids, answers, seed=_SEED)


def count_tokens(texts: pa.Array, tokenizer: str, vocabulary: Vocabulary) -> tuple[np.ndarray, np.ndarray]:
    """Return the tokens of each text, before it is cut, and how many of them are not in the vocabulary, int64[N]."""
    tokenize = load_tokenizer(tokenizer)
    known = pa.array(vocabulary.itos[vocabulary.specials :], pa.large_string())
    lengths, unknown = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for start in range(0, len(texts), _PART):
        tokens = tokenize(normalize_texts(texts.slice(start, _PART)))
        ends = tokens.offsets.to_numpy() - tokens.offsets[0].as_py()
        is_known = pc.is_in(tokens.flatten(), value_set=known).to_numpy(zero_copy_only=False)
        lengths.append(np.diff(ends))
        unknown.append(np.diff(np.concatenate([[0], np.cumsum(~is_known)])[ends]))
    return np.concatenate(lengths), np.concatenate(unknown)


def read_reference(bundle: Path) -> pa.Table:
    """Return the reference that a bundle holds.

    Raises:
        UnusableModelError: it holds none, because an older release made it.
    """
    try:
        return read_sample(bundle / REFERENCE_FILE)
    except (OSError, ValueError) as error:
        raise UnusableModelError(
            f"it has no usable profile of its held-out documents ({REFERENCE_FILE}), as versions of older releases; "
            "`gloveflow run` registers one that has"
        ) from error
