"""Odd lines, read by the project and by gensim: every difference must have one of the listed reasons.

    pip install gensim
    python -m tests.campaigns.gensim_differences [--lines 5000] [--seed 0]

gensim stops at the first line that it cannot read, so each line is read in its own file, after a regular one. Prints how
often both agree, and each difference with its reason. A difference without a reason ends the campaign.
"""

import argparse
import io
import logging
import random
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tasks.vectors.glove_text import GloveTextReader
from tasks.vectors.selection import VectorSelection
from tests.campaigns.vector_files import draw_line, nearest

DIM = 3
FIRST = b"first 1 2 3\n"
Row = tuple[str, bytes]


class Difference(NamedTuple):
    """A line, and how each reads it: a row, or the reason why it gives none."""

    line: bytes
    ours: Row | str
    theirs: Row | str


def reason_of(difference: Difference) -> str | None:
    """Return why the two differ, or None if no listed reason applies."""
    line, ours, theirs = difference
    if isinstance(ours, tuple) and isinstance(theirs, tuple):
        if ours[0] == theirs[0] and is_rounded_twice(line, theirs[1]):
            return "ours rounds once, gensim rounds to a double first"
        return None
    if isinstance(ours, tuple):
        return "ours keeps a token with spaces, gensim splits it" if " " in ours[0] else None
    if ours == "empty_token" and theirs[0] == "":
        return "ours drops an empty token, gensim keeps it"
    if ours == "not_finite" and not np.isfinite(np.frombuffer(theirs[1], np.float32)).all():
        return "ours drops a vector that is not finite, gensim keeps it"
    if ours == "not_a_vector" and len(line.rstrip().split(b" ")) == 2:
        return "ours drops a line with one number, gensim fills a vector with it"
    if ours == "not_a_vector" and line.rstrip() != line.rstrip(b" \r"):
        return "ours ends lines at \\n only, gensim strips white space from their end"
    if ours == "not_a_vector" and any(odd in line for odd in (b"_", b"\t", b"\r", "\u0663".encode(), b"\xc2\xa0")):
        return "ours reads decimal numbers, gensim all that Python's float reads: 1_0, other digits, white space around"
    return None


def read_ours(data: bytes) -> Row | str:
    selection = VectorSelection(DIM)
    tables = list(GloveTextReader(io.BytesIO(data), name="mine.txt", selection=selection))
    rows = [
        (token, np.array(vector, np.float32).tobytes())
        for table in tables
        for token, vector in zip(*table.to_pydict().values(), strict=True)
    ]
    return rows[1] if len(rows) == 2 else next(iter(selection.dropped))


def read_theirs(path: Path) -> Row | str:
    from gensim.models import KeyedVectors

    try:
        vectors = KeyedVectors.load_word2vec_format(str(path), no_header=True)
    except Exception as error:
        return type(error).__name__
    token = vectors.index_to_key[1] if len(vectors) == 2 else None
    return "duplicate" if token is None else (token, vectors.vectors[1].tobytes())


def is_rounded_twice(line: bytes, got: bytes) -> bool:
    fields = line.rstrip(b" \r").split(b" ")[-DIM:]
    with np.errstate(over="ignore"):
        twice = np.array([np.float32(float(field)) for field in fields])
    return twice.tobytes() == got and [nearest(field) for field in fields] != twice.tolist()


def run_campaign(lines: int, seed: int) -> Counter[str]:
    """Compare random lines and return how often both agree, and the differences by reason.

    Raises:
        AssertionError: they differ, and no listed reason applies.
    """
    tally: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "mine.txt")
        for number in range(lines):
            draw = random.Random(f"{seed}:{number}")
            line = draw_line(draw, DIM, [b"w1", b"w2", b"first"], oddness=0.5).replace(b"\n", b"")
            path.write_bytes(FIRST + line + b"\n")
            ours, theirs = read_ours(FIRST + line + b"\n"), read_theirs(path)
            if ours == theirs:
                tally["both give the same token and bits"] += 1
            elif isinstance(ours, str) and isinstance(theirs, str):
                tally["both give no vector"] += 1
            else:
                reason = reason_of(Difference(line, ours, theirs))
                if reason is None:
                    raise AssertionError(f"{seed}:{number}: {line!r}: ours {ours}, gensim {theirs}")
                tally[f"differ: {reason}"] += 1
    return tally


def main() -> None:
    """Run the campaign and print how often both agree and differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=5000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable()
    started = time.perf_counter()
    for what, count in sorted(run_campaign(options.lines, options.seed).items()):
        print(f"{count:7,}  {what}")
    print(f"{options.lines:,} lines, every difference has a reason, {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
