"""Load a version of our own registry without mlflow, whose import takes as long as everything else that `predict` does.

The code of a version takes five names from mlflow: the class that it extends, an error, and the call that hands its
object over. Stand-ins for these are there while that code is run. Whatever does not go this way is left to `loading`,
which also finds the words for it: another server, a database of another version, changed files, code of another form.
"""

import contextlib
import importlib.util
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from shutil import copytree
from types import ModuleType, SimpleNamespace
from typing import Any

import yaml

from tasks.tracking.loaded import BUNDLE, LoadedModel, describe_files, list_other_packages, make_loaded
from tasks.tracking.version_files import VersionFiles, find_difference, find_version_files, hash_files, remove_leftovers

_LOADER = "mlflow.pyfunc.loaders.code_model"


class _StandInError(Exception):
    """In place of `MlflowException`."""

    def __init__(self, message: str, **_: Any) -> None:
        super().__init__(message)


def load_quickly(root: Path, name: str, alias: str, number: int | None = None) -> LoadedModel | None:
    """Load a version of a registered model, or return None if it has to be loaded with mlflow.

    No code of a version runs whose files differ from their digests in the registry.

    Args:
        root: the artifacts directory.
        name: name of the model.
        alias: alias of the version.
        number: number of the version, instead of an alias.

    Raises:
        ServiceError: there is no such version.
    """
    if "mlflow" in sys.modules:
        return None
    found = find_version_files(root, name, alias=alias, number=number)
    try:
        return _load_files(f"models:/{name}/{found.version}", found) if found else None
    except Exception:  # whatever the model's code raises; `loading` meets it again, and names it
        return None


def _load_files(uri: str, files: VersionFiles) -> LoadedModel | None:
    with tempfile.TemporaryDirectory(prefix="gloveflow-model-") as folder:
        copy = copytree(files.folder, Path(folder, "model"))
        remove_leftovers(copy)
        if find_difference(hash_files(copy), files.digests):
            return None
        described = yaml.safe_load((copy / "MLmodel").read_text("utf-8"))
        code = described["flavors"]["python_function"]
        if code["loader_module"] != _LOADER:
            return None
        params = json.loads((described.get("signature") or {}).get("params") or "[]")
        served = _run_code(copy / Path(code["model_code_path"]).name)
        served.load_context(SimpleNamespace(artifacts={"bundle": str(copy / BUNDLE)}))
        return make_loaded(
            uri,
            describe_files(uri, copy),
            list_other_packages(copy),
            served=served,
            predict=lambda texts, options: served.predict(None, texts, options or None),
            options=[param["name"] for param in params],
        )


def _run_code(path: Path) -> Any:
    """Run the code of a model, and return the object that it hands to MLflow."""
    given: list[Any] = []
    spec = importlib.util.spec_from_file_location("served_model", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: not a module")
    module = importlib.util.module_from_spec(spec)
    with _stand_ins(given):
        spec.loader.exec_module(module)
    (served,) = given
    return served


@contextlib.contextmanager
def _stand_ins(given: list[Any]) -> Iterator[None]:
    """Let the imports of the body find stand-ins for mlflow; they append the object that is handed over."""
    names: dict[str, dict[str, Any]] = {
        "mlflow": {},
        "mlflow.models": {"set_model": given.append},
        "mlflow.exceptions": {"MlflowException": _StandInError},
        "mlflow.protos": {},
        "mlflow.protos.databricks_pb2": {"INVALID_PARAMETER_VALUE": 1000},
        "mlflow.pyfunc": {},
        "mlflow.pyfunc.model": {"PythonModel": object, "PythonModelContext": object},
    }
    modules = {name: ModuleType(name) for name in names}
    for name, values in names.items():
        vars(modules[name]).update(values)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(modules[parent], child, modules[name])
    sys.modules.update(modules)
    try:
        yield
    finally:
        for name in modules:
            del sys.modules[name]
