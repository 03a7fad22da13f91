"""Generated texts of two kinds, as samples."""

import numpy as np
import pyarrow as pa

from tasks.monitoring.sample import Answers, draw_sample

FILMS = ["film", "actor", "plot", "scene", "director", "story", "comedy", "drama", "ending", "camera"]
BANK = ["card", "account", "transfer", "payment", "fee", "cash", "loan", "refund", "balance", "branch"]
COMMON = [f"w{number}" for number in range(60)]


def write_texts(rng: np.random.Generator, topic: list[str], count: int) -> list[str]:
    """Return texts of twelve words, three of them of the topic."""
    return [" ".join([*rng.choice(topic, 3), *rng.choice(COMMON, 9)]) for _ in range(count)]


def make_sample(texts: list[str], rng: np.random.Generator, *, first_row: int = 0, **changes) -> pa.Table:
    """Return the sample of texts with answers of a model that is right as often as it is sure."""
    confidence = rng.uniform(0.5, 1.0, len(texts))
    answers = Answers(
        labels=rng.choice(["good", "bad"], len(texts)).tolist(),
        confidence=confidence,
        tokens=np.full(len(texts), 12) + rng.integers(0, 5, len(texts)),
        unknown=rng.integers(0, 3, len(texts)),
        correct=rng.uniform(size=len(texts)) < confidence,
    )._replace(**changes)
    rows = np.arange(first_row, first_row + len(texts))
    return draw_sample(pa.array(texts, pa.large_string()), rows, answers, seed=1)
