"""The parts of the campaign by name, in the order in which they are played."""

from tests.campaigns.release import attacks, company, damage, databases, hardship, kills, outages, schedule, scoring
from tests.campaigns.release.trials import Part

_ALL: list[Part] = [
    Part(
        "kills", "after any SIGKILL the next run ends as an unbroken one, and nothing is left open", kills.play, 200, 0
    ),
    Part("damage", "what a damaged file holds is right, computed again, or refused by name", damage.play, 500, 8),
    Part("databases", "a killed set-up or upgrade starts again, and keeps every record", databases.play, 60, 1),
    Part("schedule", "after any SIGKILL the next due run begins within 2 minutes", schedule.play, 25, 0),
    *hardship.PARTS,
    *company.PARTS,
    outages.PART,
    scoring.PART,
    attacks.PART,
]
PARTS = {part.name: part for part in _ALL}
