"""The registered model: takes texts, returns the label and the probability of each class.

It is the trained network, the linear model, or both: then their logits are added, each divided by its temperature.

MLflow stores this file as the code of the model and runs it when the model is loaded. It imports nothing from the
project. Network and tokenizers are imported from the source files in the model's bundle, as a package with a unique
name, so that two versions loaded in one process do not share code. The bundle holds `model.json`, `vocabulary.json`,
`weights.safetensors` of the network and `linear.safetensors` as far as the model has them, and the other modules of
this package; none of its files is a pickle. `model.json` has the SHA-256 of each of the others, and they are compared
before any of them is used.
"""

import hashlib
import importlib
import json
import sys
import uuid
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext
from safetensors.torch import load_file

BATCH = 256


class RefusedRequest(MlflowException):
    """A request that cannot be answered: status 400 on MLflow's server.

    That server puts the data of the request in front of the message of an exception; this message stays as it is.
    """

    def __init__(self, message: str) -> None:
        self._told = message
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The message, without the data of the request."""
        return self._told

    @message.setter
    def message(self, _: str) -> None:
        pass


class ServedClassifier(PythonModel):
    """Classify texts exactly as the trained model does."""

    def load_context(self, context: PythonModelContext) -> None:
        """Check the files of the bundle, then load it.

        Raises:
            MlflowException: a file is missing, was changed or was added.
            ValueError: an environment variable has a wrong value, or the tokenizer is not there.
        """
        bundle = Path(context.artifacts["bundle"])
        description = json.loads((bundle / "model.json").read_text("utf-8"))
        _check_files(bundle, description["files"])
        vocabulary = json.loads((bundle / "vocabulary.json").read_text("utf-8"))
        self.labels: list[str] = description["labels"]
        self.text: dict[str, Any] = description["text"]
        self.reading: dict[str, Any] = description["reading"]
        self.temperature: float = description["temperature"]
        # a word of a text that looks like a special token is unknown, so special tokens are left out
        words = enumerate(vocabulary[self.text["specials"] :], self.text["specials"])
        self.token_ids = {token: token_id for token_id, token in words}
        self.tokenizers, network, linear, self.inputs, self.attribution, threads = _load_modules(
            bundle, "tokenizers", "network", "linear", "inputs", "attribution", "threads"
        )
        self.limits = self.inputs.read_limits()  # None is without limits
        self.small = threads.SmallRequests(self.inputs.read_number(threads.THREADS, 1))
        self.tokenizers.load_tokenizer(self.text["tokenizer"])  # a missing package fails here, not at the first text
        self.network: Any = None
        self.linear: Any = None
        self.linear_temperature = 1.0
        if description["architecture"]:
            self.network = network.TextClassifier(**description["architecture"])
            self.network.load_state_dict(load_file(bundle / "weights.safetensors"))
            self.network.eval()
        if description["linear"]:
            self.linear_temperature = description["linear"]["temperature"]
            self.linear = linear.LinearModel.read(bundle / "linear.safetensors", **description["linear"]["options"])

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Return for each text `label`, `score` (its probability) and `probabilities` (by class).

        Args:
            context: of MLflow.
            model_input: texts in a table, a Series, an array, a list or a dict of lists. Of several columns the text
                columns of the model are read, or the column `text`.
            params: `top_k`, `threshold`, `explain` and `on_error`, see `Options` in `inputs.py`.

        Raises:
            MlflowException: the texts or params cannot be used, or are too many.
        """
        try:
            return self._answer_request(model_input, self.inputs.read_options(params))
        except self.inputs.RequestError as error:
            raise RefusedRequest(str(error)) from None

    def _answer_request(self, model_input: Any, options: Any) -> list[dict[str, Any]]:
        values, limits = self._read_values(model_input), self.limits
        if limits:
            self.inputs.check_size("rows", len(values), limits.rows)
            self.inputs.check_size("explained", len(values) * options.explain, limits.explained)
        found = [self.inputs.find_problem(value, limits) for value in values]
        row = next((i for i, problem in enumerate(found) if problem), None)
        if row is not None and options.on_error == "request":
            raise self.inputs.RequestError(f"row {row}: {found[row]}")
        texts = [value for value, problem in zip(values, found, strict=True) if not problem]
        classified = iter(self._classify(texts, options))
        answers = [{"label": None, "score": None, "probabilities": {}} if p else next(classified) for p in found]
        if options.on_error == "row":
            for answer, problem in zip(answers, found, strict=True):
                answer["error"] = problem
        return answers

    def _read_values(self, model_input: Any) -> list[Any]:
        columns, joiner = self.reading["text_column"], self.reading["text_joiner"]
        values: list[Any] = self.inputs.read_values(model_input, columns, joiner)
        return values

    def _classify(self, texts: list[str], options: Any) -> list[dict[str, Any]]:
        tokens = self.tokenizers.tokenize_texts(texts, self.text["tokenizer"])
        encoded = [self._encode(words) for words in tokens]
        if self.limits:
            self.inputs.check_size("tokens", sum(map(len, encoded)), self.limits.tokens)
        order = sorted(range(len(encoded)), key=lambda i: len(encoded[i]))
        added = np.zeros((len(tokens), len(self.labels)))
        if self.linear is not None:
            added = self.answer_linear(pa.array(tokens, pa.large_list(pa.large_string())))
        answers: list[dict[str, Any]] = [{}] * len(encoded)
        small = len(order) * len(encoded[order[-1]]) if order else 0
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            batch = [encoded[i] for i in rows]
            found = self.small.run(partial(self._probabilities, batch, added[rows]), tokens=small)
            for i, probabilities in zip(rows, found, strict=True):
                answers[i] = self._answer(probabilities, options)
        if options.explain:
            for answer, words, ids in zip(answers, tokens, encoded, strict=True):
                answer["tokens"] = self._explain(words, ids, self.labels.index(answer["label"]))
        return answers

    def _answer(self, probabilities: list[float], options: Any) -> dict[str, Any]:
        best = max(range(len(probabilities)), key=probabilities.__getitem__)
        shown = list(range(len(probabilities)))
        if options.top_k is not None:
            shown = sorted(shown, key=lambda i: -probabilities[i])[: options.top_k]
        answer = {
            "label": self.labels[best],
            "score": probabilities[best],
            "probabilities": {self.labels[i]: probabilities[i] for i in shown},
        }
        if options.threshold is not None:
            answer["abstained"] = probabilities[best] < options.threshold
        return answer

    def answer_linear(self, tokens: pa.Array) -> np.ndarray:
        """Return what the linear model adds to the logits of tokenized texts, float64[N, C]."""
        logits: np.ndarray = self.linear.answer_tokens(tokens) / self.linear_temperature
        return logits

    def weigh_tokens(self, tokens: list[str], positions: list[int], ids: list[int], target: int) -> list[float]:
        """Return the weights of tokens of a text, as `weigh_tokens` in `attribution.py`."""
        weights: list[float] = self.attribution.weigh_tokens(
            tokens,
            positions,
            ids,
            target,
            network=self.network,
            temperature=self.temperature,
            linear=self.linear,
            linear_temperature=self.linear_temperature,
        )
        return weights

    def _explain(self, tokens: list[str], ids: list[int], target: int) -> list[dict[str, Any]]:
        """Return the tokens that the network reads, each with its weight for a class; none for a text without any."""
        positions = self._cut(list(range(len(tokens))))
        weigh = partial(self.weigh_tokens, tokens, positions, ids, target)
        weights = self.small.run(weigh, tokens=len(ids)) if tokens else []
        return [{"token": tokens[i], "weight": weight} for i, weight in zip(positions, weights, strict=True)]

    def _encode(self, tokens: list[str]) -> list[int]:
        unk = self.text["unk_idx"]
        return self._cut([self.token_ids.get(token, unk) for token in tokens] or [unk])

    def _cut(self, items: list[Any]) -> list[Any]:
        """Return the tokens or ids of a text that the network reads."""
        longest = self.text["max_length"]
        head = {"head": longest, "tail": 0, "head_tail": (longest + 1) // 2}[self.text["truncation"]]
        return items if len(items) <= longest else items[:head] + items[len(items) - (longest - head) :]

    def _probabilities(self, documents: list[list[int]], added: np.ndarray) -> list[list[float]]:
        logits = torch.from_numpy(added)
        if self.network is not None:
            logits = logits + self._answer_network(documents) / self.temperature
        rows: list[list[float]] = logits.softmax(dim=1).tolist()
        return rows

    def _answer_network(self, documents: list[list[int]]) -> torch.Tensor:
        lengths = torch.tensor([len(ids) for ids in documents])
        padded = torch.nn.utils.rnn.pad_sequence(
            [torch.tensor(ids) for ids in documents], batch_first=True, padding_value=self.text["padding_idx"]
        )
        with torch.inference_mode():
            logits: torch.Tensor = self.network(padded, lengths).double()
        return logits


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
