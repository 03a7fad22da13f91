"""Nightly runs with changing data and `gloveflow gc`, some of it killed: the size stays bounded, the champion predicts.

`python -m tests.campaigns.nightly_runs [--nights 20] [--seed 0]`. Each night has a corpus of its own. While its run goes
on, `gloveflow gc --keep 2 --older-than 0d` runs beside it and is killed at a random moment every third night; after the
run it is started again. Ends with code 1 if a run or a cleaning fails, if the champion's answers change while it stays
the champion, or if the artifacts of the last nights are larger than those of the fifth by more than a fifth.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from tasks.housekeeping.selection import measure
from tests.small_run import COMMON, WORDS, CommandLine, set_options, small_run, write_vectors

TEXTS = ["the goal of the match", "rain and wind and cloud", "bread"]
GC = ("gc", "--yes", "--keep", "2", "--older-than", "0d")


def write_corpus(path: Path, draw: random.Random) -> None:
    """Write a CSV of a night: as many documents as every night, with other words."""
    rows = ["text,label"]
    for number in range(240):
        label = list(WORDS)[number % 3]
        words = draw.choices(WORDS[label].split(), k=draw.randint(2, 5)) + draw.choices(COMMON, k=draw.randint(2, 9))
        rows.append(f"{' '.join(words)} {draw.randrange(10**6)},{label}")
    path.write_text("\n".join(rows) + "\n", "utf-8")


def find_champion(command: CommandLine) -> int:
    """Return the number of the champion."""
    code, output = command.run("models", "--json")
    assert code == 0, output
    (number,) = [one["version"] for one in json.loads(output) if "champion" in one["aliases"]]
    return int(number)


def play(folder: Path, nights: int, seed: int) -> list[str]:
    """Play the nights and print a line for each; return what went wrong."""
    draw, wrong = random.Random(seed), []
    command = CommandLine(folder / "artifacts")
    command.environment["PREFECT_SERVER_EVENTS_RETENTION_PERIOD"] = "60"  # seconds; by default Prefect's are a week
    options = ["--preset", "smoke", *set_options(small_run(folder))]
    write_vectors(folder / "vectors.txt")
    known: dict[int, str] = {}
    sizes: list[int] = []
    print("night  champion  MB      versions  what happened", flush=True)
    for night in range(1, nights + 1):
        write_corpus(folder / "corpus.csv", draw)
        run = command.start("run", *options)
        beside = command.start(*GC) if night > 1 else None
        happened = "gc beside the run"
        if beside is not None and night % 3 == 0:
            try:
                beside.communicate(timeout=draw.uniform(1, 15))
            except subprocess.TimeoutExpired:
                beside.kill()
                happened = "gc killed beside the run"
        output = run.communicate(timeout=900)[0]
        if run.returncode:
            wrong.append(f"night {night}: run ended with {run.returncode}: {output[-2000:]}")
        if beside is not None:
            output = beside.communicate()[0]
            if beside.returncode not in (0, -9):
                wrong.append(f"night {night}: gc beside the run ended with {beside.returncode}: {output[-2000:]}")
        code, output = command.run(*GC)
        if code:
            wrong.append(f"night {night}: gc ended with {code}: {output[-2000:]}")
        champion = find_champion(command)
        code, output = command.run("predict", "--json", "--set", "name=tiny", *TEXTS)
        answers = "\n".join(line for line in output.splitlines() if line.startswith("{"))
        if code or known.setdefault(champion, answers) != answers:
            wrong.append(f"night {night}: version {champion} answers {code}: {output[-2000:]}")
        sizes.append(measure(command.artifacts))
        versions = len(json.loads(command.run("models", "--json")[1]))
        print(f"{night:5}  {champion:8}  {sizes[-1] / 2**20:6.1f}  {versions:8}  {happened}", flush=True)
    if nights > 8 and max(sizes[-3:]) > 1.2 * sizes[4]:
        wrong.append(f"the artifacts grew from {sizes[4]:,} to {max(sizes[-3:]):,} bytes")
    return wrong


def main() -> None:
    """Play the nights in a temporary directory."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nights", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        wrong = play(Path(folder), options.nights, options.seed)
    print("\n".join(wrong) or f"{options.nights} nights, nothing wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
