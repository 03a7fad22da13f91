"""The model card in Markdown: the description of a version, and the file `card.md` of its model.

The same model gives the same card: it holds no date, no run and no place on a machine, because the digest of a model's
files tells whether it is registered already.
"""

import json
import platform
import shlex
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from pipeline_config.contracts.analysis import Analysis
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.evaluation import Candidate, Metrics, ScoreName, Scores
from pipeline_config.schemas import SPLITS
from pipeline_config.settings import PipelineConfig
from tasks.reporting.evidence import name_scores
from tasks.reporting.licences import describe_corpus_licence, describe_vectors
from tasks.reporting.page import HEADLINES
from tasks.runtime.escaping import escape_markdown

MOST_CHARACTERS = 5000  # of the description of a version in MLflow's database
_KINDS: dict[Candidate, str] = {
    "lstm": "An LSTM over word vectors, which reads {longest} tokens of a text.",
    "linear": "A linear model over groups of up to three tokens and pieces of words.",
    "hybrid": "An LSTM over word vectors, which reads {longest} tokens of a text, together with a linear model over "
    "groups of up to three tokens and pieces of words, which reads all.",
}
_WHOLE = "The whole card is the file `artifacts/bundle/card.md` of the model."


class CardFacts(NamedTuple):
    """What a card is written from.

    Attributes:
        config: configuration of the run.
        metrics: scores of the classifier and the baseline.
        analysis: what the evaluation found beyond them.
        profile: of the corpus.
        documents_digest: SHA-256 of the documents.
        requirements: pinned packages that the model needs.
    """

    config: PipelineConfig
    metrics: Metrics
    analysis: Analysis
    profile: CorpusProfile
    documents_digest: str
    requirements: Sequence[str]


def write_card(facts: CardFacts, *, most_classes: int | None = None) -> str:
    """Return the card; `most_classes` lists only that many classes, the largest ones."""
    lines = [
        f"# {escape_markdown(facts.config.registered_model)}",
        "",
        *_intended_use(facts),
        *_metrics(facts),
        *_limits(facts),
        *_usage(facts),
        *_data(facts, most_classes),
        *_licences(facts),
        *_environment(facts),
    ]
    return "\n".join(lines) + "\n"


def describe_version(facts: CardFacts) -> str:
    """Return the card as the description of a version: with the largest classes only, and within MLflow's limit."""
    card = write_card(facts, most_classes=20)
    if len(card) <= MOST_CHARACTERS:
        return card
    kept: list[str] = []
    room = MOST_CHARACTERS - len(_WHOLE) - 2
    for line in card.splitlines():
        room -= len(line) + 1
        if room < 0:
            break
        kept.append(line)
    if sum(line.startswith("```") for line in kept) % 2:  # the cut is inside a block of code
        kept = kept[: max(number for number, line in enumerate(kept) if line.startswith("```"))]
    return "\n".join([*kept, "", _WHOLE])


def _intended_use(facts: CardFacts) -> Iterator[str]:
    count = len(facts.metrics.test.lstm.classes)
    tokenizer, longest = facts.config.tokenization.tokenizer, facts.config.bucketing.max_length
    yield from (
        "## Intended use",
        "",
        f"Gives a text one of {count} classes, with the probability of each. It is meant for texts like those of its "
        "corpus: of the same source, language and length. It answers every text with one of its classes, also one that "
        "belongs to none of them.",
        "",
        f"{_KINDS[facts.metrics.candidate].format(longest=longest)} Its tokenizer is {escape_markdown(tokenizer)}.",
        "",
    )


def _metrics(facts: CardFacts) -> Iterator[str]:
    scores = name_scores(facts.metrics)
    yield from (
        "## Metrics",
        "",
        f"On {facts.metrics.test.lstm.documents:,} test documents, with 95 % intervals. This model is the first.",
        "",
        f"| on the test split | {' | '.join(scores)} |",
        f"|---{'|---' * len(scores)}|",
    )
    for key, name, _ in HEADLINES:
        yield f"| {name} | {' | '.join(_interval(one, key) for one in scores.values())} |"
    calibration = facts.analysis.calibration
    yield from (
        "",
        f"Its probabilities are calibrated with the temperature {calibration.temperature:.3f}; without it, the "
        f"calibration error was {calibration.ece_before:.4f}.",
        "",
    )


def _limits(facts: CardFacts) -> Iterator[str]:
    findings = [escape_markdown(finding.text) for finding in facts.analysis.verdict if finding.level != "good"]
    weak = [
        f"Where {escape_markdown(part.feature)} is {escape_markdown(part.value)} ({part.documents:,} documents), its "
        f"accuracy is {part.accuracy.value:.3f}, {-100 * part.difference.value:.1f} points below the rest."
        for part in facts.analysis.slices
        if not part.small and part.p_value < 0.05 and part.difference.high < 0
    ]
    behind = [
        f"Where {escape_markdown(part.feature)} is {escape_markdown(part.value)} ({part.documents:,} documents), the "
        f"baseline is better: {part.baseline_accuracy:.3f} against {part.accuracy.value:.3f}."
        for part in facts.analysis.slices
        if part.baseline_accuracy is not None
        and part.baseline_p_value is not None
        and not part.small
        and part.baseline_p_value < 0.05
        and part.baseline_accuracy > part.accuracy.value
    ]
    lines = [*findings, *weak[:10], *behind[:10]] or ["None that the evaluation found."]
    yield from ("## Limits", "", *(f"- {line}" for line in lines), "")


def _usage(facts: CardFacts) -> Iterator[str]:
    model = facts.config.registered_model
    option = shlex.quote(f"registration.model={model}")
    address = f"models:/{model}@{facts.config.registration.alias}"
    load = f"import mlflow; print(mlflow.pyfunc.load_model({json.dumps(address)}).predict(['some text']))"
    yield from (
        "## How to use",
        "",
        "```sh",
        f'gloveflow predict --set {option} "some text"',
        f"gloveflow score --set {option} texts.csv",
        f"mlflow models serve -m {shlex.quote(address)} --env-manager local -p 5001",
        "```",
        "",
        "```python",
        load,
        "```",
        "",
    )


def _data(facts: CardFacts, most: int | None) -> Iterator[str]:
    profile = facts.profile
    sizes = {label: [profile.documents.get(split, {}).get(label, 0) for split in SPLITS] for label in profile.labels}
    largest = sorted(sizes, key=lambda label: (-sum(sizes[label]), label))[:most]
    totals = [sum(counts) for counts in zip(*sizes.values(), strict=True)]
    yield from (
        "## Data",
        "",
        f"Documents with the digest `{facts.documents_digest}`: {sum(totals):,} of {profile.rows:,} rows. Half of the "
        f"texts have at most {profile.characters.p50:,} characters, 95 % at most {profile.characters.p95:,}.",
        "",
        f"| class | {' | '.join(SPLITS)} |",
        "|---|---|---|---|",
        *(
            f"| {escape_markdown(label)} | {' | '.join(f'{count:,}' for count in sizes[label])} |"
            for label in (largest if most else sizes)
        ),
        f"| all | {' | '.join(f'{count:,}' for count in totals)} |",
        "",
    )
    if len(largest) < len(sizes):
        yield from (f"The {len(largest)} largest of {len(sizes)} classes.", "")


def _licences(facts: CardFacts) -> Iterator[str]:
    corpus = describe_corpus_licence(facts.config.corpus.source or "")
    yield from (
        "## Licences",
        "",
        f"- corpus: {escape_markdown(corpus)}",
        f"- word vectors: {escape_markdown(describe_vectors(facts.config.embeddings.source))}",
        "",
    )


def _environment(facts: CardFacts) -> Iterator[str]:
    python = ".".join(platform.python_version_tuple()[:2])
    yield from ("## Environment", "", f"Python {python}, {', '.join(facts.requirements)}", "")


def _interval(scores: Scores, key: ScoreName) -> str:
    value, ends = getattr(scores, key), scores.intervals.get(key)
    if value is None:
        return "-"
    return f"{value:.4f}" if ends is None else f"{value:.4f} ({ends[0]:.4f} to {ends[1]:.4f})"
