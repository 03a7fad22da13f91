"""Registered models as scoring uses them: their network directly, or their answers if their code gives no more."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from pipeline_config.errors import UnusableModelError
from tasks.scoring.network import NetworkClassifier
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


def make_scoring_model(name: str, loaded: LoadedModel) -> ScoringModel:
    """Return a loaded version for scoring."""

    @contextlib.contextmanager
    def open_classifier() -> Iterator[Classifier]:
        if not all(hasattr(loaded.served, part) for part in _PARTS):
            yield AnswerClassifier(loaded.classify, loaded.labels)
            return
        with NetworkClassifier(loaded.served) as classifier:
            yield _Guarded(classifier, f"models:/{name}/{loaded.version}")

    return ScoringModel(name, loaded.version, loaded.labels, loaded.reading, open_classifier)


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

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except MemoryError:
            raise
        except Exception as error:
            raise UnusableModelError(f"{self._uri}: cannot classify texts: {type(error).__name__}: {error}") from error
