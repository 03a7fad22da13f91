"""The profile of a corpus, worked out by hand."""

import numpy as np
import pyarrow as pa

from tasks.corpus.profile import count_oddities, profile_documents
from tasks.corpus.splitting import TEST, TRAIN, VALIDATION, DocumentIndex, find_crossing
from tasks.served.text import normalize_texts


def test_the_profile_counts_classes_lengths_copies_conflicts_and_leaks() -> None:
    # texts: one (a), ONE (b), three (a), " one " (a), three (a), sixsix (b)
    texts, labels = np.array([0, 0, 1, 0, 1, 2], np.int32), np.array([1, 0, 1, 1, 1, 0], np.int32)
    split = np.array([TRAIN, TEST, TRAIN, VALIDATION, TEST, TEST], np.int8)
    nothing = np.full(6, -1, np.int32)
    index = DocumentIndex(np.arange(6), texts, texts.astype(np.uint64), labels, nothing, nothing, nothing)
    profile = profile_documents(
        index,
        split,
        np.array(["b", "a"], object),
        characters=np.array([3, 3, 5, 5, 5, 6]),
        crossing=find_crossing(texts, split),
        near=np.array([[0, 5], [2, 4], [1, 5], [3, 2], [1, 2], [0, 2]]),
        kept=find_crossing(texts, split) < 0,
    )
    assert profile.model_dump(mode="json") == {
        # without the copies in train and validation of texts in the test
        "documents": {"train": {}, "validation": {}, "test": {"a": 1, "b": 2}},
        "characters": {"p0": 3, "p25": 3, "p50": 5, "p75": 5, "p95": 5, "p99": 5, "p100": 6},
        "characters_histogram": [[1, 0], [2, 0], [3, 2], [4, 0], [5, 3], [6, 1]],
        "duplicates": 3,  # two of "one", one of "three"
        "conflicting_labels": 1,  # "one" is a and b
        "leaked": 3,  # "one" in train and validation, "three" in train
        "near_duplicates_leaked": 4,  # documents 5, 4 and 1 of the test, 3 of the validation
        "near_duplicate_pairs": 6,
        "imbalance": None,
    }


def test_oddities_are_counted_text_by_text() -> None:
    before = pa.array(
        ["plain <3 text\twith\nlines", "", "cafe\u0301 cafe\u0301", "\u00e9", "a\x00b\x07", "\x1b[0m", "bad \ufffd\ufffd",
         "<br /><br />", "</p>", "see https://example.org http://x", "\x7f"], pa.large_string(),
    )  # fmt: skip
    assert count_oddities(before, normalize_texts(before)) == {
        "not_nfc": 1,
        "non_ascii": 3,
        "control_characters": 3,
        "replacement_characters": 1,
        "markup": 2,
        "addresses": 1,
    }
