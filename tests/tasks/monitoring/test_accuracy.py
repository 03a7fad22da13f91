"""Accuracy without labels."""

import numpy as np
import pyarrow as pa
import pytest

from tasks.monitoring.accuracy import estimate_accuracy
from tests.tasks.monitoring.texts import FILMS, make_sample, write_texts


def sample(confidence: list[float], correct: list[bool] | None = None) -> pa.Table:
    columns = {"confidence": confidence, "correct": correct or [None] * len(confidence)}
    return pa.table(columns, pa.schema({"confidence": pa.float64(), "correct": pa.bool_()}))


def test_three_estimates_worked_out_by_hand() -> None:
    reference = sample([0.5, 0.6, 0.8, 0.9, 1.0], [False, True, True, False, True])  # accuracy 0.6, confidence 0.76
    found = estimate_accuracy(reference, sample([0.55, 0.7, 0.85, 0.9]))  # confidence 0.75
    assert found.before == pytest.approx(0.6)
    assert found.average_confidence == pytest.approx(0.75)
    assert found.confidence_difference == pytest.approx(0.59)
    assert found.confident_share == pytest.approx(0.5)  # 2 of 5 are wrong, so 0.8 is the threshold
    assert found.low == pytest.approx(max(0.0, 0.5 - 1.96 * (0.25 * (1 / 5 + 1 / 4)) ** 0.5))
    assert found.high == 1.0
    assert not found.lower


def test_the_band_holds_the_accuracy_of_harder_texts() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(20):
        reference = make_sample(write_texts(rng, FILMS, 600), rng)
        confidence = rng.uniform(0.5, 0.7, 300)
        window = make_sample(write_texts(rng, FILMS, 300), rng, confidence=confidence)
        found = estimate_accuracy(reference, window)
        truth = (rng.uniform(size=300) < confidence).mean()
        inside += found.low <= truth <= found.high
        assert found.lower
    assert inside >= 18


def test_nothing_is_said_without_texts_or_without_labels() -> None:
    assert estimate_accuracy(sample([0.5], [True]), sample([])) is None
    assert estimate_accuracy(sample([0.5]), sample([0.5])) is None
    assert estimate_accuracy(sample([0.9, 0.8], [False, False]), sample([0.7])).confident_share == 0.0
