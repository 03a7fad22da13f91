"""Play the release campaign: everything that has gone wrong somewhere, many times, and count what was lost or wrong.

    python -m tests.campaigns.release [PART ...] [--seed N] [--count N]

Without a part all are played, which takes hours. The table at the end has a row per part; its first three numbers are the
trials, those that lost something, and those with a wrong result. Any that is lost or wrong ends the command with exit code 1.
The same seed plays the same trials.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.campaigns.release.parts import PARTS
from tests.campaigns.release.trials import Part, Trials


def main() -> None:
    """Play the parts that are asked for and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of: {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="trials of each part; its own number without it")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"got the part {', '.join(unknown)}, expected one of {', '.join(PARTS)}")
    rows, faults = [], 0
    for name in options.parts or PARTS:
        print(f"{name}: {PARTS[name].promise}", flush=True)
        started = time.monotonic()
        trials = play(PARTS[name], count=options.count or PARTS[name].count, seed=options.seed)
        rows.append(
            f"{name:<16} {trials.tried:>6} {trials.lost:>6} {trials.wrong:>6} {time.monotonic() - started:>9.0f}"
        )
        faults += trials.lost + trials.wrong
    print(f"\n{'part':<16} {'tried':>6} {'lost':>6} {'wrong':>6} {'seconds':>9}", *rows, sep="\n")
    sys.exit(1 if faults else 0)


def play(part: Part, *, count: int, seed: int) -> Trials:
    """Play a number of trials of a part, in a folder that is removed afterwards."""
    with tempfile.TemporaryDirectory(prefix=f"gloveflow-{part.name}-") as folder:
        trials = Trials(count, random.Random(f"{part.name} {seed}"), Path(folder))
        part.play(trials)
    if not trials.tried:
        raise RuntimeError(f"the part {part.name} played no trial")
    return trials


if __name__ == "__main__":
    main()
