"""The reference of a version."""

import numpy as np
import pyarrow.compute as pc
import pytest

from pipeline_config.errors import UnusableModelError
from pipeline_config.schemas import DOCUMENTS_FILE, PREDICTIONS_FILE
from tasks.monitoring.reference import make_reference, read_reference
from tasks.monitoring.sample import hash_words
from tasks.runtime.arrow import whole_column
from tasks.scoring.network import NetworkClassifier
from tasks.tracking.loading import load_model
from tests.registrations import MODEL, model_folder, register


def test_it_has_every_held_out_document_with_its_answer(toy) -> None:
    reference = make_reference(toy.documents, toy.evaluation, toy.vocabulary, "basic_english")
    documents = toy.documents.read_table(DOCUMENTS_FILE)
    held_out = {row["doc_id"]: row for row in documents.filter(pc.not_equal(documents["split"], "train")).to_pylist()}
    answers = {row["doc_id"]: row for row in toy.evaluation.read_table(PREDICTIONS_FILE).to_pylist()}
    rows = {row["row"]: row for row in reference.to_pylist()}
    assert rows.keys() == held_out.keys()
    words = dict(
        zip(documents["doc_id"].to_pylist(), hash_words(whole_column(documents["text"])).to_pylist(), strict=True)
    )
    for identity, row in rows.items():
        answer = answers[identity]
        assert row["label"] == answer["prediction"]
        assert row["correct"] == (answer["prediction"] == answer["label"])
        assert row["confidence"] == max(value for name, value in answer.items() if name.startswith("p_"))
        assert row["words"] == words[identity]


def test_a_registered_version_carries_it_as_scoring_would_make_it(toy) -> None:
    registration = register(toy)
    reference = read_reference(model_folder(registration.version) / "artifacts" / "bundle")
    documents = toy.documents.read_table(DOCUMENTS_FILE)
    places = pc.index_in(reference["row"], documents["doc_id"].combine_chunks())
    texts = whole_column(documents["text"].take(places))
    with NetworkClassifier(load_model(MODEL, "champion").served) as classifier:
        encoded = classifier.prepare(texts)
        probabilities = classifier.classify(encoded)
    assert np.array_equal(reference["tokens"].to_numpy(), encoded.lengths)
    assert np.array_equal(reference["unknown"].to_numpy(), encoded.unknown)
    assert reference["confidence"].to_numpy() == pytest.approx(probabilities.max(axis=1), abs=1e-5)


def test_a_version_of_an_older_release_has_none(tmp_path) -> None:
    with pytest.raises(UnusableModelError, match=r"no usable profile of its held-out documents \(reference.parquet\)"):
        read_reference(tmp_path)
