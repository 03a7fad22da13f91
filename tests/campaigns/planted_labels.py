"""Planted wrong labels in the corpus of a preset, and how many of them the search for wrong labels finds.

    python -m tests.campaigns.planted_labels [--preset sentiment] [--share 0.05] [--seed 0]

All labels of the corpus count as right, so precision is a lower bound: the corpus has wrong labels of its own. The
baseline of chance is the share of planted labels.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.resolve import resolve_config
from pipeline_config.schemas import DOCUMENTS_FILE
from tasks.corpus.corpus_output import write_corpus
from tasks.evaluation.mistakes import find_suspects
from tasks.reading.sources import locate_corpus
from tasks.runtime.arrow import whole_column
from tasks.store.output import StageOutput
from tasks.training.train_baseline import assign_folds, build_baseline, choose_checked, predict_out_of_fold


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="sentiment")
    parser.add_argument("--share", type=float, default=0.05, help="of the labels that are made wrong")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    config = resolve_config(preset=options.preset).config
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(StageOutput(Path(folder)), locate_corpus(config.corpus), config.corpus, config.seed)
        documents = pq.read_table(Path(folder) / DOCUMENTS_FILE)
    train = documents.filter(pa.array(documents["split"].to_numpy() == "train"))
    train = train.take(pa.array(choose_checked(len(train))))
    labels = sorted(set(train["label"].to_pylist()))
    truth = np.array([labels.index(label) for label in train["label"].to_pylist()])
    generator = np.random.default_rng(options.seed)
    planted = generator.random(len(truth)) < options.share
    given = np.where(planted, (truth + generator.integers(1, len(labels), len(truth))) % len(labels), truth)
    features = build_baseline(config.baseline)[0].fit_transform(train["text"].to_pylist())
    folds = assign_folds(whole_column(train["text"]))
    names = np.array(labels, object)
    probabilities = predict_out_of_fold(features, names[given], folds, labels, config.baseline)
    suspects = find_suspects(given, probabilities)
    print(f"{len(truth):,} documents, {planted.sum():,} planted wrong labels, {len(suspects.positions):,} suspected")
    for count in (100, 300, 1000, len(suspects.positions)):
        hit = planted[suspects.positions[:count]]
        restored = suspects.suggested[:count] == truth[suspects.positions[:count]]
        print(
            f"first {len(hit):5,}: precision {hit.mean():.3f}, recall {hit.sum() / planted.sum():.3f}, "
            f"right class suggested for {restored[hit].mean():.3f} of those found"
        )


if __name__ == "__main__":
    main()
