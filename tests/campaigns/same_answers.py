"""One version of a model, asked over HTTP, by batch scoring and in this process: all give the same answers.

`python -m tests.campaigns.same_answers TEXTS.parquet --artifacts DIR --model NAME --rows 10000` starts `gloveflow
serve-model` on a free port. TEXTS.parquet has a column `text`. What has to hold: probabilities differ by at most 1e-5,
labels do not differ where the two highest probabilities are more than 1e-4 apart.
"""

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.tracking.loading import LoadedModel, load_model

Ask = Callable[[dict[str, Any]], list[dict[str, Any]]]
TOLERANCE = 1e-5
MARGIN = 1e-4
REQUEST = 256  # texts


def compare(ask: Ask, loaded: LoadedModel, name: str, texts: Sequence[str], folder: Path) -> dict[str, float]:
    """Classify texts in three ways; return the largest difference and the number of labels that differ, of each two.

    Args:
        ask: sends the body of a request to the served version and returns its answers.
        loaded: the same version, loaded in this process.
        name: name of the model.
        texts: texts that are not blank.
        folder: where files for batch scoring may be written.
    """
    parts = [list(texts[i : i + REQUEST]) for i in range(0, len(texts), REQUEST)]
    ways = {
        "in process": _list_answers(loaded, loaded.classify(list(texts))),
        "served": _list_answers(loaded, [answer for part in parts for answer in ask({"inputs": part})]),
        "scored": _score(loaded, name, texts, folder),
    }
    labels, expected = ways.pop("in process")
    clear = np.diff(np.sort(expected, axis=1)[:, -2:], axis=1)[:, 0] > MARGIN
    found = {}
    for way, (given, probabilities) in ways.items():
        found[f"{way}: difference"] = float(np.abs(probabilities - expected).max())
        found[f"{way}: labels"] = int((np.array(given) != np.array(labels))[clear].sum())
    return found


def _list_answers(loaded: LoadedModel, answers: list[dict[str, Any]]) -> tuple[list[str], np.ndarray]:
    rows = [[answer["probabilities"][label] for label in loaded.labels] for answer in answers]
    return [answer["label"] for answer in answers], np.array(rows)


def _score(loaded: LoadedModel, name: str, texts: Sequence[str], folder: Path) -> tuple[list[str], np.ndarray]:
    from tasks.scoring.outputs import parse_output
    from tasks.scoring.registered import make_scoring_model
    from tasks.scoring.request import Request, change_reading
    from tasks.scoring.score_texts import score_files

    source, output = folder / "texts.parquet", folder / "scored.parquet"
    pq.write_table(pa.table({"text": list(texts)}), source)
    reading = change_reading(loaded.reading, {"text_column": ("text",), "label_column": None})
    score_files(Request([str(source)], parse_output(str(output))), make_scoring_model(name, loaded), reading)
    table = pq.read_table(output)
    return table["label"].to_pylist(), np.column_stack([table[f"p_{label}"].to_numpy() for label in loaded.labels])


@contextlib.contextmanager
def serve_version(artifacts: Path, name: str, version: str) -> Iterator[str]:
    """Run `gloveflow serve-model` on a free port during the body, and give it the address."""
    command = [sys.executable, "-m", "flows.cli.main", "serve-model", "--artifacts", str(artifacts), "--model", name]
    with subprocess.Popen(
        [*command, "--version", version, "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            line = next((line for line in process.stdout or () if "/invocations" in line), "")
            yield line.partition("answers on ")[2].partition("/invocations")[0]
        finally:
            process.terminate()


def main() -> None:
    """Compare the answers of a registered version from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("texts", type=Path)
    parser.add_argument("--artifacts", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--rows", type=int, default=10_000)
    options = parser.parse_args()
    os.environ["GLOVEFLOW_ARTIFACTS"] = str(options.artifacts.absolute())
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    texts = [text for text in pq.read_table(options.texts, columns=["text"])["text"].to_pylist() if text.strip()]
    loaded = load_model(options.model, "champion")
    with (
        serve_version(options.artifacts, options.model, loaded.version) as url,
        httpx.Client(base_url=url, timeout=600) as client,
        tempfile.TemporaryDirectory() as made,
    ):

        def ask(body: dict[str, Any]) -> list[dict[str, Any]]:
            return list(client.post("/invocations", json=body).raise_for_status().json()["predictions"])

        found = compare(ask, loaded, options.model, texts[: options.rows], Path(made))
    wrong = [name for name, value in found.items() if value > (TOLERANCE if "difference" in name else 0)]
    lines = [f"{name}: {value:.2g}" for name, value in found.items()]
    print("\n".join([f"{len(texts[: options.rows]):,} texts, against the answers in this process", *lines]))
    raise SystemExit(bool(wrong))


if __name__ == "__main__":
    main()
