"""An artifacts directory with a registered model that was moved or copied."""

import shutil
from pathlib import Path

import pytest

from tasks.store.databases import connected
from tasks.tracking.loading import load_model
from tasks.tracking.runs import log_file, track_run
from tasks.tracking.server import open_client
from tests.registrations import MODEL, register

pytestmark = pytest.mark.usefixtures("registered")


@pytest.fixture
def places(artifacts):
    """The registered model in an artifacts directory A that was moved to B, and B copied to C."""
    moved, copied = artifacts.with_name("moved to B"), artifacts.with_name("C")
    artifacts.rename(moved)
    shutil.copytree(moved, copied)
    return artifacts, moved, copied


def test_it_answers_and_writes_in_its_new_place_alone(registered, places, monkeypatch, tmp_path):
    original, moved, copied = places
    texts = ["soupe salade pain", "goal match team", "pluie vent"]
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(moved))
    expected = load_model(MODEL, "champion").classify(texts)
    assert not original.exists()
    before = snapshot(moved)
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(copied))
    assert load_model(MODEL, "champion").classify(texts) == expected
    again = register(registered)
    assert (again.version, again.created) == ("1", False)
    (tmp_path / "note.txt").write_text("a note")
    with track_run(registered.config, name="run in C", tags={}) as run:
        log_file(run.run_id, tmp_path / "note.txt")
    (note,) = copied.rglob("note.txt")
    assert run.run_id in note.parts
    assert snapshot(moved) == before
    assert not original.exists()
    shutil.rmtree(moved)
    assert load_model(MODEL, "champion").classify(texts) == expected


def test_no_record_names_the_old_place(places, monkeypatch):
    original, moved, _ = places
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(moved))
    open_client()
    with connected(moved / "mlflow" / "mlflow.db") as database:
        dump = "\n".join(database.iterdump())
    assert f"{original.as_uri()}/mlflow/files" not in dump
    assert f"{moved.as_uri()}/mlflow/files" in dump


def test_locations_elsewhere_are_left_alone(artifacts, monkeypatch):
    elsewhere = f"{artifacts.as_uri()}-of-others/mlflow/files/mine"
    experiment = open_client().create_experiment("mine", artifact_location=elsewhere)
    moved = artifacts.rename(artifacts.with_name("B"))
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(moved))
    assert open_client().get_experiment(experiment).artifact_location == elsewhere


def test_a_directory_that_is_reached_by_a_link_keeps_its_locations(artifacts, monkeypatch):
    location = open_client().get_experiment_by_name("gloveflow/toy").artifact_location
    link = artifacts.with_name("link")
    link.symlink_to(artifacts)
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(link))
    assert open_client().get_experiment_by_name("gloveflow/toy").artifact_location == location


def snapshot(directory: Path) -> dict[str, bytes]:
    """Return the content of all files of MLflow, but for byte code and what MLflow adds to a model that it loads."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted((directory / "mlflow").rglob("*"))
        if path.is_file()
    }
