"""Compare the linear model, the network, both together, and fastText where it is installed, on any number of corpora.

    python -m tests.benchmarks.corpora FOLDER [--only NAME ...] [--seeds 0 1] [--set section.key=value ...]

FOLDER has `NAME_train.parquet` and `NAME_test.parquet` (or .csv) for each corpus, with columns `text` and `label`, and
perhaps `NAME_dev` for validation. Each is trained as `gloveflow run NAME_train.parquet` would, with the settings that the
rules choose. Prints for each corpus and seed the accuracy and macro F1 on test with 95 % intervals, the seconds of
training, and the megabytes of the weights. fastText is trained once per corpus, with its automatic tuning on validation
for as many seconds as the first training took. Everything is written to the directory GLOVEFLOW_ARTIFACTS, which keeps
the vectors for the next time.
"""

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from pipeline_config.contracts.evaluation import Metrics, ScoreName, Scores
from pipeline_config.resolve import resolve_config
from pipeline_config.schemas import DOCUMENTS_FILE, LINEAR_FILE, WEIGHTS_FILE
from tests.stage_chain import ChainOutputs, run_chain

OTHERS = (("test_source", "test"), ("validation_source", "dev"))


class Row(NamedTuple):
    """One line of the table."""

    corpus: str
    model: str
    accuracy: str
    macro_f1: str
    seconds: float
    megabytes: float


def find_corpora(folder: Path) -> dict[str, list[str]]:
    """Return the `--set` values that name the files of each corpus of a folder."""
    found = {}
    for train in sorted([*folder.glob("*_train.parquet"), *folder.glob("*_train.csv")]):
        name = train.stem.removesuffix("_train")
        parts = {"source": train, **{s: train.with_name(train.name.replace("_train", f"_{e}")) for s, e in OTHERS}}
        if parts["test_source"].exists():
            found[name] = [f"corpus.{key}={path}" for key, path in parts.items() if path.exists()]
    return found


def show(row: Row) -> None:
    """Print a line of the table."""
    print(
        f"{row.corpus:12} {row.model:14} {row.accuracy:22} {row.macro_f1:22} {row.seconds:>6.0f} s {row.megabytes:>7.1f} MB",
        flush=True,
    )


def describe_run(name: str, outputs: ChainOutputs) -> Iterator[Row]:
    """Yield the lines of the linear model, of the network, and of both together."""
    test = outputs.evaluation.read_model(Metrics).test
    seed, stages = outputs.config.seed, (outputs.baseline, outputs.classifier)
    (linear, network) = (stage.facts["seconds"] for stage in stages)
    sizes = [stage.path(f).stat().st_size / 1e6 for stage, f in zip(stages, (LINEAR_FILE, WEIGHTS_FILE), strict=True)]
    for model, scores, seconds, megabytes in (
        ("linear", test.baseline, linear, sizes[0]),
        (f"lstm, seed {seed}", test.lstm, network, sizes[1]),
        (f"both, seed {seed}", test.hybrid, linear + network, sum(sizes)),
    ):
        shown = [show_score(scores, "accuracy"), show_score(scores, "macro_f1")]
        yield Row(name, model, *shown, seconds, megabytes)


def show_score(scores: Scores, name: ScoreName) -> str:
    """Return a score with its interval."""
    low, high = scores.intervals[name]
    return f"{scores.value_of(name):.4f} ({low:.3f}-{high:.3f})"


def run_fasttext(name: str, outputs: ChainOutputs, seconds: float) -> Iterator[Row]:
    """Yield the line of fastText, tuned on validation for some seconds; none if it is not installed."""
    try:
        import fasttext
    except ImportError:
        return
    documents = outputs.documents.read_table(DOCUMENTS_FILE).to_pandas()
    labels = "__label__" + documents["label"].str.replace(" ", "_")
    documents["line"] = labels + " " + documents["text"].str.split().str.join(" ")
    with tempfile.TemporaryDirectory() as folder:
        for split, part in documents.groupby("split"):
            Path(folder, str(split)).write_text("\n".join(part["line"]) + "\n", "utf-8")
        started = time.perf_counter()
        model = fasttext.train_supervised(
            str(Path(folder, "train")),
            autotuneValidationFile=str(Path(folder, "validation")),
            autotuneDuration=max(10, round(seconds)),
            verbose=0,
        )
        took = time.perf_counter() - started
        right = model.test(str(Path(folder, "test")))[1]
        size = Path(folder, "model")
        model.save_model(str(size))
        yield Row(name, "fastText", f"{right:.4f}", "", took, size.stat().st_size / 1e6)


def main() -> None:
    """Run all corpora and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--preset", default="custom")
    parser.add_argument("--set", action="append", default=[], dest="overrides", metavar="SECTION.KEY=VALUE")
    options = parser.parse_args()
    for name, files in find_corpora(options.folder).items():
        if options.only and name not in options.only:
            continue
        for seed in options.seeds:
            overrides = [*options.overrides, *files, f"seed={seed}"]
            outputs = run_chain(resolve_config(preset=options.preset, overrides=overrides).config)
            rows = list(describe_run(name, outputs))
            for row in rows if seed == options.seeds[0] else rows[1:]:
                show(row)
            if seed == options.seeds[0]:
                for row in run_fasttext(name, outputs, outputs.classifier.facts["seconds"]):
                    show(row)


if __name__ == "__main__":
    main()
