"""How often the gate is wrong: challengers of known quality, judged by the rules of the gate on made test splits.

`python -m tests.campaigns.gate_decisions` prints a table. The answers to each document are drawn: the champion is right
with a given probability, and the challenger differs from it on a given share of the documents, with as many wins and
losses as its true gain asks for. So the truth about each decision is known.

- `better`, one look: challengers of equal quality that are promoted, at most 5 %.
- `better`, a year: series of 365 challengers of equal quality against one champion on one test split; series in which
  any is promoted, at most 5 %. The look counts as in the gate.
- `better`, a gain of twice the detectable one: promoted at least 95 %.
- `not_worse`: challengers that are worse by just the margin, and so a little more than the rule accepts; promoted at
  most 5 %, also if they differ from the champion in nothing but these losses.
"""

import argparse
import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from pipeline_config.registration import GateRule
from tasks.evaluation.paired import Answers, find_detectable_gain, measure_gain
from tasks.registry.rules import Evidence, judge, split_metric

LOOKS = 365
LEVEL = 0.05


class MadeSplit(NamedTuple):
    """A made test split: its size, number of classes, the champion's accuracy, the share on which the models differ."""

    name: str
    documents: int
    classes: int
    accuracy: float
    differ: float


SPLITS = (
    MadeSplit("sentiment", 3816, 3, 0.78, 0.12),
    MadeSplit("SST-2", 1821, 2, 0.84, 0.10),
    MadeSplit("BBC", 220, 5, 0.96, 0.03),
    MadeSplit("IMDB", 25_000, 2, 0.91, 0.06),
)


class Outcome(NamedTuple):
    """A line of the table; `share` is of `trials`, and it should be at most (or at least) `bound`."""

    what: str
    metric: str
    share: float
    trials: int
    bound: float
    at_least: bool = False

    @property
    def holds(self) -> bool:
        """Whether the share agrees with the bound, within three standard errors of the simulation."""
        spread = 3 * np.sqrt(self.bound * (1 - self.bound) / self.trials)
        return bool(self.share >= self.bound - spread if self.at_least else self.share <= self.bound + spread)


def draw_answers(made: MadeSplit, gain: float, rng: np.random.Generator, truth: np.ndarray | None = None) -> Answers:
    """Draw the answers of a challenger whose accuracy is better than the champion's by `gain`, and the champion's."""
    documents, classes = made.documents, made.classes
    if truth is None:
        truth = rng.integers(0, classes, documents)
    shares = (max(made.differ, abs(gain)) + gain) / 2, (max(made.differ, abs(gain)) - gain) / 2
    both = min(made.accuracy - shares[1], 1 - sum(shares))
    kind = rng.choice(4, documents, p=[both, *shares, 1 - both - sum(shares)])
    wrong = (truth + rng.integers(1, classes, documents)) % classes
    ours = np.where((kind == 0) | (kind == 1), truth, wrong)
    other = np.where((kind == 0) | (kind == 2), truth, wrong)
    return Answers(truth, np.eye(classes)[ours], np.eye(classes)[other])


def promotes(rule: GateRule, metric: str, answers: Answers, looks: int) -> bool:
    """Return whether a rule lets the challenger pass at one of some planned looks."""
    evidence = Evidence(answers, "version 1", tuple(map(str, range(answers.ours.shape[1]))))
    alpha = rule.level / looks if rule.require == "better" else rule.level
    return judge(rule, metric, evidence, alpha).passed


def simulate(made: MadeSplit, metric: str, *, trials: int, series: int, seed: int) -> list[Outcome]:
    """Return the shares of wrong and right decisions on a test split of a kind."""
    rng = np.random.default_rng(seed)
    better, not_worse = GateRule(require="better"), GateRule()
    gain = 2 * find_detectable_gain(made.documents, made.differ, LEVEL / LOOKS)

    def share(rule: GateRule, gain: float, looks: int, split: MadeSplit = made) -> float:
        return float(np.mean([promotes(rule, metric, draw_answers(split, gain, rng), looks) for _ in range(trials)]))

    alike = made._replace(differ=0.005)
    outcomes = [
        Outcome("better: of equal quality, one look", metric, share(better, 0.0, 1), trials, LEVEL),
        Outcome("better: twice the detectable gain", metric, share(better, gain, LOOKS), trials, 0.95, at_least=True),
        Outcome("not_worse: worse by the margin", metric, share(not_worse, -0.005, 1), trials, LEVEL),
        Outcome(
            "not_worse: worse by the margin, else the same", metric, share(not_worse, -0.005, 1, alike), trials, LEVEL
        ),
    ]
    if series:
        wrong = [_any_promoted(made, metric, rng) for _ in range(series)]
        outcomes.append(
            Outcome(f"better: any of {LOOKS} of equal quality", metric, float(np.mean(wrong)), series, LEVEL)
        )
    return outcomes


def _any_promoted(made: MadeSplit, metric: str, rng: np.random.Generator) -> bool:
    truth = rng.integers(0, made.classes, made.documents)
    series = (draw_answers(made, 0.0, rng, truth) for _ in range(LOOKS))
    return any(
        _may_pass(answers, metric) and promotes(GateRule(require="better"), metric, answers, LOOKS)
        for answers in series
    )


def _may_pass(answers: Answers, metric: str) -> bool:
    """Return whether a gain is large enough to be looked at: `better` asks for more than 3.6 standard errors here."""
    name, class_id = split_metric(metric, ())
    gain = measure_gain(answers, name, class_id, resamples=200)
    return gain.value > 2.5 * gain.error


def main(arguments: list[str] | None = None, say: Callable[[str], None] = print) -> int:
    """Print the table; return 1 if a share does not agree with its bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="challengers for each line")
    parser.add_argument("--series", type=int, default=40, help="series of 365 looks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sets", nargs="*", default=[made.name for made in SPLITS], help="test splits")
    options = parser.parse_args(arguments)
    failed = 0
    say("| test split | documents | decision | metric | share | should be | trials |\n|---|---|---|---|---|---|---|")
    for made in SPLITS:
        for metric in ("accuracy", "macro_f1") if made.name in options.sets else ():
            for found in simulate(made, metric, trials=options.trials, series=options.series, seed=options.seed):
                failed += not found.holds
                bound = f"{'at least' if found.at_least else 'at most'} {100 * found.bound:.0f} %"
                mark = "" if found.holds else " (broken)"
                say(
                    f"| {made.name} | {made.documents:,} | {found.what} | {found.metric} | {100 * found.share:.1f} %{mark} "
                    f"| {bound} | {found.trials} |"
                )
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
