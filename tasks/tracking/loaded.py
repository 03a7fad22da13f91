"""A registered version that was loaded, and what its verified files say of it. Imports neither mlflow nor torch."""

import json
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import UnusableModelError
from pipeline_config.schemas import MODEL_FILE

Classify = Callable[..., list[dict[str, Any]]]  # texts, options by name -> `label`, `score`, `probabilities` of each
BUNDLE = "artifacts/bundle"  # in the directory of a version


class LoadedModel(NamedTuple):
    """A registered version that was checked and loaded.

    Attributes:
        version: its number.
        classify: the function from texts to answers.
        labels: the names of its classes.
        reading: how the files of its corpus were read; the default for versions of older releases.
        served: the object of its code, with network and tokenizer.
        temperature: divides its logits; 1 for versions of older releases.
        options: what `classify` takes beside the texts: the names of the `params` of the model.
    """

    version: str
    classify: Classify
    labels: tuple[str, ...]
    reading: Reading
    served: Any = None
    temperature: float = 1.0
    options: tuple[str, ...] = ()


class Described(NamedTuple):
    """What the description of a version says: see `LoadedModel`."""

    labels: tuple[str, ...]
    reading: Reading
    temperature: float


def describe_files(uri: str, folder: Path) -> Described:
    """Return what the verified files of a version say of it; no code of the version runs.

    Args:
        uri: MLflow's address of the version, for messages.
        folder: the directory of its files.

    Raises:
        UnusableModelError: its description is not usable.
    """
    try:
        description = json.loads((folder / BUNDLE / MODEL_FILE).read_text("utf-8"))
        return Described(
            tuple(map(str, description["labels"])),
            Reading.model_validate(description.get("reading", {})),
            float(description.get("temperature", 1.0)),
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        packages = list_other_packages(folder)
        raise UnusableModelError(describe_failure(uri, "has no usable description", error, packages)) from error


def make_loaded(
    uri: str,
    described: Described,
    packages: list[str],
    *,
    served: Any,
    predict: Callable[[list[str], dict[str, Any]], Any],
    options: Sequence[str],
) -> LoadedModel:
    """Return a version whose code was loaded; its function raises UnusableModelError if that code fails.

    Args:
        uri: MLflow's address of the version.
        described: what its description says.
        packages: those that are here in another version than it was made with.
        served: the object of its code.
        predict: its function from texts and options to answers.
        options: the names of these options.
    """
    if hasattr(served, "limits"):
        served.limits = None  # they are for requests from elsewhere

    def classify(texts: list[str], **params: Any) -> list[dict[str, Any]]:
        try:
            return list(predict(texts, params))
        except Exception as error:
            raise UnusableModelError(describe_failure(uri, "cannot classify texts", error, packages)) from error

    number = uri.rpartition("/")[2]
    return LoadedModel(
        number, classify, described.labels, described.reading, served, described.temperature, tuple(options)
    )


def list_other_packages(folder: Path) -> list[str]:
    """Return the packages of a model's `requirements.txt` that are here in another version, or not at all, in words."""
    different = []
    for line in (folder / "requirements.txt").read_text("utf-8").splitlines():
        name, _, needed = line.partition("==")
        try:
            here = metadata.version(name).partition("+")[0]
        except metadata.PackageNotFoundError:
            here = "none"
        if here != needed:
            different.append(f"{name} {needed} (installed: {here})")
    return different


def describe_failure(uri: str, what: str, error: Exception, packages: list[str]) -> str:
    """Return the message that the code of a version fails, with the packages that it was registered with."""
    needs = f"; it was registered with {', '.join(packages)}: install these versions" if packages else ""
    return f"{uri}: {what}: {type(error).__name__}: {error}{needs}"
