"""The analysis of the predictions on the test split: puts together what the other modules of this room find.

Takes tables, arrays and functions that read files or explain documents; touches no file.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.contracts.analysis import Analysis, Attribution, Disagreement, PairedComparison, Slice
from pipeline_config.contracts.evaluation import MODEL_NAMES, Candidate
from pipeline_config.schemas import Split
from tasks.batches.encoded_split import EncodedSplit
from tasks.evaluation.calibration import ClassAnswers, describe_calibration, find_class_threshold, find_kept_shares
from tasks.evaluation.metrics import SplitAnswers, read_answers
from tasks.evaluation.mistakes import ReadTexts, find_errors, list_suspects
from tasks.evaluation.paired import Answers, compare_paired
from tasks.evaluation.slices import cut_documents, measure_slices

_DISAGREEMENTS = 5  # examples of either kind


class Evidence(NamedTuple):
    """What an analysis is made from.

    Attributes:
        labels: names of the classes.
        predictions: of the model that is registered, calibrated (`predictions_schema`).
        other: the model that it is compared with.
        other_predictions: those of the other model.
        out_of_fold: those on train documents of models that were not trained on them.
        test: the test split, in the order of `predictions`.
        logits: of the registered model by split, float64[N, C], before the temperature.
        temperature: that of the calibration.
        columns: kept columns of the test documents.
        read: returns texts by `doc_id`.
        explain: returns attributions for float64[N, C] probabilities of the test split.
    """

    labels: list[str]
    predictions: pa.Table
    other: Candidate
    other_predictions: pa.Table
    out_of_fold: pa.Table
    test: EncodedSplit
    logits: dict[Split, np.ndarray]
    temperature: float
    columns: dict[str, list[str | None]]
    read: ReadTexts
    explain: Callable[[np.ndarray], tuple[Attribution, ...]]


def analyse(evidence: Evidence, *, wanted_precision: float) -> Analysis:
    """Return the analysis without its verdict.

    Args:
        evidence: the predictions and what they were made from.
        wanted_precision: precision for which the smallest confidence of each class is looked for.
    """
    labels = evidence.labels
    validation, test = (read_answers(evidence.predictions, labels, split) for split in ("validation", "test"))
    other = align_answers(read_answers(evidence.other_predictions, labels, "test"), test.doc_ids)
    suspects, suspected = list_suspects([evidence.predictions, evidence.out_of_fold], labels, evidence.read)
    return Analysis(
        verdict=(),
        calibration=describe_calibration(evidence.logits["test"], test.label_ids, evidence.temperature),
        kept_shares=find_kept_shares(test.label_ids, test.probabilities),
        class_thresholds=tuple(
            find_class_threshold(
                label,
                ClassAnswers.of(number, validation.label_ids, validation.probabilities),
                ClassAnswers.of(number, test.label_ids, test.probabilities),
                wanted=wanted_precision,
            )
            for number, label in enumerate(labels)
        ),
        slices=cut_slices(test, other, evidence),
        comparisons=(compare_with(MODEL_NAMES[evidence.other], test, other, labels, evidence.read),),
        errors=find_errors(evidence.predictions, labels, evidence.read),
        suspects=suspects,
        suspected=suspected,
        attributions=evidence.explain(test.probabilities),
    )


def align_answers(answers: SplitAnswers, doc_ids: np.ndarray) -> SplitAnswers:
    """Return answers in the order of int64[N] `doc_ids`, all of which they have."""
    order = np.argsort(answers.doc_ids)
    places = order[np.searchsorted(answers.doc_ids, doc_ids, sorter=order)]
    return SplitAnswers(*(column[places] for column in answers))


def cut_slices(test: SplitAnswers, other: SplitAnswers, evidence: Evidence) -> tuple[Slice, ...]:
    """Return the slices of the test split with the accuracy of both models."""
    features = cut_documents(
        test.label_ids,
        evidence.labels,
        input_ids=evidence.test.input_ids,
        offsets=evidence.test.offsets,
        columns=evidence.columns,
    )
    right, other_right = (answers.predicted == answers.label_ids for answers in (test, other))
    return measure_slices(right, other_right, features)


def compare_with(
    name: str, ours: SplitAnswers, other: SplitAnswers, labels: list[str], read: ReadTexts
) -> PairedComparison:
    """Return the comparison with another model's answers to the same documents in the same order."""
    right, other_right = (answers.predicted == answers.label_ids for answers in (ours, other))
    confidence = ours.probabilities.max(axis=1)
    shown = [
        position
        for chosen in (right & ~other_right, other_right & ~right)
        for position in sorted(np.flatnonzero(chosen), key=lambda i: (-confidence[i], ours.doc_ids[i]))[:_DISAGREEMENTS]
    ]
    texts = read([int(ours.doc_ids[position]) for position in shown])
    examples = tuple(
        Disagreement(
            doc_id=int(ours.doc_ids[position]),
            text=texts[int(ours.doc_ids[position])],
            label=labels[ours.label_ids[position]],
            classifier=labels[ours.predicted[position]],
            other=labels[other.predicted[position]],
        )
        for position in shown
    )
    return compare_paired(name, Answers(ours.label_ids, ours.probabilities, other.probabilities), examples)
