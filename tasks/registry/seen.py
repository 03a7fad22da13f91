"""The texts that a version was trained on, as hashes in a file of its bundle: a test on them would measure memory.

Train and validation texts both count, because validation chose the epoch. The file holds the first 64 bits of the
hash of each text, sorted, as little-endian numbers. Texts that differ only in case and white space have one hash.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.errors import UnusableModelError
from pipeline_config.schemas import TRAINING_TEXTS_FILE
from tasks.corpus.hashing import hash_texts
from tasks.runtime.arrow import whole_column

_NUMBER = np.dtype("<u8")


def hash_documents(texts: pa.ChunkedArray | Sequence[str]) -> np.ndarray:
    """Return uint64[N], a hash for each text."""
    column = whole_column(texts) if isinstance(texts, pa.ChunkedArray) else pa.array(texts, pa.large_string())
    return np.frombuffer(b"".join(digest[:8] for digest in hash_texts(column)), _NUMBER)


def hash_training_texts(documents: pa.Table) -> np.ndarray:
    """Return uint64[N], sorted: the hashes of the texts of the train and validation splits."""
    return np.unique(hash_documents(documents.filter(pc.not_equal(documents["split"], "test"))["text"]))


def write_training_texts(path: Path, hashes: np.ndarray) -> None:
    """Write sorted hashes to a file."""
    path.write_bytes(hashes.astype(_NUMBER).tobytes())


def read_training_texts(bundle: Path) -> np.ndarray:
    """Return the hashes that a bundle holds.

    Raises:
        UnusableModelError: it holds none, because an older release made it.
    """
    path = bundle / TRAINING_TEXTS_FILE
    try:
        return np.frombuffer(path.read_bytes(), _NUMBER)
    except (OSError, ValueError) as error:
        raise UnusableModelError(
            f"it has no usable list of its training texts ({TRAINING_TEXTS_FILE}), as versions of older releases; so "
            "it may have been trained on texts of this test split"
        ) from error


def find_seen(hashes: np.ndarray, training_texts: np.ndarray) -> np.ndarray:
    """Return bool[N]: which texts are among sorted training texts, by their hashes."""
    if not len(training_texts):
        return np.zeros(len(hashes), bool)
    places = np.minimum(np.searchsorted(training_texts, hashes), len(training_texts) - 1)
    return np.asarray(training_texts[places] == hashes)
