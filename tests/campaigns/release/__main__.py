"""Play the release campaign: everything that has gone wrong somewhere, many times, and count what was lost or wrong.

    python -m tests.campaigns.release [PART ...] [--seed N] [--count N]

Without a part all are played, which takes hours. The table at the end has a row per part; its first three numbers are the
trials, those that lost something, and those with a wrong result. Any that is lost or wrong ends the command with exit code 1.
The same seed plays the same trials. Ctrl-C ends the campaign with the table of what was played, and exit code 130.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.campaigns.release.trials import Part, Trials


def main() -> None:
    """Play the parts that are asked for and print the table."""
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # as in a command, before the import
    from tests.campaigns.release.parts import PARTS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of: {', '.join(PARTS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, help="trials of each part; its own number without it")
    options = parser.parse_args()
    if unknown := [name for name in options.parts if name not in PARTS]:
        parser.error(f"got the part {', '.join(unknown)}, expected one of {', '.join(PARTS)}")
    played: list[tuple[Trials, float]] = []
    code = 0
    try:
        for name in options.parts or PARTS:
            print(f"{name}: {PARTS[name].promise}", flush=True)
            play(PARTS[name], played, count=options.count or PARTS[name].count, seed=options.seed)
    except KeyboardInterrupt:
        code = 130
    print(f"\n{'part':<16} {'tried':>6} {'lost':>6} {'wrong':>6} {'seconds':>9}")
    for name, (trials, seconds) in zip(options.parts or PARTS, played, strict=False):
        print(f"{name:<16} {trials.tried:>6} {trials.lost:>6} {trials.wrong:>6} {seconds:>9.0f}")
    sys.exit(1 if any(trials.lost + trials.wrong for trials, _ in played) else code)


def play(part: Part, played: list[tuple[Trials, float]], *, count: int, seed: int) -> None:
    """Play a number of trials of a part, in a folder that is removed afterwards; add them and their seconds to a list.

    What an interrupted part has played is added, too.
    """
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix=f"gloveflow-{part.name}-") as folder:
        trials = Trials(count, random.Random(f"{part.name} {seed}"), Path(folder))
        try:
            part.play(trials)
        finally:
            played.append((trials, time.monotonic() - started))
    if not trials.tried:
        raise RuntimeError(f"the part {part.name} played no trial")


if __name__ == "__main__":
    main()
