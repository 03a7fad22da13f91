"""The network of a registered model on columns of texts, against the model's own function."""

import numpy as np
import pyarrow as pa
import pytest

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


def test_no_texts_have_no_answers(loaded: LoadedModel) -> None:
    with NetworkClassifier(loaded.served) as classifier:
        assert classifier.classify(classifier.prepare(pa.array([], pa.large_string()))).shape == (0, 3)


def test_a_model_whose_code_has_no_network_is_used_by_its_function(loaded: LoadedModel) -> None:
    with make_scoring_model(MODEL, loaded._replace(served=None)).open() as classifier:
        assert isinstance(classifier, AnswerClassifier)


def test_every_text_is_in_one_batch_that_keeps_the_bounds() -> None:
    sizes = np.array([1, 5000, 7, 7, 300, 2] * 400)
    batches = list(plan_batches(sizes))
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(sizes)))
    for batch in batches:
        assert len(batch) == 1 or sizes[batch].max() * len(batch) <= BATCH_TOKENS
        assert len(batch) <= BATCH_TEXTS
    assert sizes[batches[0]].max() == 5000
