"""Time the scoring of files of texts against other ways to use the same registered model.

    python tests/benchmarks/scoring.py TEXTS.parquet --artifacts DIR --model NAME [--rows 25000] [--short 1000000]
                                       [--alone 300]

TEXTS.parquet has a column `text`; NAME is a registered model in the artifacts directory DIR, trained for example by
`gloveflow run TEXTS.parquet --preset imdb`. Two inputs are scored: the first `--rows` texts, and `--short` texts of a
dozen words, which are made by cutting and repeating those. Each way runs in a process of its own:

- limit: only the network's forward pass on padded batches of similar length that were made before, with as many threads
- ours: `tasks.scoring`, from a Parquet file to a Parquet file, without servers
- onnx: the same with `scoring.runtime` onnx, which needs `pip install 'gloveflow[onnx]'`
- pyfunc, whole list: one call of the MLflow model with all texts (at most `--whole`)
- pyfunc, row by row: a call per text, for the first `--alone` texts

Prints texts per second and per second of processor time, both as shares of the limit, and the peak memory. Processor
time tells more where other programs run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

WAYS = ("limit", "ours", "onnx", "whole", "alone")
NAMES = {
    "limit": "limit: the network on padded batches",
    "ours": "ours: file to file",
    "onnx": "ours, ONNX Runtime",
    "whole": "pyfunc, whole list",
    "alone": "pyfunc, row by row",
}
SHORT_WORDS = 12
Clock = tuple[float, float]


def write_texts(source: Path, folder: Path, rows: int, short: int) -> dict[str, Path]:
    """Write the two inputs, with an id and another column, and return their paths."""
    texts = pq.read_table(source, columns=["text"])["text"].to_pylist()[:rows]
    words = [text.split() for text in texts]
    pieces = [" ".join(w[i : i + SHORT_WORDS]) for w in words for i in range(0, len(w), SHORT_WORDS)]
    paths = {"texts": folder / "texts.parquet", "short": folder / "short.parquet"}
    write_table(paths["texts"], texts, rows)
    write_table(paths["short"], pieces, short)
    return paths


def write_table(path: Path, texts: list[str], rows: int) -> None:
    """Write the texts, repeated until there are enough, block by block."""
    schema = pa.schema([("id", pa.int64()), ("text", pa.string()), ("source", pa.string())])
    with pq.ParquetWriter(path, schema) as writer:
        for first in range(0, rows, 50_000):
            ids = range(first, min(first + 50_000, rows))
            columns = [list(ids), [texts[i % len(texts)] for i in ids], ["benchmark"] * len(ids)]
            writer.write_table(pa.table(columns, schema=schema))


def clock() -> Clock:
    """Return wall clock time and the processor time of this process, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.perf_counter(), usage.ru_utime + usage.ru_stime


def measure(way: str, path: Path, model: str, output: Path, most: int) -> dict[str, Any]:
    """Run one way and return its texts, seconds, processor seconds and peak memory."""
    from tasks.tracking.loading import load_model

    loaded = load_model(model, "champion")
    texts = [] if way in ("ours", "onnx") else pq.read_table(path, columns=["text"])["text"].to_pylist()[: most or None]
    body, count = prepare(way, loaded, texts, path, output, model)
    started = clock()
    body()
    seconds, processor = (after - before for after, before in zip(clock(), started, strict=True))
    return {"texts": count, "seconds": seconds, "processor": processor, "peak": read_peak()}


def read_peak() -> float:
    """Return the peak memory of this process in MiB; the one of `getrusage` begins with that of its parent."""
    status = Path("/proc/self/status").read_text()
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) / 1024


def prepare(
    way: str, loaded: Any, texts: list[str], path: Path, output: Path, model: str
) -> tuple[Callable[[], object], int]:
    """Return a function that is to be timed, and the number of texts that it classifies."""
    if way == "whole":
        return lambda: loaded.classify(texts), len(texts)
    if way == "alone":
        return lambda: [loaded.classify([text]) for text in texts], len(texts)
    if way == "limit":
        return prepare_limit(loaded, texts), len(texts)
    from pipeline_config.operation import Runtime
    from tasks.scoring.outputs import parse_output
    from tasks.scoring.registered import make_scoring_model
    from tasks.scoring.request import Request, change_reading
    from tasks.scoring.score_texts import score_files

    runtime: Runtime = "onnx" if way == "onnx" else "torch"
    request = Request([str(path)], parse_output(str(output)), runtime=runtime)
    scoring_model = make_scoring_model(model, loaded, runtime)
    reading = change_reading(loaded.reading, {"text_column": ("text",), "label_column": None})
    return lambda: score_files(request, scoring_model, reading), pq.read_metadata(path).num_rows


def prepare_limit(loaded: Any, texts: list[str]) -> Callable[[], object]:
    """Return a function that runs the network alone on all batches, in as many threads as scoring uses."""
    import numpy as np
    import torch

    from tasks.scoring.network import NetworkClassifier, plan_batches

    classifier = NetworkClassifier(loaded.served)
    encoded = classifier.prepare(pa.array(texts, pa.large_string()))
    sizes = np.minimum(np.diff(encoded.offsets), loaded.served.text["max_length"])
    batches = [classifier.pad(encoded, rows, sizes[rows]) for rows in plan_batches(sizes)]
    network = loaded.served.network

    def forward(batch: Any) -> None:
        with torch.inference_mode():
            network(*batch)

    def run() -> None:
        with classifier:
            list(classifier.run_all(forward, batches))

    return run


def run_apart(arguments: argparse.Namespace, way: str, path: Path, output: Path, most: int) -> dict[str, Any]:
    """Measure in a process of its own."""
    call = [sys.executable, __file__, str(path), "--artifacts", str(arguments.artifacts), "--model", arguments.model]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    done = subprocess.run(
        [*call, "--way", way, "--output", str(output), "--most", str(most)],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def show(title: str, results: dict[str, dict[str, Any]]) -> None:
    """Print a table of the ways."""
    print(f"\n{title}\n{'':38}{'texts':>10}{'texts/s':>10}{'of limit':>10}{'by processor':>14}{'peak MiB':>10}")
    rates = {way: (r["texts"] / r["seconds"], r["texts"] / r["processor"]) for way, r in results.items()}
    for way, result in results.items():
        shares = (
            [mine / best for mine, best in zip(rates[way], rates["limit"], strict=True)] if "limit" in rates else [0, 0]
        )
        line = f"{rates[way][0]:>10,.0f}{shares[0]:>10.2f}{shares[1]:>14.2f}{result['peak']:>10,.0f}"
        print(f"{NAMES[way]:38}{result['texts']:>10,}{line}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=25_000)
    parser.add_argument("--short", type=int, default=1_000_000)
    parser.add_argument("--alone", type=int, default=300)
    parser.add_argument("--whole", type=int, default=25_000)
    parser.add_argument("--only", nargs="*", choices=WAYS, default=WAYS)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--most", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    os.environ["GLOVEFLOW_ARTIFACTS"] = str(arguments.artifacts)
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    if arguments.way:
        print(json.dumps(measure(arguments.way, arguments.texts, arguments.model, arguments.output, arguments.most)))
        return
    with tempfile.TemporaryDirectory() as folder:
        paths = write_texts(arguments.texts, Path(folder), arguments.rows, arguments.short)
        most = {"limit": 50_000, "ours": 0, "onnx": 0, "whole": arguments.whole, "alone": arguments.alone}
        for name, path in paths.items():
            rows = arguments.rows if name == "texts" else arguments.short
            output = Path(folder, f"{name}-scored.parquet")
            results = {way: run_apart(arguments, way, path, output, most[way]) for way in arguments.only}
            show(f"{name}: {rows:,} rows", results)


if __name__ == "__main__":
    main()
