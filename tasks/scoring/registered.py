"""Registered models as scoring uses them: their network directly, or their answers if their code gives no more."""

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.errors import InputError, UnusableModelError
from pipeline_config.operation import Runtime
from tasks.scoring import explanations
from tasks.scoring.network import Forward, NetworkClassifier, read_temperature
from tasks.scoring.request import Classifier, ScoringModel
from tasks.tracking.loaded import Classify, LoadedModel

_BATCH = 2048
_PARTS = ("labels", "text", "token_ids", "tokenizers", "network")  # what `NetworkClassifier` uses of a model's code


class Texts(NamedTuple):
    """Texts for a model that takes and tells no tokens."""

    texts: list[str]
    lengths: None = None
    unknown: None = None


class AnswerClassifier:
    """Classifies texts with a model's own function, whatever its code is."""

    def __init__(self, function: Classify, labels: tuple[str, ...]) -> None:
        self._function, self._labels = function, labels

    def prepare(self, texts: pa.Array) -> Texts:
        """Return texts as a list."""
        return Texts(texts.to_pylist())

    def classify(self, prepared: Texts) -> np.ndarray:
        """Return the probabilities float64[N, C]."""
        texts = prepared.texts
        answers = [answer for i in range(0, len(texts), _BATCH) for answer in self._function(texts[i : i + _BATCH])]
        rows = [[answer["probabilities"][label] for label in self._labels] for answer in answers]
        return np.array(rows, np.float64).reshape(len(rows), len(self._labels))

    def explain(self, texts: pa.Array, targets: np.ndarray, count: int) -> pa.Array:
        """Refuse; such a model does not explain."""
        raise NotImplementedError


def make_scoring_model(name: str, loaded: LoadedModel, runtime: Runtime = "torch") -> ScoringModel:
    """Return a loaded version for scoring; its network is computed by `runtime`."""
    uri, served = f"models:/{name}/{loaded.version}", loaded.served
    has_network = all(hasattr(served, part) for part in _PARTS)

    @contextlib.contextmanager
    def open_classifier() -> Iterator[Classifier]:
        wanted = runtime == "onnx" and not (has_network and served.network is None)
        forward = _open_session(uri, served, has_network=has_network) if wanted else None
        if not has_network:
            yield AnswerClassifier(loaded.classify, loaded.labels)
            return
        with NetworkClassifier(served, forward=forward) as classifier:
            yield _Guarded(classifier, uri)

    explains = has_network and hasattr(served, explanations.PART)
    return ScoringModel(name, loaded.version, loaded.labels, loaded.reading, open_classifier, explains, runtime)


def _open_session(uri: str, served: Any, *, has_network: bool) -> Forward:
    if not has_network:
        raise InputError(
            f"{uri}: scoring.runtime: expected torch for a version of a release whose models show no network, got onnx"
        )
    from tasks.scoring.onnx_session import open_session  # here: it needs an extra

    return open_session(uri, served.network, read_temperature(served))


class _Guarded:
    """A classifier whose errors name the version, as those of its own function do."""

    def __init__(self, classifier: Classifier, uri: str) -> None:
        self._classifier, self._uri = classifier, uri

    def prepare(self, texts: pa.Array) -> object:
        with self._errors():
            return self._classifier.prepare(texts)

    def classify(self, prepared: object) -> np.ndarray:
        with self._errors():
            probabilities = self._classifier.classify(prepared)
        if not np.isfinite(probabilities).all():
            raise UnusableModelError(f"{self._uri}: cannot classify texts: its probabilities are not finite numbers")
        return probabilities

    def explain(self, texts: pa.Array, targets: np.ndarray, count: int) -> pa.Array:
        with self._errors():
            return self._classifier.explain(texts, targets, count)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            raise UnusableModelError(f"{self._uri}: cannot classify texts: {type(error).__name__}: {error}") from error
