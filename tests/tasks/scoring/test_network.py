"""The network of a registered model on columns of texts, against the model's own function."""

import numpy as np
import pyarrow as pa
import pytest
import torch

from pipeline_config.errors import InputError
from tasks.scoring.explanations import choose_tokens
from tasks.scoring.network import BATCH_TEXTS, BATCH_TOKENS, NetworkClassifier, plan_batches
from tasks.scoring.registered import AnswerClassifier, make_scoring_model
from tasks.tracking.loaded import LoadedModel
from tasks.tracking.loading import load_model
from tests.registrations import MODEL

TEXTS = [
    "rain and snow today",
    "",
    "!?",
    "goal " * 40 + "rain",
    "the bread was very good",
    "unheard words only here",
    "snow",
] * 9


@pytest.fixture
def loaded(registered: object) -> LoadedModel:
    return load_model(MODEL, "champion")


def test_probabilities_are_those_of_the_model_whatever_the_number_of_threads(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.scoring.network.BATCH_TOKENS", 40)
    monkeypatch.setattr("tasks.scoring.network._SLICE_BYTES", 100)
    texts = pa.array(TEXTS, pa.large_string())
    found = []
    for threads in (1, 3):
        with NetworkClassifier(loaded.served, threads=threads) as classifier:
            prepared = classifier.prepare(texts)
            found.append(classifier.classify(prepared))
    assert (found[0] == found[1]).all()
    plain = AnswerClassifier(loaded.classify, loaded.labels)
    np.testing.assert_allclose(found[0], plain.classify(plain.prepare(texts)), atol=1e-5)
    assert prepared.lengths[:7].tolist() == [4, 0, 2, 41, 5, 4, 1]
    assert prepared.unknown[:7].tolist() == [0, 0, 2, 0, 1, 4, 0]


def test_onnx_runtime_gives_the_same_probabilities_whatever_the_number_of_threads(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr("tasks.scoring.network.BATCH_TOKENS", 40)
    monkeypatch.setattr("tasks.scoring.network.THREADS", 3)
    texts, found, before = pa.array(TEXTS, pa.large_string()), [], torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            with make_scoring_model(MODEL, loaded, "onnx").open() as classifier:
                found.append(classifier.classify(classifier.prepare(texts)))
        finally:
            torch.set_num_threads(before)
    assert (found[0] == found[1]).all()
    with NetworkClassifier(loaded.served, threads=1) as plain:
        expected = plain.classify(plain.prepare(texts))
    np.testing.assert_allclose(found[0], expected, atol=1e-5)
    assert (found[0] != expected).any()  # the network was not computed by torch


@pytest.mark.parametrize("truncation", ["head", "tail", "head_tail"])
def test_labels_are_explained_as_the_model_explains_them(truncation: str, loaded: LoadedModel) -> None:
    loaded.served.text.update(max_length=5, truncation=truncation)
    texts = TEXTS[:7]
    with make_scoring_model(MODEL, loaded).open() as classifier:
        column = pa.array(texts, pa.large_string())
        targets = classifier.classify(classifier.prepare(column)).argmax(axis=1)
        found = classifier.explain(column, targets, 3).to_pylist()
    for answer, mine in zip(loaded.classify(texts, explain=True), found, strict=True):
        tokens = answer["tokens"]
        expected = choose_tokens([t["token"] for t in tokens], [t["weight"] for t in tokens], 3)
        assert [token["token"] for token in mine] == [token["token"] for token in expected]
        np.testing.assert_allclose([t["weight"] for t in mine], [t["weight"] for t in expected], atol=2e-4)
    assert found[1] == []
    assert found[3][0]["token"] in ("goal", "rain")


def test_tokens_are_ranked_by_the_sum_of_their_weights() -> None:
    found = choose_tokens(["a", "b", "a", "c", "d"], [0.3, -0.5, 0.25, 0.1, -0.1], 3)
    assert found == [{"token": "a", "weight": 0.55}, {"token": "b", "weight": -0.5}, {"token": "c", "weight": 0.1}]


def test_no_texts_have_no_answers(loaded: LoadedModel) -> None:
    with NetworkClassifier(loaded.served) as classifier:
        assert classifier.classify(classifier.prepare(pa.array([], pa.large_string()))).shape == (0, 3)


def test_a_model_whose_code_has_no_network_is_used_by_its_function(loaded: LoadedModel) -> None:
    model = make_scoring_model(MODEL, loaded._replace(served=None))
    assert not model.explains
    with model.open() as classifier:
        assert isinstance(classifier, AnswerClassifier)


def test_onnx_runtime_is_refused_for_a_model_whose_code_has_no_network(loaded: LoadedModel) -> None:
    model = make_scoring_model(MODEL, loaded._replace(served=None), "onnx")
    with pytest.raises(InputError, match=f"models:/{MODEL}/1: scoring.runtime: expected torch"), model.open():
        pass


def test_every_text_is_in_one_batch_that_keeps_the_bounds() -> None:
    sizes = np.array([1, 5000, 7, 7, 300, 2] * 400)
    batches = list(plan_batches(sizes))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or sizes[batch].max() * len(batch) <= BATCH_TOKENS
        assert len(batch) <= BATCH_TEXTS
    assert sizes[batches[0]].max() == 5000
