"""The evaluation of a registered model on labelled documents that its run did not know: `evaluate_documents`.

It finds what the stage finds, except what needs the training: the baseline, and thresholds, which are chosen on the
validation split. Takes arrays and the model's own code; touches no file.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.analysis import Analysis, Attribution, Finding
from pipeline_config.contracts.evaluation import Scores
from tasks.evaluation.calibration import describe_calibration, find_kept_shares
from tasks.evaluation.metrics import SplitAnswers, measure_answers
from tasks.evaluation.mistakes import find_errors, list_suspects
from tasks.evaluation.prediction_table import tabulate_predictions
from tasks.evaluation.slices import (
    MOST_CLASSES,
    Feature,
    cut_column,
    cut_documents,
    cut_lengths,
    cut_values,
    measure_slices,
)
from tasks.evaluation.verdict import TRAINING, write_verdict

_TOKENIZED = 2048  # texts at a time
_LEAST_PROBABILITY = 1e-300
_SHOWN = 10  # unknown labels and classes in a line


class Documents(NamedTuple):
    """Labelled documents with a model's answers.

    Attributes:
        labels: the classes of the model, in the order of their ids.
        texts: the texts.
        truth: int64[N] class ids.
        probabilities: float64[N, C].
        temperature: what the model divided its logits by.
        seen: bool[N], which texts the model was trained on; None if that is not known.
        unknown: number of further documents by label, whose label is no class of the model.
        left_out: number of rows by reason that have no text or no label, or cannot be read.
        columns: the values of each kept column.
    """

    labels: Sequence[str]
    texts: Sequence[str]
    truth: np.ndarray
    probabilities: np.ndarray
    temperature: float
    seen: np.ndarray | None
    unknown: Mapping[str, int]
    left_out: Mapping[str, int]
    columns: Mapping[str, list[str | None]]


def evaluate_documents(documents: Documents, code: Any) -> tuple[Scores, Analysis]:
    """Return the scores of a model and what was found beyond them.

    Args:
        documents: at least one.
        code: the model's own code, with network and tokenizer (`ServedClassifier`).
    """
    labels, truth, probabilities = list(documents.labels), documents.truth, documents.probabilities
    positions = np.arange(len(truth))
    scores = measure_answers(SplitAnswers(positions, truth, probabilities), labels)
    table = pa.table(
        {"doc_id": positions, "split": ["test"] * len(truth), "label": [labels[number] for number in truth]}
    )
    predictions = tabulate_predictions(table, labels, probabilities)
    unseen = predictions if documents.seen is None else predictions.filter(pa.array(~documents.seen))
    suspects, suspected = list_suspects([unseen] if len(unseen) else [], labels, _reader(documents.texts))
    features = cut(documents, code)
    if documents.seen is not None:
        features.append(cut_values(TRAINING, ["trained on" if seen else "new" for seen in documents.seen]))
    # the logits less a number for each document, which changes no probability at any temperature
    logits = documents.temperature * np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    analysis = Analysis(
        verdict=(),
        calibration=describe_calibration(logits, truth, documents.temperature),
        kept_shares=find_kept_shares(truth, probabilities),
        class_thresholds=(),
        slices=measure_slices(probabilities.argmax(axis=1) == truth, None, features),
        comparisons=(),
        errors=find_errors(predictions, labels, _reader(documents.texts)),
        suspects=suspects,
        suspected=suspected,
        attributions=explain(code, documents),
    )
    verdict = (*describe_documents(documents, scores), *write_verdict(scores, analysis))
    return scores, analysis.model_copy(update={"verdict": verdict})


def cut(documents: Documents, code: Any) -> list[Feature]:
    """Return what the documents are cut by; of a model of an older release, whose tokens are not known, by words."""
    truth, labels, columns = documents.truth, documents.labels, dict(documents.columns)
    if _shows_tokens(code):
        input_ids, offsets = encode(code, documents.texts)
        return cut_documents(truth, labels, input_ids=input_ids, offsets=offsets, columns=columns)
    return [
        cut_lengths(np.array([len(text.split()) for text in documents.texts]), "words"),
        cut_values("class", [labels[number] for number in truth], most=MOST_CLASSES),
        *(cut_column(name, values) for name, values in columns.items()),
    ]


def encode(code: Any, texts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat token ids of texts, and int64[N + 1]: where each begins in them, as in `EncodedSplit`."""
    ids: list[list[int]] = []
    for start in range(0, len(texts), _TOKENIZED):
        batch = texts[start : start + _TOKENIZED]
        ids += [code._encode(tokens) for tokens in code.tokenizers.tokenize_texts(batch, code.text["tokenizer"])]
    flat = np.fromiter((number for document in ids for number in document), np.int32)
    return flat, np.concatenate([[0], np.cumsum([len(document) for document in ids])]).astype(np.int64)


def explain(code: Any, documents: Documents) -> tuple[Attribution, ...]:
    """Return the weights of the tokens of some right and some wrong answers; none if its code weighs no tokens."""
    from tasks.evaluation.attribution import (  # not at the top: torch is slow to import
        EncodedText,
        attribute_documents,
        choose_sample,
        find_weigh,
        match_tokens,
    )

    chosen = choose_sample(documents.truth, documents.probabilities)
    weigh = find_weigh(code)
    if weigh is None or not _shows_tokens(code):
        return ()
    tokenized = code.tokenizers.tokenize_texts([documents.texts[i] for i in chosen], code.text["tokenizer"])
    encoded = []
    for position, tokens in zip(chosen.tolist(), tokenized, strict=True):
        token_ids = [code.token_ids.get(token, code.text["unk_idx"]) for token in tokens]
        input_ids = code._encode(tokens)
        label = documents.labels[documents.truth[position]]
        encoded.append(EncodedText(position, tokens, match_tokens(input_ids, token_ids), input_ids, label))
    return attribute_documents(weigh, encoded, list(documents.labels), documents.probabilities[chosen])


def _shows_tokens(code: Any) -> bool:
    return all(hasattr(code, name) for name in ("network", "tokenizers", "text", "token_ids", "_encode"))


def describe_documents(documents: Documents, scores: Scores) -> tuple[Finding, ...]:
    """Return what limits the scores: labels that are no classes, texts of the training, rows that were left out."""
    found = []
    if documents.unknown:
        unknown = sum(documents.unknown.values())
        total = unknown + len(documents.truth)
        as_wrong = scores.accuracy * len(documents.truth) / total
        found.append(
            Finding(
                level="bad",
                text=f"{unknown:,} of {total:,} documents have a label that the model does not know "
                f"({count_words(documents.unknown)}); its classes are {_cut(documents.labels)}. The scores are without "
                f"them; counted as wrong answers, they give an accuracy of {100 * as_wrong:.1f} %.",
            )
        )
    if documents.seen is None:
        text = "Which texts this version was trained on is not known, so some of these may be among them."
        found.append(Finding(level="note", text=text))
    elif seen := int(documents.seen.sum()):
        new = ~documents.seen
        right = documents.probabilities.argmax(axis=1) == documents.truth
        rest = f"on the other {int(new.sum()):,} the accuracy is {100 * right[new].mean():.1f} %" if new.any() else ""
        found.append(
            Finding(
                level="bad",
                text=f"The version was trained on {seen:,} of these {len(new):,} texts, so the scores are too good"
                f"{'; ' + rest if rest else ''}.",
            )
        )
    if documents.left_out:
        total = sum(documents.left_out.values())
        text = f"{total:,} rows were left out: {count_words(documents.left_out)}."
        found.append(Finding(level="note", text=text))
    return tuple(found)


def count_words(counts: Mapping[str, int]) -> str:
    """Return counts in words, the largest first, such as `no_label 3, empty_text 1`."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    more = f" and {len(ranked) - _SHOWN} more" if len(ranked) > _SHOWN else ""
    return ", ".join(f"{name[:40]} {count:,}" for name, count in ranked[:_SHOWN]) + more


def _cut(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _SHOWN} more" if len(labels) > _SHOWN else ""
    return ", ".join(label[:40] for label in labels[:_SHOWN]) + more


def _reader(texts: Sequence[str]) -> Any:
    return lambda positions: {position: texts[position] for position in positions}
