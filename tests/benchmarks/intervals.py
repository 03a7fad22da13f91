"""Time of the bootstrap intervals of all scores: `python -m tests.benchmarks.intervals`, on one core."""

import time

import numpy as np
from sklearn.metrics import confusion_matrix

from tasks.evaluation.calibration import Reliability, soften
from tasks.evaluation.intervals import RESAMPLES, confusion_intervals
from tasks.evaluation.metrics import SplitAnswers, measure_intervals

DOCUMENTS = 25_000


def main() -> None:
    """Print the processor time for splits with several numbers of classes."""
    for classes in (2, 3, 20):
        generator = np.random.Generator(np.random.PCG64(0))
        labels = generator.integers(0, classes, DOCUMENTS)
        logits = 2 * generator.standard_normal((DOCUMENTS, classes))
        logits[np.arange(DOCUMENTS), labels] += 3
        answers = SplitAnswers(np.arange(DOCUMENTS), labels, soften(logits, 1.0))
        confusion = confusion_matrix(labels, answers.predicted)
        reliability = Reliability.of(labels, answers.probabilities)
        begin = time.process_time()
        confusion_intervals(confusion)
        measure_intervals(answers, reliability)
        seconds = time.process_time() - begin
        print(f"{RESAMPLES:,} resamples of {DOCUMENTS:,} documents of {classes} classes: {seconds:.2f} s")


if __name__ == "__main__":
    main()
