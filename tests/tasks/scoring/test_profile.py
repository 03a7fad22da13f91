"""The profile of scored texts."""

import numpy as np

from tasks.scoring.profile import Counts, add_counts, make_profile, profile_texts


def test_counts_of_parts_give_the_profile_of_the_whole() -> None:
    scores, lengths, unknown = np.array([0.5, 0.97, 1.0, 0.52]), np.array([0, 5, 9000, 1]), np.array([0, 1, 9000, 0])
    labels = ["a", "b", "b", "b"]
    whole = profile_texts(labels, scores, lengths, unknown)
    parts: Counts = {}
    for part in (slice(0, 1), slice(1, 4)):
        add_counts(parts, profile_texts(labels[part], scores[part], lengths[part], unknown[part]))
    assert make_profile(parts).equals(make_profile(whole))
    rows = make_profile({**whole, "rejected": {"empty_text": 2}}).to_pylist()
    found = [(row["measure"], row["value"], row["low"], row["high"], row["count"]) for row in rows]
    assert found == [
        ("tokens", None, 0.0, 1.0, 1),
        ("tokens", None, 1.0, 2.0, 1),
        ("tokens", None, 4.0, 6.0, 1),
        ("tokens", None, 4096.0, None, 1),
        ("unknown_share", None, 0.0, 0.05, 1),
        ("unknown_share", None, 0.2, 0.25, 1),
        ("unknown_share", None, 1.0, None, 1),
        ("confidence", None, 0.5, 0.55, 2),
        ("confidence", None, 0.95, 1.0, 1),
        ("confidence", None, 1.0, None, 1),
        ("label", "b", None, None, 3),
        ("label", "a", None, None, 1),
        ("rejected", "empty_text", None, None, 2),
    ]


def test_a_model_that_tells_no_tokens_has_a_profile_without_them() -> None:
    assert set(profile_texts(["a"], np.array([0.5]), None, None)) == {"label", "confidence"}
