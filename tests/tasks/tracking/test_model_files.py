"""What is done to the files of a registered version, and whether it is still used."""

import importlib.util
import json
import py_compile
import random
import shutil
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient

from pipeline_config.errors import UnusableModelError
from tasks.tracking.loading import load_model, load_version
from tasks.tracking.model_files import FILES_TAG, verify_version
from tasks.tracking.models import find_alias, find_version
from tasks.tracking.server import open_client
from tests.registrations import MODEL


@pytest.fixture
def files(registered, registered_model, tmp_path, monkeypatch) -> Path:
    """The files of version 1, free to be changed."""
    folder = tmp_path / "model"
    shutil.copytree(registered_model, folder)
    monkeypatch.setattr(MlflowClient, "get_model_version_download_uri", lambda *_: folder.as_uri())
    return folder


def names_of(folder: Path) -> list[str]:
    paths = sorted(path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    return [str(path) for path in paths if path.parts[0] != "__pycache__"]


def refusal(version=None) -> str:
    with pytest.raises(UnusableModelError) as caught:
        load_version(version or find_alias(MODEL, "champion"))
    return str(caught.value)


class TestTampering:
    def test_every_change_of_a_byte_is_refused_with_the_name_of_the_file(self, files):
        version, generator = find_alias(MODEL, "champion"), random.Random(1)
        names = names_of(files)
        assert len(names) >= 16
        for number in range(100):
            path = files / names[number % len(names)]
            before = path.read_bytes()
            content = bytearray(before)
            content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
            path.write_bytes(content)
            name = path.relative_to(files)
            assert refusal(version) == f"models:/{MODEL}/1: its file {name} was changed after it was registered"
            path.write_bytes(before)
        assert load_version(version)(["soup"])

    def test_every_missing_file_is_refused(self, files):
        version = find_alias(MODEL, "champion")
        for name in names_of(files):
            (files / name).rename(files.parent / "away")
            assert f"its file {name} is missing" in refusal(version)
            (files.parent / "away").rename(files / name)

    @pytest.mark.parametrize("name", ["code.py", "artifacts/bundle/lstm/__init__.py", "artifacts/bundle/__pycache__/x"])
    def test_an_added_file_is_refused(self, files, name):
        (files / name).parent.mkdir(exist_ok=True)
        (files / name).touch()
        assert f"the file {name} was added to it" in refusal()

    def test_reversed_labels_are_refused(self, files):
        path = files / "artifacts" / "bundle" / "model.json"
        description = json.loads(path.read_text("utf-8"))
        description["labels"].reverse()
        path.write_text(json.dumps(description, ensure_ascii=False, sort_keys=True, indent=0), "utf-8")
        assert "its file artifacts/bundle/model.json was changed" in refusal()

    def test_files_that_are_gone_are_refused(self, files):
        shutil.rmtree(files)
        assert refusal().startswith(f"models:/{MODEL}/1: ")

    def test_loading_by_the_alias_says_how_to_mend_it(self, files):
        (files / "MLmodel").unlink()
        with pytest.raises(UnusableModelError) as caught:
            load_model(MODEL, "champion")
        assert str(caught.value) == (
            "models:/gloveflow-toy/1: its file MLmodel is missing. To mend it, run `gloveflow doctor --repair`, "
            "which moves the alias to the version before, or `gloveflow run`, which registers a new version, and then "
            "`gloveflow models promote N --model gloveflow-toy --why TEXT`"
        )

    def test_code_of_a_changed_model_does_not_run(self, files, tmp_path):
        with (files / "model.py").open("a") as file:
            file.write(f"\nopen({str(tmp_path / 'ran')!r}, 'w').close()\n")
        assert "its file model.py was changed" in refusal()
        assert not (tmp_path / "ran").exists()

    def test_byte_code_beside_the_model_does_not_run(self, files, tmp_path):
        """MLflow leaves byte code there itself, so it is left out and not refused."""
        source = tmp_path / "model.py"
        source.write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
        cached = Path(importlib.util.cache_from_source(str(files / "model.py")))
        py_compile.compile(str(source), str(cached), invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
        assert load_model(MODEL, "champion").classify(["soup"])
        assert not (tmp_path / "ran").exists()

    def test_a_version_that_was_loaded_in_place_by_mlflow_is_still_accepted(self, files):
        mlflow.pyfunc.load_model(str(files))
        (files / "registered_model_meta").write_text("model_name: x\n")
        verify_version(find_alias(MODEL, "champion"))

    def test_a_model_that_was_changed_is_not_found_by_its_content(self, files, caplog):
        digest = find_alias(MODEL, "champion").tags["gloveflow.model_digest"]
        assert find_version(MODEL, digest).version == 1
        (files / "MLmodel").write_text("{}")
        assert find_version(MODEL, digest) is None
        assert "a version with the same content is ignored: models:/gloveflow-toy/1: its file MLmodel was changed" in (
            caplog.text
        )


@pytest.mark.usefixtures("registered")
class TestTags:
    def test_the_tag_has_every_file_of_the_model(self, registered_model):
        assert list(json.loads(find_alias(MODEL, "champion").tags[FILES_TAG])) == names_of(registered_model)

    def test_a_version_without_the_tag_is_refused(self):
        open_client().delete_model_version_tag(MODEL, "1", FILES_TAG)
        assert refusal() == (
            f"models:/{MODEL}/1: it has no tag {FILES_TAG} with the digests of its files, so they cannot be checked; it "
            f"was registered by an older release or not by gloveflow"
        )

    @pytest.mark.parametrize("tag", ["", "{", "[]", "{}", '{"MLmodel": 1}', "null"])
    def test_a_senseless_tag_is_refused(self, tag):
        open_client().set_model_version_tag(MODEL, "1", FILES_TAG, tag)
        assert "is not a JSON object of file names and SHA-256 digests" in refusal()


@pytest.mark.usefixtures("registered")
class TestOtherPackages:
    def test_a_model_that_fails_to_load_names_the_packages_that_differ(self, monkeypatch):
        def fail(*_: object) -> None:
            raise ImportError("cannot import name 'lstm'")

        monkeypatch.setattr("mlflow.pyfunc.load_model", fail)
        monkeypatch.setattr("tasks.tracking.loaded.metadata.version", lambda name: f"{name}-9")
        message = refusal()
        assert "models:/gloveflow-toy/1: cannot be loaded: ImportError: cannot import name 'lstm'; it was" in message
        assert "(installed: torch-9)" in message
        assert message.endswith(": install these versions")

    def test_a_model_that_fails_on_texts_is_told_apart_from_a_defect(self):
        with pytest.raises(
            UnusableModelError,
            match="models:/gloveflow-toy/1: cannot classify texts: RefusedRequest: row 0: expected a string",
        ):
            load_model(MODEL, "champion").classify([7])
