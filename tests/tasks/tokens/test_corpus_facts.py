"""Facts of a corpus: by hand, and the usual length against a search over all lengths."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.tokens.corpus_facts import describe_lengths, find_usual_length, measure_corpus


def shard(*documents: tuple[str, str, int]) -> pa.Table:
    split, label, length = zip(*documents, strict=True)
    return pa.table({"split": split, "label": label, "length": pa.array(length, pa.int32())})


def test_only_train_documents_count():
    shards = [
        shard(("train", "a", 3), ("test", "c", 900), ("train", "b", 5)),
        shard(("validation", "d", 900)),
        shard(("train", "a", 0)),
    ]
    facts = measure_corpus(shards)
    assert (facts.documents, facts.classes, facts.tokens, facts.usual_length) == (3, 2, 8, 5)


@pytest.mark.parametrize("share", [0.5, 0.98, 1.0])
def test_usual_length_is_the_smallest_that_keeps_the_share(share):
    draw = np.random.default_rng(0)
    for _ in range(100):
        lengths = draw.integers(0, 40, draw.integers(1, 60))
        found = find_usual_length(lengths, share)
        kept = [np.minimum(lengths, length).sum() for length in range(41)]
        assert found == max(1, next(i for i, tokens in enumerate(kept) if tokens >= share * lengths.sum()))


def test_a_corpus_without_tokens_has_facts():
    assert describe_lengths(np.zeros(2, np.int64), classes=2).usual_length == 1
