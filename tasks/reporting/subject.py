"""What a report is about: the model, its data, its code, and what made it."""

from collections.abc import Mapping
from typing import NamedTuple


class Difference(NamedTuple):
    """A setting that differs from the champion's; None where one of the two has no such setting."""

    setting: str
    champion: str | None
    here: str | None


class Subject(NamedTuple):
    """What a report is about.

    Attributes:
        model: name of the registered model.
        version: its version; None if it is not registered.
        date: when the report was made, in words.
        run: name of the run.
        run_url: address of the MLflow run.
        corpus: sources of the corpus, without secrets.
        corpus_digest: SHA-256 of its documents.
        seeds: the seed of the run, and those of several trainings, in words; empty for an evaluation on a file.
        code: commit or version of the code.
        champion: version that had the alias before the decision; None if none had.
        differences: settings that differ from the champion's; None if its configuration is not known.
        documents: what was scored.
        spread: mean and deviation over seeds by `<split>_<metric>_mean` and `_deviation`; empty for a single seed.
    """

    model: str
    version: str | None
    date: str
    run: str
    run_url: str
    corpus: str
    corpus_digest: str
    seeds: str
    code: str
    champion: str | None = None
    differences: tuple[Difference, ...] | None = None
    documents: str = "the test split"
    spread: Mapping[str, float] = {}


def find_differences(here: Mapping[str, str], champion: Mapping[str, str]) -> tuple[Difference, ...]:
    """Return the settings with different values, in the order of `here`, then those that only the champion has."""
    names = [*here, *(name for name in champion if name not in here)]
    return tuple(
        Difference(name, champion.get(name), here.get(name)) for name in names if here.get(name) != champion.get(name)
    )
