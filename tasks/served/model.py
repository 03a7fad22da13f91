"""The registered model: takes texts, returns the label and the probability of each class.

MLflow stores this file as the code of the model and runs it when the model is loaded. It imports nothing from the
project. Network and tokenizers are imported from the source files in the model's bundle, as a package with a unique
name, so that two versions loaded in one process do not share code. The bundle holds `model.json`, `vocabulary.json`,
`weights.safetensors` and the other modules of this package; none of its files is a pickle. `model.json` has the
SHA-256 of each of the others, and they are compared before any of them is used.
"""

import hashlib
import importlib
import json
import sys
import uuid
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from safetensors.torch import load_file

BATCH = 256


class ServedClassifier(PythonModel):
    """Classify texts exactly as the trained network does."""

    def load_context(self, context: PythonModelContext) -> None:
        """Check the files of the bundle, then load it.

        Raises:
            MlflowException: a file is missing, was changed or was added.
        """
        bundle = Path(context.artifacts["bundle"])
        description = json.loads((bundle / "model.json").read_text("utf-8"))
        _check_files(bundle, description["files"])
        vocabulary = json.loads((bundle / "vocabulary.json").read_text("utf-8"))
        self.labels: list[str] = description["labels"]
        self.text: dict[str, Any] = description["text"]
        self.temperature: float = description["temperature"]
        # a word of a text that looks like a special token is unknown, so special tokens are left out
        words = enumerate(vocabulary[self.text["specials"] :], self.text["specials"])
        self.token_ids = {token: token_id for token_id, token in words}
        self.tokenizers, network = _load_modules(bundle, "tokenizers", "network")
        self.tokenizers.load_tokenizer(self.text["tokenizer"])  # a missing package fails here, not at the first text
        self.network = network.TextClassifier(**description["architecture"])
        self.network.load_state_dict(load_file(bundle / "weights.safetensors"))
        self.network.eval()

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> list[dict[str, Any]]:
        """Return for each text `label`, `score` (its probability) and `probabilities` (by class).

        Raises:
            MlflowException: a value in the first column is not a string.
        """
        texts = model_input.iloc[:, 0].tolist() if model_input.shape[1] else []
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise MlflowException.invalid_parameter_value(f"row {number}: expected a string, got {text!r}")
        encoded = [self._encode(tokens) for tokens in self.tokenizers.tokenize_texts(texts, self.text["tokenizer"])]
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        answers: list[dict[str, Any]] = [{}] * len(encoded)
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            for i, probabilities in zip(rows, self._probabilities([encoded[i] for i in rows]), strict=True):
                best = max(range(len(probabilities)), key=probabilities.__getitem__)
                answers[i] = {
                    "label": self.labels[best],
                    "score": probabilities[best],
                    "probabilities": dict(zip(self.labels, probabilities, strict=True)),
                }
        return answers

    def _encode(self, tokens: list[str]) -> list[int]:
        unk, longest = self.text["unk_idx"], self.text["max_length"]
        ids = [self.token_ids.get(token, unk) for token in tokens] or [unk]
        head = {"head": longest, "tail": 0, "head_tail": (longest + 1) // 2}[self.text["truncation"]]
        return ids if len(ids) <= longest else ids[:head] + ids[len(ids) - (longest - head) :]

    def _probabilities(self, documents: list[list[int]]) -> list[list[float]]:
        lengths = torch.tensor([len(ids) for ids in documents])
        padded = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(ids) for ids in documents], batch_first=True, padding_value=self.text["padding_idx"]
        )
        with torch.inference_mode():
            logits = self.network(padded, lengths).double() / self.temperature
            rows: list[list[float]] = logits.softmax(dim=1).tolist()
        return rows


def _check_files(folder: Path, expected: dict[str, str]) -> None:
    """Compare the files of the bundle with their SHA-256; a file more is refused, as Python might import it."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*")}
    found = {name: path for name, path in files.items() if path.is_symlink() or not path.is_dir()}
    found.pop("model.json", None)
    for name in sorted(found.keys() | expected.keys()):
        if name not in found:
            problem = "is missing"
        elif name not in expected:
            problem = "was added after the model was registered"
        elif hashlib.sha256(found[name].read_bytes()).hexdigest() != expected[name]:
            problem = "was changed after the model was registered"
        else:
            continue
        raise MlflowException(f"{folder / name} {problem}; register the model again")


def _load_modules(folder: Path, *names: str) -> list[ModuleType]:
    """Import modules of a folder as modules of a package with a unique name; write no byte code beside them."""
    package = ModuleType(f"served_{uuid.uuid4().hex}")
    package.__path__ = [str(folder)]
    sys.modules[package.__name__] = package
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    finally:
        sys.dont_write_bytecode = before


mlflow.models.set_model(ServedClassifier())
