"""Compare two registered versions: configuration, test scores, vocabulary, and their answers to the same documents."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.analysis import PairedComparison, Slice
from pipeline_config.errors import UnusableModelError
from pipeline_config.schemas import DOCUMENTS_FILE, PREDICTIONS_FILE
from tasks.evaluation import paired
from tasks.evaluation.slices import MOST_CLASSES, cut_lengths, cut_values, measure_slices
from tasks.registry.seen import find_seen, hash_documents, read_training_texts
from tasks.store.artifacts import ArtifactRef, find_output
from tasks.tracking import loading, versions
from tasks.tracking.model_files import Version, open_verified
from tasks.tracking.version_list import DOCUMENTS_TAG, REGISTERED, RUN_TAG, score_tag

MAX_EXAMPLES = 10
Texts = list[str]


@dataclass
class Answers:
    """The answers of two versions to the same documents.

    Attributes:
        of: what the documents are.
        documents: their number.
        different: how many got different labels.
        right: how many each got right, both did, and only one did; None without labels.
        examples: text, label, and both answers of some that got different labels.
        paired: differences of accuracy and macro F1, version `a` less `b`, with intervals; None without labels.
        slices: accuracy of `a`, and that of `b` as the baseline's, by length and class; empty without labels.
        left_out: texts that were left out because one of the versions was trained on them.
    """

    of: str
    documents: int
    different: int
    right: dict[str, int] | None
    examples: list[dict[str, str]]
    paired: PairedComparison | None = None
    slices: tuple[Slice, ...] = ()
    left_out: int = 0

    def describe(self) -> dict[str, Any]:
        """Return all of it for JSON."""
        parts = {
            "paired": self.paired and self.paired.model_dump(mode="json"),
            "slices": [part.model_dump(mode="json") for part in self.slices],
        }
        return {key: parts.get(key, value) for key, value in vars(self).items()}


@dataclass
class Comparison:
    """What differs between versions `a` and `b` of a model; `notes` say what could not be compared, and why."""

    model: str
    a: int
    b: int
    settings: dict[str, list[str | None]] = field(default_factory=dict)
    scores: dict[str, list[float | None]] = field(default_factory=dict)
    vocabulary: dict[str, int | list[str]] = field(default_factory=dict)
    answers: Answers | None = None
    notes: list[str] = field(default_factory=list)


def compare_versions(name: str, a: int, b: int) -> Comparison:
    """Compare two versions, and their predictions on the test split if both were measured on the same documents.

    Raises:
        ConfigError: there is no such model or version.
    """
    pair = [versions.require_version(name, number) for number in (a, b)]
    result = Comparison(name, a, b)
    for model in (REGISTERED, "lstm", "baseline"):
        for metric in ("accuracy", "macro_f1"):
            tag = score_tag(model, metric)
            result.scores[tag] = [_number(version.tags.get(tag)) for version in pair]
    records = [versions.read_run(version.tags.get(RUN_TAG, "")) for version in pair]
    for version, record in zip(pair, records, strict=True):
        if record is None:
            result.notes.append(f"version {version.version}: its MLflow run is gone, and its configuration with it")
    first, second = records
    if first and second:
        for key in sorted(first.settings.keys() | second.settings.keys()):
            values = [first.settings.get(key), second.settings.get(key)]
            if values[0] != values[1]:
                result.settings[key] = values
    try:
        result.vocabulary = _compare_vocabularies(*map(_read_vocabulary, pair))
    except UnusableModelError as error:
        result.notes.append(str(error))
    if pair[0].tags.get(DOCUMENTS_TAG) != pair[1].tags.get(DOCUMENTS_TAG):
        result.notes.append("they were measured on different documents")
        newer = first if a > b else second
        result.answers = _answer_test_split(newer, pair, max(a, b), result.notes) if newer else None
    elif first and second:
        result.answers = _compare_predictions(first, second, result.notes)
    return result


def compare_answers(of: str, texts: Texts, labels: Texts | None, a: Texts, b: Texts) -> Answers:
    """Count and show where two versions gave different labels to texts.

    Args:
        of: what the texts are.
        texts: the texts.
        labels: their true labels, if they are known.
        a: the labels that version `a` gave.
        b: the labels that version `b` gave.
    """
    rows = list(zip(texts, labels or [""] * len(texts), a, b, strict=True))
    different = [row for row in rows if row[2] != row[3]]
    right = None
    if labels is not None:
        hits = [(truth == one, truth == other) for _, truth, one, other in rows]
        names = {"both": (True, True), "only a": (True, False), "only b": (False, True), "neither": (False, False)}
        right = {key: hits.count(pattern) for key, pattern in names.items()}
    examples = [dict(zip(("text", "label", "a", "b"), row, strict=True)) for row in different[:MAX_EXAMPLES]]
    found = Answers(of, len(rows), len(different), right, examples)
    if labels and rows:
        found.paired, found.slices = _measure(texts, labels, a, b)
    return found


def _measure(texts: Texts, labels: Texts, a: Texts, b: Texts) -> tuple[PairedComparison, tuple[Slice, ...]]:
    """Return the differences between two versions' labels, with intervals, on all texts and on parts of them."""
    names = sorted({*labels, *a, *b})
    ids = {name: number for number, name in enumerate(names)}
    truth, ours, other = (np.array([ids[name] for name in column], np.int64) for column in (labels, a, b))
    one_of_each = np.eye(len(names))
    difference = paired.compare_paired("b", paired.Answers(truth, one_of_each[ours], one_of_each[other]))
    features = [
        cut_lengths(np.array([len(text.split()) for text in texts]), "words"),
        cut_values("class", labels, most=MOST_CLASSES),
    ]
    return difference, measure_slices(ours == truth, other == truth, features)


def _answer_test_split(newer: versions.RunRecord, pair: list[Version], number: int, notes: list[str]) -> Answers | None:
    """Compare the answers to the test split of the newer version, without texts that one of both was trained on."""
    documents = _find_recorded(newer, "ingest_corpus")
    if documents is None:
        notes.append(f"the documents of version {number} are not in the store; --file FILE compares answers to a file")
        return None
    table = documents.read_table(DOCUMENTS_FILE, ["text", "label", "split"])
    test = table.filter(pc.equal(table["split"], "test"))
    try:
        texts, labels = (test[name].to_pylist() for name in ("text", "label"))
        return ask_both(f"the test split of version {number}", texts, labels, pair)
    except UnusableModelError as error:
        notes.append(f"{error}; --file FILE compares answers to a file")
        return None


def ask_both(of: str, texts: Texts, labels: Texts | None, pair: Sequence[Version]) -> Answers:
    """Compare the answers of two versions to texts, without those that one of both was trained on.

    Args:
        of: what the texts are.
        texts: the texts.
        labels: their true labels, if they are known.
        pair: the versions.

    Raises:
        UnusableModelError: a version cannot be used, or it is not known which texts it was trained on.
    """
    seen = np.zeros(len(texts), bool)
    hashes = hash_documents(texts)
    for version in pair:
        with open_verified(version) as folder:
            seen |= find_seen(hashes, read_training_texts(folder / "artifacts/bundle"))
    kept = np.flatnonzero(~seen).tolist()
    new = [texts[place] for place in kept]
    known = None if labels is None else [labels[place] for place in kept]
    answers = [[str(one["label"]) for one in loading.load_version(version)(new)] if new else [] for version in pair]
    found = compare_answers(of, new, known, *answers)
    found.left_out = int(seen.sum())
    return found


def _compare_predictions(first: versions.RunRecord, second: versions.RunRecord, notes: list[str]) -> Answers | None:
    evaluations = [_find_recorded(run, "evaluate_classifier") for run in (first, second)]
    documents = _find_recorded(first, "ingest_corpus")
    if documents is None or None in evaluations:
        notes.append("predictions of a version are not in the store any more; --file FILE compares answers to a file")
        return None
    tables = [_read_test(output) for output in evaluations if output]
    answers = [dict(zip(*(t[c].to_pylist() for c in ("doc_id", "prediction")), strict=True)) for t in tables]
    truth = dict(zip(*(tables[0][c].to_pylist() for c in ("doc_id", "label")), strict=True))
    shared = [identity for identity in truth if identity in answers[1]]
    texts = documents.read_table(DOCUMENTS_FILE, ["doc_id", "text"])
    by_id = dict(zip(texts["doc_id"].to_pylist(), texts["text"].to_pylist(), strict=True))
    return compare_answers(
        "the test split",
        [by_id.get(identity, "") for identity in shared],
        [truth[identity] for identity in shared],
        [answers[0][identity] for identity in shared],
        [answers[1][identity] for identity in shared],
    )


def _read_test(evaluation: ArtifactRef) -> pa.Table:
    table = evaluation.read_table(PREDICTIONS_FILE, ["doc_id", "split", "label", "prediction"])
    return table.filter(pa.array([split == "test" for split in table["split"].to_pylist()], pa.bool_()))


def _find_recorded(run: versions.RunRecord, stage: str) -> ArtifactRef | None:
    """Return an output of a run, if it is in the store with the same content."""
    recorded = run.outputs.get(stage, {})
    output = find_output(stage, str(recorded.get("key", "none")))
    return output if output is not None and output.digest == recorded.get("digest") else None


def _read_vocabulary(version: Version) -> Texts:
    with open_verified(version) as folder:
        return [str(token) for token in json.loads((folder / "artifacts/bundle/vocabulary.json").read_text("utf-8"))]


def _compare_vocabularies(a: Texts, b: Texts) -> dict[str, int | list[str]]:
    in_a, in_b = set(a), set(b)
    only_a, only_b = [t for t in a if t not in in_b], [t for t in b if t not in in_a]
    return {
        "a": len(a),
        "b": len(b),
        "only a": len(only_a),
        "only b": len(only_b),
        "examples of only a": only_a[:MAX_EXAMPLES],
        "examples of only b": only_b[:MAX_EXAMPLES],
    }


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None
