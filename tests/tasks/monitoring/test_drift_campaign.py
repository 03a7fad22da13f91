"""A few windows of the campaign, on generated texts."""

import numpy as np

from tests.campaigns.drift import play, read_corpora
from tests.tasks.monitoring.texts import BANK, FILMS, write_texts


def test_mixed_windows_are_found_and_quiet_ones_are_not() -> None:
    rng = np.random.default_rng(0)
    base = write_texts(rng, FILMS, 1500)
    labels = ["good" if "comedy" in text or "story" in text else "bad" for text in base]
    corpora = read_corpora((base, labels), write_texts(rng, BANK, 300), seed=1)
    assert play(corpora, size=300, share=0.1, trials=5, seed=2).changed == 5
    assert play(corpora, size=100, share=0.0, trials=10, seed=3).changed == 0
