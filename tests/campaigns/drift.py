"""How often monitoring calls a quiet window changed, and how often it finds a tenth of other texts.

`python -m tests.campaigns.drift BASE.parquet OTHER.parquet` reads two corpora with the columns `text` and `label`. A
linear classifier, fitted on a part of BASE, gives labels and confidence. The rest of BASE is shuffled anew for every
trial and cut into a reference and a window. What has to hold: of 1,000 quiet windows of 100, 500 and 5,000 texts, at
most 1 % are called changed; of windows of 500 texts, 50 of them of OTHER, at least 95 % are; a window of 10,000 texts is
compared in 10 s and 500 MiB.
"""

import argparse
import multiprocessing
import resource
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.monitoring.drift import compare_samples
from tasks.monitoring.sample import LARGEST, Answers, draw_sample, split_words

QUIET_SIZES = (100, 500, 5000)
MIXED_SIZE, MIXED_SHARE = 500, 0.1
MOST_ALARMS, FEWEST_FOUND = 0.01, 0.95
FITTED_SHARE = 0.2
WINDOW = 10_000  # texts whose comparison is timed


class Corpora(NamedTuple):
    """The texts of both corpora as a sample has them, without those that the classifier was fitted on."""

    base: pa.Table
    other: pa.Table


class Count(NamedTuple):
    """Trials, those called changed, and how often each test said so."""

    trials: int
    changed: int
    tests: Counter[str]


def read_corpora(base: tuple[list[str], list[str]], other: list[str], seed: int) -> Corpora:
    """Return both corpora with the answers of a classifier that is fitted on a part of the first."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    order = np.random.default_rng(seed).permutation(len(base[0]))
    fitted = order[: int(FITTED_SHARE * len(order))]
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=1000))
    model.fit([base[0][i] for i in fitted], [base[1][i] for i in fitted])
    words = split_words(pa.array([base[0][i] for i in fitted], pa.large_string())).flatten()
    counts = words.value_counts()
    known = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    rest = [base[0][i] for i in order[len(fitted) :]]
    return Corpora(_describe(rest, model, known), _describe(other, model, known))


def _describe(texts: Sequence[str], model: object, known: pa.Array) -> pa.Table:
    probabilities = model.predict_proba(texts)
    tokens = split_words(pa.array(texts, pa.large_string()))
    ends = tokens.offsets.to_numpy()
    seen = pc.is_in(tokens.flatten(), known).to_numpy(zero_copy_only=False)
    unknown = np.concatenate([[0], np.cumsum(~seen)])
    answers = Answers(
        [str(label) for label in model.classes_[probabilities.argmax(axis=1)]],
        probabilities.max(axis=1),
        np.diff(ends),
        np.diff(unknown[ends]),
    )
    parts = []
    for start in range(0, len(texts), LARGEST):
        rows = np.arange(start, min(start + LARGEST, len(texts)))
        part = Answers(answers.labels[rows[0] : rows[-1] + 1], *(values[rows] for values in answers[1:4]))
        parts.append(draw_sample(pa.array([texts[i] for i in rows], pa.large_string()), rows, part, seed=0))
    return pa.concat_tables(parts).combine_chunks()


def play(corpora: Corpora, *, size: int, share: float, trials: int, seed: int) -> Count:
    """Compare windows with references of the same corpus, a share of the windows' texts being of the other."""
    rng = np.random.default_rng(seed)
    mixed, changed, tests = int(size * share), 0, Counter[str]()
    for trial in range(trials):
        order = rng.permutation(len(corpora.base))
        reference = corpora.base.take(order[size : size + LARGEST])
        others = corpora.other.take(rng.permutation(len(corpora.other))[:mixed])
        window = pa.concat_tables([corpora.base.take(order[: size - mixed]), others])
        found = compare_samples(reference, window, seed=seed + trial)
        changed += found.changed
        tests.update(shift.measure for shift in found.shifts if shift.changed)
    return Count(trials, changed, tests)


def measure_cost(base: list[str], other: list[str]) -> tuple[float, float]:
    """Return seconds and largest memory in MiB of a process that compares 10,000 texts with 10,000 of another corpus."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_compare_once, ([(texts * (WINDOW // len(texts) + 1))[:WINDOW] for texts in (base, other)],))


def _compare_once(corpora: list[list[str]]) -> tuple[float, float]:
    started = time.perf_counter()
    samples = []
    for texts in corpora:
        answers = Answers(["a"] * len(texts), np.full(len(texts), 0.5))
        samples.append(draw_sample(pa.array(texts, pa.large_string()), np.arange(len(texts)), answers, seed=0))
    compare_samples(*samples)
    return time.perf_counter() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    """Play all trials from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", type=Path)
    parser.add_argument("other", type=Path)
    parser.add_argument("--trials", type=int, default=1000, help="of each size of quiet windows")
    parser.add_argument("--mixed", type=int, default=200, help="trials with other texts")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    table, other = pq.read_table(options.base), pq.read_table(options.other, columns=["text"])["text"].to_pylist()
    texts = table["text"].to_pylist()
    corpora = read_corpora((texts, table["label"].to_pylist()), other, options.seed)
    failed = False
    quiet = [(size, 0.0, options.trials) for size in QUIET_SIZES]
    for size, share, trials in [(MIXED_SIZE, MIXED_SHARE, options.mixed), *quiet]:
        count = play(corpora, size=size, share=share, trials=trials, seed=options.seed)
        rate = count.changed / count.trials
        failed |= rate < FEWEST_FOUND if share else rate > MOST_ALARMS
        what = f"{share:.0%} of other texts" if share else "quiet"
        print(f"{size:5,} texts, {what:20} changed {count.changed} of {count.trials}: {dict(count.tests)}", flush=True)
    seconds, memory = measure_cost(texts, other)
    print(f"{WINDOW:,} texts, all of the other corpus: {seconds:.1f} s, {memory:.0f} MiB")
    raise SystemExit(failed or seconds > 10 or memory > 500)


if __name__ == "__main__":
    main()
