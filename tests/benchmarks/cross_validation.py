"""Measure a configuration by k-fold cross-validation, the usual comparison on small corpora without a test split.

    python -m tests.benchmarks.cross_validation --preset sst2 --source FILE [--folds 10] [--set section.key=value ...]

Each fold is the test split once. Vocabulary, matrix, buckets and classifier are made from the other folds only, of which
the configured share is for validation. Folds are stratified by class (scikit-learn's StratifiedKFold) and drawn with the
configured seed. Prints the accuracy of LSTM and baseline on each fold, then mean and standard deviation. Everything is
written to a temporary directory; the vectors are read once.
"""

import argparse
import os
import statistics
import tempfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from sklearn.model_selection import StratifiedKFold

from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.resolve import resolve_config
from tests.stage_chain import run_chain


def write_fold(table: pa.Table, test: set[int], path: Path) -> None:
    """Write the corpus with a column that says which rows are the test split."""
    split = ["test" if row in test else "train" for row in range(len(table))]
    pq.write_table(table.append_column("fold_split", pa.array(split)), path)


def main() -> None:
    """Run all folds and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--source", type=Path, required=True, help="Parquet file with the columns text and label")
    parser.add_argument("--preset", default="custom")
    parser.add_argument("--folds", type=int, default=10)
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    table = pq.read_table(options.source, columns=["text", "label"])
    scores: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        os.environ["GLOVEFLOW_ARTIFACTS"] = folder
        path = Path(folder, "corpus.parquet")
        given = [
            f"corpus.source={path}",
            "corpus.split_column=fold_split",
            "corpus.validation_source=null",
            "corpus.test_source=null",
        ]
        config = resolve_config(preset=options.preset, overrides=[*options.overrides, *given]).config
        folds = StratifiedKFold(options.folds, shuffle=True, random_state=config.seed)
        for number, (_, test) in enumerate(folds.split(table["text"], table["label"].to_pylist()), start=1):
            write_fold(table, set(test.tolist()), path)
            test = run_chain(config).evaluation.read_model(Metrics).test
            scores.append({name: one.accuracy for name, one in test.by_model()})
            print(
                f"fold {number:2}  lstm {scores[-1]['lstm']:.4f}  baseline {scores[-1]['baseline']:.4f}  hybrid {scores[-1]['hybrid']:.4f}",
                flush=True,
            )
    for name in ("lstm", "baseline", "hybrid"):
        values = [score[name] for score in scores]
        print(f"{name:8} mean {statistics.mean(values):.4f}  deviation {statistics.stdev(values):.4f}")


if __name__ == "__main__":
    main()
