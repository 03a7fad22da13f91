"""Mistakes worth reading: the most confident wrong predictions, and labels that are probably wrong.

Takes tables of predictions and a function that reads texts. Wrong labels are looked for as in confident learning
(Northcutt, Jiang & Chuang 2021): a label is suspected if a model that was not trained on the document gives another
class at least the mean probability that documents of that class get.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.contracts.analysis import ErrorExample, SuspectLabel
from pipeline_config.schemas import DOCUMENTS_FILE
from tasks.corpus.near_duplicates import find_near_duplicates
from tasks.store.artifacts import ArtifactRef

MOST_CANDIDATES = 1000  # wrong predictions that are compared with each other to find near-copies
SIMILARITY = 0.6  # of near-copies: share of five-word sequences in common
ReadTexts = Callable[[Sequence[int]], dict[int, str]]


class Suspects(NamedTuple):
    """Documents whose label is probably wrong.

    Attributes:
        positions: int64[K], the documents, the most probable first.
        suggested: int64[K], the class that each probably belongs to.
    """

    positions: np.ndarray
    suggested: np.ndarray


def read_texts(documents: ArtifactRef, doc_ids: Iterable[int]) -> dict[int, str]:
    """Return the texts of some documents by `doc_id`; the file is read block by block."""
    wanted = pa.array(sorted(set(doc_ids)), pa.int64())
    found: dict[int, str] = {}
    with pq.ParquetFile(documents.path(DOCUMENTS_FILE)) as file:
        for group in range(file.num_row_groups):
            ids = file.read_row_group(group, columns=["doc_id"])["doc_id"].to_numpy()
            places = np.flatnonzero(np.isin(ids, wanted.to_numpy()))
            if len(places):
                texts = file.read_row_group(group, columns=["text"])["text"].take(pa.array(places))
                found.update(zip(ids[places].tolist(), texts.to_pylist(), strict=True))
    return found


def find_errors(
    predictions: pa.Table, labels: Sequence[str], read: ReadTexts, *, most: int = 15
) -> tuple[ErrorExample, ...]:
    """Return the wrong test predictions of the highest probability; near-copies among them are shown once.

    Args:
        predictions: in the schema `predictions_schema`.
        labels: names of the classes.
        read: returns texts by `doc_id`.
        most: how many to return.
    """
    test = predictions.filter(pa.array(predictions["split"].to_numpy() == "test"))
    probabilities = np.stack([test[f"p_{label}"].to_numpy() for label in labels], axis=1).max(axis=1)
    doc_ids, truth, predicted = (test[name].to_numpy() for name in ("doc_id", "label", "prediction"))
    wrong = np.flatnonzero(truth != predicted)
    wrong = wrong[np.lexsort([doc_ids[wrong], -probabilities[wrong]])][:MOST_CANDIDATES]
    texts = read(doc_ids[wrong].tolist())
    ordered = [texts[i] for i in doc_ids[wrong].tolist()]
    groups = group_copies(ordered)
    shown = np.unique(groups, return_index=True)[1]
    return tuple(
        ErrorExample(
            doc_id=int(doc_ids[wrong[place]]),
            text=ordered[place],
            label=truth[wrong[place]],
            prediction=predicted[wrong[place]],
            probability=float(probabilities[wrong[place]]),
            copies=int((groups == groups[place]).sum()) - 1,
        )
        for place in sorted(shown.tolist())[:most]
    )


def group_copies(texts: Sequence[str]) -> np.ndarray:
    """Return int[N]: equal numbers for texts that are near-copies of each other."""
    from scipy.sparse import coo_array  # not at the top: slow to import
    from scipy.sparse.csgraph import connected_components

    pairs = find_near_duplicates([pa.array(texts, pa.large_string())], threshold=SIMILARITY)
    linked = coo_array((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(texts), len(texts)))
    groups: np.ndarray = connected_components(linked, directed=False)[1]
    return groups


def find_suspects(label_ids: np.ndarray, probabilities: np.ndarray) -> Suspects:
    """Return the documents off the diagonal of the confident joint, by falling margin of the suggested class.

    The threshold of a class is the mean probability that documents with its label get for it. A document is counted for
    the most probable class among those whose threshold it reaches; if that is not its label, the label is suspected.

    Args:
        label_ids: int[N], the given labels.
        probabilities: float64[N, C], of a model that was not trained on the document; a row of zeros says nothing.
    """
    count, classes = probabilities.shape
    sizes = np.bincount(label_ids, minlength=classes)
    own = probabilities[np.arange(count), label_ids]
    thresholds = np.bincount(label_ids, own, minlength=classes) / np.maximum(sizes, 1)
    reached = (probabilities >= thresholds) & (probabilities > 0) & (sizes > 0)
    confident = np.where(reached, probabilities, -1.0)
    suggested = confident.argmax(axis=1)
    positions = np.flatnonzero(reached.any(axis=1) & (suggested != label_ids))
    margins = probabilities[positions, suggested[positions]] - own[positions]
    positions = positions[np.argsort(-margins, kind="stable")]
    return Suspects(positions, suggested[positions])


def list_suspects(
    tables: Sequence[pa.Table], labels: Sequence[str], read: ReadTexts, *, most: int = 30
) -> tuple[tuple[SuspectLabel, ...], int]:
    """Return the documents whose label is most probably wrong, and the number of all that are suspected.

    Args:
        tables: predictions (`predictions_schema`), each of a model that was not trained on its documents; thresholds
            are those of each table.
        labels: names of the classes.
        read: returns texts by `doc_id`.
        most: how many to return.
    """
    rows: list[tuple[float, int, str, str, str, float]] = []
    for table in tables:
        probabilities = np.stack([table[f"p_{label}"].to_numpy() for label in labels], axis=1)
        label_ids = pa.compute.index_in(table["label"], pa.array(labels, pa.string())).to_numpy()
        columns = [table[name].to_pylist() for name in ("doc_id", "split", "label")]
        for place, suggested in zip(*find_suspects(label_ids, probabilities), strict=True):
            doc_id, split, label = (column[place] for column in columns)
            probability = float(probabilities[place, suggested])
            margin = probability - float(probabilities[place, label_ids[place]])
            rows.append((-margin, doc_id, split, label, labels[suggested], probability))
    rows.sort()
    shown = rows[:most]
    texts = read([row[1] for row in shown])
    names = ("doc_id", "split", "label", "suggested", "probability")
    found = tuple(SuspectLabel(text=texts[row[1]], **dict(zip(names, row[1:], strict=True))) for row in shown)
    return found, len(rows)
