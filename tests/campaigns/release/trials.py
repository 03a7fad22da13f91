"""What a part of the campaign gets and what it counts."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

MAX_SHOWN = 20


@dataclass
class Trials:
    """The trials of one part, and what went wrong in them.

    Attributes:
        count: how many trials to play.
        draw: source of everything random.
        folder: an empty folder for the part's files.
        tried: trials that were played.
        lost: trials after which something that was finished, or promised, was gone or could not be used.
        wrong: trials with a wrong result, a wrong exit code, or a traceback where a message was due.
        findings: a line for each trial that was lost or wrong: what was done, what came, what was expected.
    """

    count: int
    draw: random.Random
    folder: Path
    tried: int = 0
    lost: int = 0
    wrong: int = 0
    findings: list[str] = field(default_factory=list)

    def passed(self) -> None:
        """Count a trial without a fault."""
        self.tried += 1

    def record_lost(self, finding: str) -> None:
        """Count a trial that lost something."""
        self.tried += 1
        self.lost += 1
        self._tell(f"lost: {finding}")

    def record_wrong(self, finding: str) -> None:
        """Count a trial with a wrong result."""
        self.tried += 1
        self.wrong += 1
        self._tell(f"wrong: {finding}")

    def check(self, what: str, problem: str | None, *, lost: bool = False) -> None:
        """Count a trial: without a fault if there is no problem, else as wrong, or as one that lost something."""
        if not problem:
            self.passed()
        elif lost:
            self.record_lost(f"{what}: {problem}")
        else:
            self.record_wrong(f"{what}: {problem}")

    def _tell(self, finding: str) -> None:
        self.findings.append(finding)
        if len(self.findings) <= MAX_SHOWN:
            print(f"  {finding}", flush=True)


@dataclass(frozen=True)
class Part:
    """A part of the campaign.

    Attributes:
        name: as it is given on the command line.
        promise: what has to hold, in one line.
        play: plays the trials and counts them.
        count: how many trials the whole campaign plays.
        quick: how many the test suite plays; 0 for a part whose trials take minutes, or need a process of their own.
    """

    name: str
    promise: str
    play: Callable[[Trials], None]
    count: int
    quick: int
