"""Generate odd files, score them with a model that goes by the id in each text, and compare every row.

    python -m tests.campaigns.scored_files [--files 500] [--kills 50] [--seed 0]

Files are CSV, TSV, JSON lines, JSON arrays, Parquet and plain text, several at once, with unusual characters, nulls,
blank texts, numbers as texts, rows of the wrong shape, bytes that are not in the encoding, columns named like those of
the answers, and files that are no such files at all. The output is Parquet, CSV, JSON lines, a directory or a table.
Each text holds the number of its row, and the model answers by this number, so that an answer or explanation beside a wrong
text is found. Every row is in the output, in order and with its other columns, or in the list of rejected rows. Blocks and
chunks have random sizes. Only our own errors may be raised.

Then processes that score are killed at random operations on files and at random calls of the model, and started again.
The output has to be that of an unbroken one, byte for byte, and one chunk at most may be computed twice.
"""

import argparse
import contextlib
import csv
import io
import json
import logging
import os
import random
import re
import signal
import sqlite3
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import GloveflowError
from tasks.reading import byte_stream
from tasks.scoring import chunks, score_texts
from tasks.scoring.explanations import EXPLANATIONS
from tasks.scoring.outputs import parse_output
from tasks.scoring.registered import Texts
from tasks.scoring.request import Request, ScoringModel, ScoringResult
from tasks.scoring.score_texts import check_request, score_files

LABELS = ("a", "b", "c")
PIECES = ["word", "caf\u00e9", "e\u0301", "\u2028", "\x0b", ",", "\t", '""', "'", "=1+1", "NA", "null", "\U0001f600", "\ufeff", "<br />",
          "\u4e2d\u6587", ";", "{}", "0", " ", "\u0000"[:0]]  # fmt: skip
NAMES = ["note", "label", "score", "p_a", "version", "model", "input_label", "f\u00fcr", "a b"]
OUTPUTS = ["out.parquet", "out.csv", "out.jsonl", "out/", "table"]


def answer(text: str) -> tuple[int, float]:
    """Return the class and the probability for a text: by the number in it."""
    found = re.search(r"#(\d+)#", text)
    number = int(found.group(1)) if found else 0
    return number % 3, 0.4 + (number % 500) / 1000


class ById:
    """A classifier that goes by the number in a text; each call is a line in a file if there is one."""

    def __init__(self, calls: Path | None = None) -> None:
        self._calls = calls

    def prepare(self, texts: pa.Array) -> Texts:
        return Texts(texts.to_pylist())

    def classify(self, prepared: Texts) -> np.ndarray:
        if self._calls:
            with self._calls.open("a") as file:
                file.write(f"{len(prepared.texts)}\n")
        rows = np.zeros((len(prepared.texts), 3))
        for place, text in enumerate(prepared.texts):
            best, score = answer(text)
            rows[place] = (1 - score) / 2
            rows[place, best] = score
        return rows

    def explain(self, texts: pa.Array, targets: np.ndarray, count: int) -> pa.Array:  # noqa: ARG002
        pairs = zip(texts.to_pylist(), targets.tolist(), strict=True)
        return pa.array([explanation(text, target) for text, target in pairs], EXPLANATIONS)


def explanation(text: str, target: int) -> list[dict[str, Any]]:
    """Return the explanation of an answer: the beginning of the text, and the class."""
    return [{"token": text[:4], "weight": float(target)}]


def make_model(calls: Path | None = None) -> ScoringModel:
    """Return the model, which wants a column `text`."""
    return ScoringModel("by-id", "1", LABELS, Reading(), lambda: contextlib.nullcontext(ById(calls)), explains=True)


class Row:
    """A generated row: its number, its text, another value, and whether it can be read."""

    def __init__(self, draw: random.Random, number: int, kind: str) -> None:
        self.number = number
        pieces = [p for p in PIECES if kind != "txt" or p not in ("\u2028", "\x0b")]
        self.text: Any = f"#{number}# " + "".join(draw.choices(pieces, k=draw.randrange(6)))
        self.other = "".join(draw.choices(["x", "7", "\u00e9", " ", "-"], k=draw.randrange(4)))
        self.readable, self.answered = True, True
        odd = draw.random()
        if odd < 0.05:
            self.text, self.answered = draw.choice(["", "  "]), False
        elif odd < 0.1 and kind in ("jsonl", "json", "parquet"):
            self.text, self.answered = None, False
        elif odd < 0.15 and kind in ("jsonl", "json"):
            self.text, self.answered = number, False
        elif odd < 0.15 and kind in ("csv", "tsv", "jsonl"):
            self.readable = self.answered = False


def write_file(draw: random.Random, folder: Path, name: str, first: int, other: str) -> tuple[Path, list[Row]]:
    """Write a file with some rows, and return both."""
    kind = draw.choice(["csv", "tsv", "jsonl", "json", "parquet", "txt"])
    rows = [Row(draw, first + i, kind) for i in range(draw.choice([0, 1, 5, 60]))]
    path = folder / f"{name}.{kind}"
    values = [{"id": row.number, "text": row.text, other: row.other} for row in rows]
    if kind == "parquet":
        texts = {"id": pa.int64(), "text": pa.string(), other: pa.string()}
        pq.write_table(pa.Table.from_pylist(values, schema=pa.schema(list(texts.items()))), path)
    elif kind == "json":
        path.write_text(json.dumps(values, ensure_ascii=draw.random() < 0.5), "utf-8")
    elif kind == "txt":
        path.write_text("".join(f"{row.text}\n" for row in rows), "utf-8")
    elif kind == "jsonl":
        lines = [json.dumps(v) if r.readable else '["no object"]' for v, r in zip(values, rows, strict=True)]
        path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    else:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="," if kind == "csv" else "\t", lineterminator=draw.choice(["\n", "\r\n"]))
        writer.writerow(["id", "text", other])
        for row in rows:
            cells = [row.number, row.text, row.other]
            writer.writerow(cells if row.readable else [*cells, "one more"])
        path.write_text(text.getvalue(), "utf-8", newline="")
    return path, rows


def read_output(place: str, folder: Path) -> list[dict[str, Any]]:
    """Return the rows of an output, null and empty as None."""
    if place == "table":
        with contextlib.closing(sqlite3.connect(folder / "out.sqlite")) as database:
            frame = pd.read_sql("SELECT * FROM scored", database)
            return [
                {k: v if v == v else None for k, v in row.items()} for row in frame.astype(object).to_dict("records")
            ]
    path = folder / place
    if place.endswith(".jsonl"):
        return [json.loads(line) for line in path.read_text("utf-8").split("\n") if line]
    if place.endswith(".csv"):
        with path.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [row for file in files for row in pq.ParquetFile(file).read().to_pylist()]


def check_rows(rows: list[Row], found: list[dict[str, Any]], place: str, result: ScoringResult, other: str) -> None:
    """Compare every row with the generated one."""
    expected = [row for row in rows if row.readable]
    assert len(found) == len(expected) == result.rows, f"{len(found)} rows, expected {len(expected)}"
    assert sum(result.rejected.values()) == sum(not row.answered for row in rows), result.rejected
    for row, mine in zip(expected, found, strict=True):
        text = mine["text"]
        if place.endswith(".csv") and text.startswith("'") and not str(row.text).startswith("'"):
            text = text[1:]
        if row.text not in (None, ""):
            assert text == str(row.text), f"row {row.number}: text {text!r}, expected {row.text!r}"
        if "id" in mine and mine["id"] not in (None, ""):
            assert int(mine["id"]) == row.number, f"row {row.number}: id {mine['id']}"
        best, score = answer(str(row.text))
        label = LABELS[best] if row.answered else None
        assert (mine["label"] or None) == label, f"row {row.number}: label {mine['label']!r}, expected {label!r}"
        if row.answered:
            assert abs(float(mine["score"]) - score) < 1e-12, f"row {row.number}: score {mine['score']}"
        if "explanation" in mine:
            found_tokens = mine["explanation"]
            found_tokens = json.loads(found_tokens) if found_tokens and isinstance(found_tokens, str) else found_tokens
            tokens = explanation(str(row.text), best) if row.answered else None
            assert (found_tokens or None) == tokens, f"row {row.number}: explanation {found_tokens}"
        assert str(mine["version"]) == "1"


def play_file(draw: random.Random, folder: Path) -> bool:
    """Score generated files and check the output; return whether they could be scored."""
    byte_stream.BLOCK_BYTES = draw.choice([64, 300, 8 << 20])
    chunks.CHUNK_ROWS = draw.choice([1, 7, 1 << 14])
    score_texts._EXPLAINED_ROWS, score_texts._EXPLAINED_BYTES = draw.choice([1, 3, 1 << 11]), draw.choice([9, 1 << 18])
    other, files, rows = draw.choice(NAMES), [], []
    for name in ("one", "two")[: draw.choice([1, 1, 2])]:
        path, more = write_file(draw, folder, name, len(rows) + 1, other)
        files.append(path)
        rows += more
    if draw.random() < 0.1:
        content = bytearray(files[0].read_bytes() or b"\x00")
        for _ in range(draw.choice([1, 3, 50])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        files[0].write_bytes(content)
        rows = []
    place = draw.choice(OUTPUTS)
    output = (
        parse_output(f"sqlite:///{folder}/out.sqlite", "scored")
        if place == "table"
        else parse_output(f"{folder}/{place}")
    )
    request = Request([str(path) for path in files], output, explain=draw.choice([None, None, 2]))
    try:
        check_request(request)
        result = score_files(request, make_model(), Reading())
    except GloveflowError as error:
        broken = not rows or not any(row.answered for row in rows)
        if not broken and "score each file on its own" not in str(error):
            raise AssertionError(f"{files}: {error}") from error
        return False
    if rows:
        check_rows(rows, read_output(place, folder), place, result, other)
    return True


def play_kill(draw: random.Random, folder: Path) -> bool:
    """Kill a scoring at a random operation, start it again, and compare; return whether it was killed before its end."""
    byte_stream.BLOCK_BYTES, chunks.CHUNK_ROWS = 200, 10
    score_texts._EXPLAINED_ROWS, explain = 6, draw.choice([None, 2])
    source = folder / "in.csv"
    noise = [draw.choice(["x", "", "y,z"]) for _ in range(100)]
    source.write_text("id,text\n" + "".join(f"{i},#{i}# {n}\n" for i, n in enumerate(noise)))
    place = draw.choice(OUTPUTS[:4])
    _run(source, folder / "whole" / place, None, explain)
    calls = folder / "calls"
    _run(
        source, folder / "whole" / place, None, explain, calls
    )  # counts the chunks, and replaces an output that is there
    whole = len(calls.read_text().splitlines())
    calls.unlink()
    kill_at = draw.randint(1, int((folder / "whole.count").read_text()))
    killed = _run(source, folder / "killed" / place, kill_at, explain, calls)
    complete = not killed or (folder / "killed" / place).exists()  # then the next one is a new scoring
    _run(source, folder / "killed" / place, None, explain, calls)
    made = {path.relative_to(folder / "killed"): path.read_bytes() for path in _files(folder / "killed")}
    expected = {path.relative_to(folder / "whole"): path.read_bytes() for path in _files(folder / "whole")}
    assert made.keys() == expected.keys(), f"{sorted(map(str, made))}, expected {sorted(map(str, expected))}"
    different = [str(name) for name in made if made[name] != expected[name]]
    assert not different, f"other bytes in {different}"
    done = len(calls.read_text().splitlines())
    assert complete or done <= whole + 1, f"{done} chunks were computed, expected at most {whole + 1}"
    return killed


def _run(source: Path, output: Path, kill_at: int | None, explain: int | None, calls: Path | None = None) -> bool:
    """Score in a forked process, which is killed at an operation; return whether it was."""
    output.parent.mkdir(exist_ok=True)
    name = f"{output}/" if not output.suffix else str(output)
    child = os.fork()
    if not child:
        code = 1
        killer = _Killer(kill_at)
        sys.addaudithook(killer)
        try:
            request = Request([str(source)], parse_output(name), threshold=0.5, explain=explain)
            check_request(request)
            score_files(request, make_model(calls), Reading())
            output.parent.with_suffix(".count").write_text(str(killer.count))
            code = 0
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL:
        return True
    assert status == 0, f"the process ended with {status}"
    return False


class _Killer:
    """Counts the operations on files, and kills the process at one of them."""

    def __init__(self, kill_at: int | None) -> None:
        self._kill_at, self.count = kill_at, 0

    def __call__(self, event: str, _arguments: object) -> None:
        if event == "open" or event.startswith(("os.", "shutil.")):
            self.count += 1
            if self.count == self._kill_at:
                os.kill(os.getpid(), signal.SIGKILL)


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


@contextlib.contextmanager
def own_place() -> Iterator[Path]:
    """Give the body a folder, with artifacts of its own, and put the sizes back after it."""
    sizes, before = (byte_stream.BLOCK_BYTES, chunks.CHUNK_ROWS), os.environ.get("GLOVEFLOW_ARTIFACTS")
    explained = score_texts._EXPLAINED_ROWS, score_texts._EXPLAINED_BYTES
    with tempfile.TemporaryDirectory(prefix="scored-") as folder:
        os.environ["GLOVEFLOW_ARTIFACTS"] = f"{folder}/artifacts"
        try:
            yield Path(folder)
        finally:
            byte_stream.BLOCK_BYTES, chunks.CHUNK_ROWS = sizes
            score_texts._EXPLAINED_ROWS, score_texts._EXPLAINED_BYTES = explained
            os.environ.pop("GLOVEFLOW_ARTIFACTS")
            if before is not None:
                os.environ["GLOVEFLOW_ARTIFACTS"] = before


def play(files: int, kills: int, seed: int) -> dict[str, int]:
    """Play trials, and return how many files could be scored and how many processes were killed."""
    counts = {"scored": 0, "refused": 0, "killed": 0, "ended before": 0}
    for number in range(files + kills):
        with own_place() as folder:
            draw = random.Random(f"{seed}-{number}")
            try:
                if number < files:
                    counts["scored" if play_file(draw, folder) else "refused"] += 1
                else:
                    counts["killed" if play_kill(draw, folder) else "ended before"] += 1
            except Exception as error:
                raise AssertionError(f"trial {number} of seed {seed}: {type(error).__name__}: {error}") from error
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    started = time.monotonic()
    counts = play(arguments.files, arguments.kills, arguments.seed)
    print(", ".join(f"{name} {count}" for name, count in counts.items()), f"in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    main()
