"""The parts of the release campaign that can be played in seconds, for a few trials: nothing lost, nothing wrong."""

import pytest

from tests.campaigns.release.__main__ import play
from tests.campaigns.release.parts import PARTS
from tests.campaigns.release.trials import Trials


@pytest.mark.parametrize("name", [name for name, part in PARTS.items() if part.quick])
def test_nothing_is_lost_and_nothing_is_wrong(name: str) -> None:
    played: list[tuple[Trials, float]] = []
    play(PARTS[name], played, count=PARTS[name].quick, seed=0)
    ((trials, _),) = played
    assert (trials.lost, trials.wrong) == (0, 0), trials.findings
