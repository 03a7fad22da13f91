"""`gloveflow score` that is killed with SIGKILL at random moments; the same command again must end as an unbroken one.

The whole command is killed, with its server or without, one to three times on one output, and then let through to its
end. A trial is one kill; a command that ends before it is none. Then the output and its side files have the bytes of an
unbroken scoring, and MLflow and Prefect have nothing open.
"""

import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from functools import partial
from itertools import takewhile
from pathlib import Path

from tests.campaigns.release.kills import END_SECONDS, find_leftovers, kill_command
from tests.campaigns.release.trials import Part, Trials
from tests.campaigns.release.whole_runs import finished_run
from tests.small_run import COMMON, WORDS, CommandLine

INPUTS = {"long": (100_000, []), "explained": (3_000, ["--explain", "2"])}  # rows, options: some seconds of work
OUTPUTS = ("scored.parquet", "scored.csv", "scored.jsonl", "scored/")
MOST_KILLS = 3


def play(trials: Trials) -> None:
    """Kill scorings to one output after the other, and let each through to its end."""
    artifacts = trials.folder / "artifacts"
    shutil.copytree(finished_run().artifacts, artifacts)
    line = CommandLine(artifacts)
    wanted: dict[tuple[str, str], tuple[dict[str, bytes], float]] = {}
    while trials.tried < trials.count:
        kind, name = trials.draw.choice(list(INPUTS)), trials.draw.choice(OUTPUTS)
        if (kind, name) not in wanted:
            started = time.monotonic()
            code, output = line.run(*_command(trials.folder, kind, name, "whole"), seconds=END_SECONDS)
            if code != 0:
                raise RuntimeError(f"an unbroken scoring ended with {code}: {output}")
            wanted[kind, name] = _read_all(trials.folder / "whole"), time.monotonic() - started
            shutil.rmtree(trials.folder / "whole")
        expected, seconds = wanted[kind, name]
        number = min(trials.draw.randint(1, MOST_KILLS), trials.count - trials.tried)
        arguments = _command(trials.folder, kind, name, "killed")
        moments = {"earliest": seconds / 3, "latest": seconds}  # before, it only imports packages
        kill = partial(kill_command, line, arguments, trials.draw, **moments)
        kills = list(takewhile(bool, (kill() for _ in range(number))))
        problem = _finish(line, arguments, trials.folder / "killed", expected)
        for _ in kills[1:] if problem else kills:
            trials.passed()
        if problem:
            trials.record_lost(f"{kind} to {name}, after {'; '.join(kills) or 'no kill'}: {problem}")
        shutil.rmtree(trials.folder / "killed")


def _command(folder: Path, kind: str, name: str, place: str) -> list[str]:
    """Return the arguments of a scoring to a folder of its own; its input is written once."""
    rows, options = INPUTS[kind]
    source = folder / f"{kind}.csv"
    if not source.exists():
        source.write_text("id,text\n" + "\n".join(_write_rows(rows)) + "\n", "utf-8")
    (folder / place).mkdir()
    return ["score", str(source), "--set", "name=tiny", "--output", f"{folder}/{place}/{name}", *options]


def _write_rows(count: int) -> Iterator[str]:
    draw, words = random.Random(5), [*COMMON, *" ".join(WORDS.values()).split()]
    for number in range(count):
        text = " ".join(draw.choices(words, k=draw.randint(0, 12)))
        yield f"{number},{text}{',' * (number % 97 == 1)}"  # one field too many now and then


def _finish(line: CommandLine, arguments: list[str], folder: Path, expected: dict[str, bytes]) -> str | None:
    """Run a scoring to its end, and return what is wrong after it."""
    code, output = line.run(*arguments, seconds=END_SECONDS)
    if code != 0 or "Traceback" in output:
        return f"the next scoring ended with {code}: {output[-1500:]}"
    found = _read_all(folder)
    if found != expected:
        different = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
        return f"other files or bytes than those of an unbroken scoring: {', '.join(different)}"
    if left := [path.name for path in (line.artifacts / "scoring").iterdir() if path.is_dir()]:
        return f"work is left of a scoring that is complete: {left}"
    prefect = line.artifacts / "prefect" / "prefect.db"
    ends = {
        "MLflow": _last(line.artifacts / "mlflow" / "mlflow.db", "SELECT status FROM runs ORDER BY start_time DESC"),
        "Prefect": _last(prefect, "SELECT state_type FROM flow_run ORDER BY created DESC"),
    }
    if ends != {"MLflow": "FINISHED", "Prefect": "COMPLETED"}:
        return f"the last run ended as {ends}"
    return find_leftovers(line.artifacts, prefect)


def _last(database: Path, query: str) -> str:
    with closing(sqlite3.connect(database, timeout=60)) as connection:
        return str(connection.execute(query).fetchone()[0])


def _read_all(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


PART = Part("scorings", "a killed `gloveflow score` goes on, and ends with the bytes of an unbroken one", play, 60, 0)
