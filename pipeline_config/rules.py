"""The rules that choose the settings that are `auto`, by facts about the tokenized corpus.

A rule is a function from facts, and from settings that come before it, to a value and the reason for it in words. The
numbers were chosen on validation data; `tests/benchmarks/LOG.md` has the trials. Touches no file.
"""

import math
import operator
from collections.abc import Callable
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.tokens import CorpusFacts
from pipeline_config.sections import AUTO
from pipeline_config.settings import PipelineConfig

KEPT_TOKENS = 0.98  # share of the train tokens that `max_length` keeps
LONGEST, SHORTEST = 1000, 32  # of `max_length`
MANY_TOKENS = 1_000_000  # from here on a token has to occur twice
EXTENSION = 100_000
FEWEST_BUCKETS, MOST_BUCKETS = 1 << 12, 1 << 18
BATCHES, LARGEST_BATCH = ((1_000, 8), (5_000, 16), (20_000, 32)), 64  # by the number of train documents below a limit
RATES, LARGEST_RATE = ((8, 0.004), (16, 0.005)), 0.006  # by the batch size up to a limit
STEPS = 1000  # a training has at least so many, unless the limits of the epochs forbid it
USUAL_EPOCHS, MOST_EPOCHS, LEAST_EPOCHS = 8, 20, 3
TRAINED_TOKENS = 10_000_000  # of all epochs, about two to four minutes on two cores


class Choice(BaseModel):
    """The value of a setting that a rule chose, and why."""

    model_config = ConfigDict(frozen=True)

    value: int | float
    reason: str


class ChosenSettings(NamedTuple):
    """A configuration without `auto`, and what the rules chose, by dotted key."""

    config: PipelineConfig
    choices: dict[str, Choice]


def choose_settings(config: PipelineConfig, facts: CorpusFacts) -> ChosenSettings:
    """Replace every `auto` of a configuration by what its rule says for a corpus."""
    choices = {}
    for key in list_open_settings(config):
        choice = choices[key] = RULES[key](facts, config)
        section, name = key.split(".")
        changed = getattr(config, section).model_copy(update={name: choice.value})
        config = config.model_copy(update={section: changed})
    return ChosenSettings(config, choices)


def list_open_settings(config: PipelineConfig) -> list[str]:
    """Return the dotted keys of the settings that are `auto`."""
    return [key for key in RULES if operator.attrgetter(key)(config) == AUTO]


def _min_freq(facts: CorpusFacts, _: PipelineConfig) -> Choice:
    if facts.tokens < MANY_TOKENS:
        return Choice(value=1, reason=f"{facts.tokens:,} train tokens, in which rare words matter")
    return Choice(value=2, reason=f"{facts.tokens:,} train tokens")


def _extend_from_vectors(facts: CorpusFacts, config: PipelineConfig) -> Choice:
    if config.embeddings.source == "none":
        return Choice(value=0, reason="there are no vectors")
    return Choice(value=EXTENSION, reason=f"new texts have words that {_count(facts)} lack")


def _max_length(facts: CorpusFacts, _: PipelineConfig) -> Choice:
    share = f"{KEPT_TOKENS:.0%} of the train tokens"
    if facts.usual_length > LONGEST:
        return Choice(value=LONGEST, reason=f"the most that a rule chooses; {share} would need {facts.usual_length:,}")
    return Choice(value=max(facts.usual_length, SHORTEST), reason=f"keeps {share} or more")


def _batch_size(facts: CorpusFacts, _: PipelineConfig) -> Choice:
    size = next((size for most, size in BATCHES if facts.documents < most), LARGEST_BATCH)
    return Choice(value=size, reason=_count(facts))


def _bigram_buckets(facts: CorpusFacts, _: PipelineConfig) -> Choice:
    power = math.ceil(math.log2(max(facts.tokens, 1)))
    buckets = min(max(1 << power, FEWEST_BUCKETS), MOST_BUCKETS)
    limit = "the most that a rule chooses; " if buckets < facts.tokens else ""
    return Choice(value=buckets, reason=f"{limit}{facts.tokens:,} train tokens")


def _learning_rate(_: CorpusFacts, config: PipelineConfig) -> Choice:
    size = config.bucketing.batch_size
    rate = next((rate for most, rate in RATES if size <= most), LARGEST_RATE)
    return Choice(value=rate, reason=f"batches of {size}")


def _epochs(facts: CorpusFacts, config: PipelineConfig) -> Choice:
    size = config.bucketing.batch_size
    wanted = min(max(math.ceil(STEPS * size / facts.documents), USUAL_EPOCHS), MOST_EPOCHS)
    read = min(facts.tokens, facts.documents * config.bucketing.max_length)  # by an epoch, at most
    affordable = max(TRAINED_TOKENS // max(read, 1), LEAST_EPOCHS)
    epochs = min(wanted, affordable)
    steps = epochs * math.ceil(facts.documents / size)
    limit = f"; more would read over {TRAINED_TOKENS:,} tokens" if affordable < wanted else ""
    return Choice(value=epochs, reason=f"{_count(facts)} in batches of {size} give {steps:,} steps{limit}")


def _count(facts: CorpusFacts) -> str:
    return f"{facts.documents:,} train documents"


# in the order in which they are applied: some need the values of those before them
RULES: dict[str, Callable[[CorpusFacts, PipelineConfig], Choice]] = {
    "vocabulary.min_freq": _min_freq,
    "vocabulary.extend_from_vectors": _extend_from_vectors,
    "bucketing.max_length": _max_length,
    "bucketing.batch_size": _batch_size,
    "model.bigram_buckets": _bigram_buckets,
    "training.learning_rate": _learning_rate,
    "training.epochs": _epochs,
}
