"""The parts of the campaign by name, in the order in which they are played."""

from tests.campaigns.release import attacks, company, hardship, outages
from tests.campaigns.release.trials import Part

_ALL: list[Part] = [outages.PART, attacks.PART, *hardship.PARTS, *company.PARTS]
PARTS = {part.name: part for part in _ALL}
