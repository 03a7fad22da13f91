"""Whether retraining is recommended: a pure rule over the last windows."""

from collections.abc import Sequence
from typing import NamedTuple


class Recommendation(NamedTuple):
    """Whether to retrain, and why or why not, in a sentence."""

    retrain: bool
    reason: str


def recommend_retraining(
    changed: Sequence[bool | None],
    *,
    days: float,
    labelled: int,
    in_a_row: int,
    cool_down_days: float,
    fewest_labelled: int,
) -> Recommendation:
    """Recommend a retraining after changed windows in a row, with enough new labels, and not soon after the last.

    Args:
        changed: of each window of the version, the oldest first, whether it differed from the reference. None is a
            window with too few texts, which counts neither way.
        days: since the version was registered.
        labelled: texts of these windows whose labels have arrived.
        in_a_row: how many of the last windows have to differ.
        cool_down_days: days after a registration without a recommendation.
        fewest_labelled: new labels that a retraining needs to learn anything.
    """
    decided = [one for one in changed if one is not None]
    row = next((count for count, one in enumerate(reversed(decided)) if not one), len(decided))
    seen = f"{_count(row, 'window')} in a row changed"
    if row < in_a_row:
        return Recommendation(False, f"{seen}; {in_a_row} would be a reason to retrain")
    if days < cool_down_days:
        return Recommendation(
            False, f"{seen}, but the version is {days:.1f} days old; retraining is recommended after {cool_down_days:g}"
        )
    if labelled < fewest_labelled:
        return Recommendation(
            False,
            f"{seen}, but only {_count(labelled, 'new label')} arrived; label {fewest_labelled - labelled:,} more "
            "texts, and give them to `gloveflow labels`",
        )
    return Recommendation(True, f"{seen}, and {_count(labelled, 'new label')} arrived: retrain with them")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
