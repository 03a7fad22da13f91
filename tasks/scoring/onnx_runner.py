"""Classify texts with the files beside this one: `python classify.py "some text"`. Needs numpy and onnxruntime."""

import json
import re
import sys
import unicodedata
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnxruntime


class Classifier:
    """A model that `gloveflow export` wrote; `folder` is the directory of its files."""

    def __init__(self, folder: Path = Path(__file__).parent) -> None:
        words = json.loads((folder / "vocabulary.json").read_text("utf-8"))
        settings = json.loads((folder / "tokenizer.json").read_text("utf-8"))
        self.labels: list[str] = settings["labels"]
        self.read_settings(settings, {words[i]: i for i in range(settings["specials"], len(words))})
        self._linear: Any = None
        self._session: Any = None
        network = folder / "model.onnx"
        if network.exists():
            self._session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
        if settings["linear"]:
            self._read_linear(folder, **settings["linear"])

    def _read_linear(self, folder: Path, temperature: float, **options: Any) -> None:
        code = ModuleType("linear")
        sys.modules[code.__name__] = code
        exec(compile((folder / "linear.py").read_text("utf-8"), str(folder / "linear.py"), "exec"), code.__dict__)  # noqa: S102 (the file beside this one)
        self._linear = code.LinearModel(**np.load(folder / "linear.npz"), **options)
        self._linear_temperature = temperature

    def read_settings(self, settings: dict[str, Any], ids: dict[str, int]) -> None:
        """Set how texts become ids."""
        self._settings, self._longest, self._ids = settings, settings["max_length"], ids
        self._replacements = [(re.compile(pattern, re.ASCII), by) for pattern, by in settings["replacements"]]

    def tokenize(self, text: str) -> list[str]:
        """Return the tokens of a text."""
        text = unicodedata.normalize("NFC", text)
        text = text.lower() if self._settings["lower"] else text
        for pattern, by in self._replacements:
            text = pattern.sub(by, text)
        return text.split()

    def encode(self, tokens: list[str]) -> list[int]:
        """Return the ids of the tokens that the network reads."""
        unknown = self._settings["unk_idx"]
        ids = [self._ids.get(token, unknown) for token in tokens] or [unknown]
        head = {"head": self._longest, "tail": 0, "head_tail": (self._longest + 1) // 2}[self._settings["truncation"]]
        return ids if len(ids) <= self._longest else ids[:head] + ids[len(ids) - (self._longest - head) :]

    def probabilities(self, texts: list[str], batch: int = 64) -> np.ndarray:
        """Return float64[N, C], the probability of each class for each text."""
        tokens = [self.tokenize(text) for text in texts]
        logits = np.zeros((len(texts), len(self.labels)))
        if self._linear is not None and texts:
            logits += np.array([self._linear.answer_one(one) for one in tokens]) / self._linear_temperature
        if self._session is not None:
            logits += np.log(np.maximum(self._ask_network([self.encode(one) for one in tokens], batch), 1e-300))
        powers = np.exp(logits - logits.max(axis=1, keepdims=True))
        found: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
        return found

    def _ask_network(self, encoded: list[list[int]], batch: int) -> np.ndarray:
        found = np.zeros((len(encoded), len(self.labels)))
        order = np.argsort([len(ids) for ids in encoded])
        for rows in np.split(order, range(batch, len(order), batch)) if encoded else []:
            lengths = np.array([len(encoded[i]) for i in rows])
            padding = [self._settings["padding_idx"]] * lengths.max()
            ids = np.array([(encoded[i] + padding)[: lengths.max()] for i in rows])
            found[rows] = self._session.run(["probabilities"], {"ids": ids, "lengths": lengths})[0]
        return found

    def classify(self, texts: list[str]) -> list[dict[str, object]]:
        """Return `label`, `score` and `probabilities` of each text."""
        rows = [dict(zip(self.labels, row, strict=True)) for row in self.probabilities(texts).tolist()]
        best = [max(row, key=row.__getitem__) for row in rows]
        return [{"label": b, "score": row[b], "probabilities": row} for b, row in zip(best, rows, strict=True)]


if __name__ == "__main__":
    print(*map(json.dumps, Classifier().classify(sys.argv[1:])), sep="\n")
