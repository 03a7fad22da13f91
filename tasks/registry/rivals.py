"""The answers that the gate compares, all to the test split of one run: of the new version, baseline and champion.

The new version's and the baseline's come from checked outputs of this run. The champion's come from the output of its
own evaluation, if the store still has it as the champion's tags name it and it is of the same documents; otherwise the
champion is loaded and answers now. In both cases its files are compared with their digests first.
"""

import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.training import ModelDescription
from pipeline_config.errors import UnusableModelError
from pipeline_config.schemas import DOCUMENTS_FILE, KEPT_COLUMNS_FILE, MODEL_FILE, PREDICTIONS_FILE
from tasks.registry.seen import find_seen, hash_documents, hash_training_texts, read_training_texts
from tasks.store.artifacts import ArtifactRef, find_output
from tasks.tracking import loading
from tasks.tracking.loaded import BUNDLE
from tasks.tracking.model_files import Version, open_verified, version_uri
from tasks.tracking.version_list import DOCUMENTS_TAG, EVALUATION_TAG


class HeldOut(NamedTuple):
    """The test split of a run with the answers of its classifier and its baseline, in the order of the documents.

    Attributes:
        labels: the classes of the classifier, in the order of their ids.
        doc_ids: int64[N].
        texts: the texts.
        hashes: uint64[N], their hashes.
        truth: int[N] class ids.
        ours: float[N, C] probabilities of the classifier.
        baseline: float[N, C] probabilities of the baseline.
        training_texts: uint64[M], sorted: hashes of the texts that the classifier was trained on.
        documents: digest of the documents of the run.
        columns: `doc_id` and the kept columns of the corpus; None without any.
    """

    labels: tuple[str, ...]
    doc_ids: np.ndarray
    texts: pa.ChunkedArray
    hashes: np.ndarray
    truth: np.ndarray
    ours: np.ndarray
    baseline: np.ndarray
    training_texts: np.ndarray
    documents: str
    columns: pa.Table | None = None

    def digest(self) -> str:
        """Return what identifies the test split: its texts and their labels."""
        digest = hashlib.sha256(json.dumps(self.labels).encode())
        rows = np.stack([self.hashes, self.truth.astype(np.uint64)], axis=1)
        digest.update(rows[np.lexsort(rows.T)].tobytes())
        return digest.hexdigest()

    def seen_by_classifier(self) -> np.ndarray:
        """Return bool[N]: which test texts the classifier was trained on."""
        return find_seen(self.hashes, self.training_texts)


class Rival(NamedTuple):
    """The champion's answers to a test split, float[N, C], and which of its texts the champion was trained on."""

    probabilities: np.ndarray
    seen: np.ndarray


def read_test_split(
    *, classifier: ArtifactRef, evaluation: ArtifactRef, baseline: ArtifactRef, documents: ArtifactRef
) -> HeldOut:
    """Read the test split of a run and the answers to it from the outputs of its stages."""
    labels = classifier.read_model(ModelDescription).labels
    table = documents.read_table(DOCUMENTS_FILE)
    test = table.filter(pc.equal(table["split"], "test"))
    ids = {label: number for number, label in enumerate(labels)}
    doc_ids = test["doc_id"].to_numpy()
    return HeldOut(
        labels=labels,
        doc_ids=doc_ids,
        texts=test["text"],
        hashes=hash_documents(test["text"]),
        truth=np.array([ids[label] for label in test["label"].to_pylist()]),
        ours=read_answers(evaluation, labels, doc_ids),
        baseline=read_answers(baseline, labels, doc_ids),
        training_texts=hash_training_texts(table),
        documents=documents.digest,
        columns=documents.read_table(KEPT_COLUMNS_FILE) if documents.path(KEPT_COLUMNS_FILE).exists() else None,
    )


def read_answers(output: ArtifactRef, labels: tuple[str, ...], doc_ids: np.ndarray) -> np.ndarray:
    """Return the probabilities, float[N, C], that an output's predictions give to some documents."""
    table = output.read_table(PREDICTIONS_FILE, ["doc_id", *(f"p_{label}" for label in labels)])
    known = table["doc_id"].to_numpy()
    order = np.argsort(known, kind="stable")
    places = order[np.searchsorted(known[order], doc_ids)]
    return np.stack([table[f"p_{label}"].to_numpy()[places] for label in labels], axis=1)


def ask_champion(champion: Version, split: HeldOut) -> Rival:
    """Return the champion's answers to a test split.

    Raises:
        UnusableModelError: its files are gone or changed, it has other classes, or its training texts are unknown.
    """
    with open_verified(champion) as folder:
        description = json.loads((folder / BUNDLE / MODEL_FILE).read_text("utf-8"))
        _require_classes(tuple(map(str, description["labels"])), split.labels)
        if champion.tags.get(DOCUMENTS_TAG) == split.documents:
            training_texts = split.training_texts
        else:
            training_texts = _read_texts_of(champion, folder / BUNDLE)
    stored = _find_evaluation(champion, split)
    if stored is not None:
        probabilities = read_answers(stored, split.labels, split.doc_ids)
    else:
        answers = loading.load_version(champion)(split.texts.to_pylist())
        probabilities = np.array([[answer["probabilities"][label] for label in split.labels] for answer in answers])
    return Rival(probabilities, find_seen(split.hashes, training_texts))


def _require_classes(found: tuple[str, ...], needed: tuple[str, ...]) -> None:
    if set(found) == set(needed):
        return
    parts = [
        f"{word} {', '.join(sorted(some - others))}"
        for word, some, others in (("lacks", set(needed), set(found)), ("has besides", set(found), set(needed)))
        if some - others
    ]
    raise UnusableModelError(f"it has other classes than the new version: it {' and '.join(parts)}")


def _read_texts_of(champion: Version, bundle: Path) -> np.ndarray:
    try:
        return read_training_texts(bundle)
    except UnusableModelError as error:
        raise UnusableModelError(f"{version_uri(champion)}: {error}") from error


def _find_evaluation(champion: Version, split: HeldOut) -> ArtifactRef | None:
    """Return the output of the champion's evaluation, if it is of the same documents and still in the store."""
    key, _, digest = champion.tags.get(EVALUATION_TAG, "").partition(" ")
    if champion.tags.get(DOCUMENTS_TAG) != split.documents or not key.isalnum():
        return None
    output = find_output("evaluate_classifier", key)
    return output if output is not None and output.digest == digest else None
