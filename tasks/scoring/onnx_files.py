"""Write a loaded model as files that run without torch, and compare their answers with the model's.

Writes `model.onnx` of the network, `linear.npz` and `linear.py` of the linear model as far as it has them,
`tokenizer.json`, `vocabulary.json`, and `classify.py`, which runs them. Needs the packages of the extra `onnx`.
"""

import importlib.util
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from pipeline_config.errors import InputError, UnusableModelError
from tasks.scoring import onnx_runner
from tasks.scoring.onnx_graph import build_model
from tasks.served import linear
from tasks.store.disk_errors import store_errors
from tasks.store.private_files import make_directory
from tasks.tracking.loaded import LoadedModel

TOLERANCE = 1e-5  # of a probability
RUNNER = "classify.py"
_SPACE = r"\t\n\f\r "  # what Arrow's regular expressions take for white space; Python has one more, the vertical tab
EXPORTED = ("basic_english", "treebank", "whitespace")


def write_files(loaded: LoadedModel, folder: Path) -> None:
    """Write the files of a loaded model into a new or empty directory.

    Raises:
        InputError: the model cannot be exported, or the directory is not empty.
        StoreError: the files cannot be written.
    """
    served = loaded.served
    settings = describe_tokenizer(served.tokenizers, served.text)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: expected a new or empty directory")
    try:
        model = None if served.network is None else build_model(served.network, loaded.temperature)
    except (ValueError, AttributeError) as error:
        raise InputError(f"the network cannot be exported: {error}") from error
    words = [""] * served.text["specials"] + list(served.token_ids)
    with store_errors(folder):
        make_directory(folder)
        if model is not None:
            onnx.save(model, str(folder / "model.onnx"))
        part = _write_linear(served, folder)
        _write_json(folder / "tokenizer.json", {"labels": list(loaded.labels), **settings, "linear": part})
        _write_json(folder / "vocabulary.json", words)
        source = Path(onnx_runner.__file__).read_text("utf-8")
        (folder / RUNNER).write_text(source, "utf-8")


def compare(loaded: LoadedModel, folder: Path, texts: Sequence[str]) -> float:
    """Return the largest difference between the probabilities of the files and those of the model.

    Raises:
        UnusableModelError: it is larger than `TOLERANCE`.
    """
    answers = loaded.classify(list(texts))
    expected = np.array([[answer["probabilities"][label] for label in loaded.labels] for answer in answers])
    found = _load_runner(folder).Classifier(folder).probabilities(list(texts))
    differences = np.abs(found - expected).max(axis=1)
    worst = int(differences.argmax())
    if not differences[worst] <= TOLERANCE:
        raise UnusableModelError(
            f"{folder}: the exported model does not answer as version {loaded.version}: probabilities differ by up to "
            f"{differences[worst]:.2g}, expected at most {TOLERANCE:g}, for text {worst + 1} of {len(texts)}"
        )
    return float(differences[worst])


def describe_tokenizer(tokenizers: Any, text: dict[str, Any]) -> dict[str, Any]:
    """Return how texts become ids: lower case, replacements in order, then a split at white space.

    Args:
        tokenizers: the tokenizers of the model's code.
        text: how the model reads texts.

    Raises:
        InputError: the tokenizer needs a library, or tables of characters.
    """
    name = text["tokenizer"]
    kept = ("max_length", "padding_idx", "unk_idx", "specials", "truncation")
    if name == "whitespace":
        replacements: list[tuple[str, str]] = []
    elif name == "basic_english":
        replacements = [('"', ""), ("<br />", " "), ("[;:]", " "), (r"([.,()!?'])", r" \1 ")]
    elif name == "treebank":
        fixed = [(re.escape(old), new.replace("\\", r"\\")) for old, new in tokenizers._TREEBANK]
        patterns = [(_translate(old), new) for old, new in tokenizers._TREEBANK_REGEX]
        replacements = [*fixed, *patterns, ("\ufdd0", ","), ("\ufdd1", ".")]
    else:
        raise InputError(f"the tokenizer {name!r} cannot be exported; expected one of {', '.join(EXPORTED)}")
    return {**{key: text[key] for key in kept}, "lower": name != "whitespace", "replacements": replacements}


def _write_linear(served: Any, folder: Path) -> dict[str, Any] | None:
    """Write the linear model and its code; return what else the runner needs of it, or None if there is none."""
    model = getattr(served, "linear", None)  # models of older releases have none
    if model is None:
        return None
    np.savez_compressed(
        folder / "linear.npz", keys=model.keys, weights=model.weights, sizes=model.sizes, bias=model.bias
    )
    (folder / "linear.py").write_text(Path(linear.__file__).read_text("utf-8"), "utf-8")
    return {"ngrams": model.ngrams, "pieces": model.pieces, "temperature": served.linear_temperature}


def _translate(pattern: str) -> str:
    """Return a regular expression of Arrow for Python's `re.ASCII`."""
    pattern = pattern.replace(r"[^\s", f"[^{_SPACE}").replace(r"[\s", f"[{_SPACE}").replace(r"\s", f"[{_SPACE}]")
    pattern = re.sub(r"\\x\{([0-9a-f]{4})\}", r"\\u\1", pattern)
    return re.sub(r"\$\)", r"\\Z)", pattern)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, ensure_ascii=False), "utf-8", "surrogatepass")


def _load_runner(folder: Path) -> Any:
    spec = importlib.util.spec_from_file_location("exported_classify", folder / RUNNER)
    if spec is None or spec.loader is None:
        raise ImportError(str(folder / RUNNER))
    module = importlib.util.module_from_spec(spec)
    exec(compile((folder / RUNNER).read_text("utf-8"), str(folder / RUNNER), "exec"), module.__dict__)  # noqa: S102 (our own file; no byte code beside it)
    return module
