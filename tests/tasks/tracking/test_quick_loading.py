"""Loading without mlflow: the same answers, and nothing of a version runs that was not checked."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.tracking.loading import load_model
from tasks.tracking.quick_loading import load_quickly
from tasks.tracking.version_files import find_version_files
from tests.registrations import MODEL

TEXTS = ["the bread was soup", "", "Rain and storm, a goal!", "unknown words only"]
CODE = """
import json, os, sys
from pathlib import Path
from tasks.tracking.quick_loading import load_quickly

root, name, texts = Path(os.environ["GLOVEFLOW_ARTIFACTS"]), sys.argv[1], json.loads(sys.argv[2])
changed = Path(sys.argv[3])
model = load_quickly(root, name, "champion")
answers = model.classify(texts, explain=True)
before = changed.read_text()
changed.write_text("raise SystemExit('the changed code ran')")
refused = load_quickly(root, name, "champion") is None
changed.write_text(before)
again = load_quickly(root, name, "champion", 1).classify(texts)
print(json.dumps([model.version, list(model.labels), model.reading.model_dump(mode="json"), model.temperature,
    list(model.options), answers, again, refused, [name for name in sys.modules if name.partition(".")[0] == "mlflow"]]))
"""


def test_a_version_answers_as_with_mlflow_which_is_not_imported(registered: object, artifacts: Path) -> None:
    model = load_model(MODEL, "champion")
    (code,) = (artifacts / "mlflow" / "files").rglob("artifacts/model.py")
    call = [sys.executable, "-c", CODE, MODEL, json.dumps(TEXTS), str(code)]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3]), "GLOVEFLOW_ARTIFACTS": str(artifacts)}
    done = subprocess.run(call, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    *facts, answers, again, refused, imported = json.loads(done.stdout)
    reading = model.reading.model_dump(mode="json")
    assert facts == [model.version, list(model.labels), reading, model.temperature, list(model.options)]
    assert answers == json.loads(json.dumps(model.classify(TEXTS, explain=True)))
    assert again == json.loads(json.dumps(model.classify(TEXTS)))
    assert refused, "a version with changed code was loaded"
    assert imported == []


def test_it_is_left_to_mlflow_where_mlflow_is_imported(registered: object, artifacts: Path) -> None:
    assert load_quickly(artifacts, MODEL, "champion") is None


def test_a_copied_directory_is_not_answered_from_the_original(
    registered: object, artifacts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert find_version_files(artifacts, MODEL, alias="champion", number=None)
    copy = tmp_path / "copy"
    shutil.copytree(artifacts, copy)
    assert find_version_files(copy, MODEL, alias="champion", number=None) is None
