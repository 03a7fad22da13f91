"""What the doctor mends in the registry: aliases of versions that cannot be used, and lost scores."""

import shutil

import pytest

from pipeline_config.errors import UnusableModelError
from tasks.registry.changes import promote
from tasks.registry.mending import find_lost_scores, is_broken, move_alias_off, restore_scores
from tasks.tracking import versions
from tasks.tracking.models import find_alias
from tasks.tracking.server import open_client
from tests.registrations import MODEL, add_versions, damage, model_folder, register, train_another


@pytest.fixture
def gate(registered):
    """Version 1 is the previous champion, version 2, with files of its own, the champion."""
    register(registered, classifier=train_another(registered), answers=0.0)
    promote(MODEL, 2, registered.config.registration, why="a test")
    return registered.config.registration


def aliases() -> dict[str, str]:
    return versions.require_model(MODEL)


def lose_files(number: str) -> None:
    shutil.rmtree(model_folder(number))


def lose_digests(number: str) -> None:
    versions.delete_tag(MODEL, number, "gloveflow.files")


@pytest.mark.parametrize("harm", [damage, lose_files, lose_digests])
def test_a_champion_that_cannot_be_used_gives_its_alias_to_the_previous_one(gate, harm):
    harm("2")
    assert is_broken(MODEL, 2)
    with pytest.raises(UnusableModelError):
        find_lost_scores(MODEL, 2)
    done = move_alias_off(MODEL, "2", "champion", gate)
    assert done == f"champion of {MODEL} is moved from version 2 to version 1"
    assert aliases() == {"champion": "1", "challenger": "2"}
    assert "version 2 cannot be used" in versions.read_changes(find_alias(MODEL, "champion").tags)[-1]["why"]
    assert versions.require_version(MODEL, 2).tags["gloveflow.changes"].count("lost champion") == 1


def test_without_a_good_previous_one_the_alias_is_removed(gate):
    damage("1")
    damage("2")
    done = move_alias_off(MODEL, "2", "champion", gate)
    assert done == f"champion of {MODEL} is removed from version 2; no version has it now"
    assert aliases() == {"challenger": "2", "previous": "1"}
    move_alias_off(MODEL, "2", "challenger", gate)
    move_alias_off(MODEL, "1", "previous", gate)
    assert aliases() == {}
    for number in (1, 2):
        versions.require_version(MODEL, number)


@pytest.mark.parametrize("alias", ["champion", "previous", "challenger"])
def test_a_good_version_keeps_its_alias(gate, alias):
    before = aliases()
    assert "in order now" in move_alias_off(MODEL, before[alias], alias, gate)
    assert aliases() == before


def test_an_alias_that_moved_meanwhile_is_left_alone(gate):
    damage("2")
    assert "in order now" in move_alias_off(MODEL, "2", "previous", gate)
    assert aliases()["previous"] == "1"


def test_files_that_cannot_be_read_for_another_reason_are_not_called_broken(gate, monkeypatch):
    def fail(**_: object) -> str:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mlflow.artifacts.download_artifacts", fail)
    assert not is_broken(MODEL, 2)
    before = aliases()
    assert "in order now" in move_alias_off(MODEL, "2", "champion", gate)
    assert aliases() == before


@pytest.mark.parametrize("value", [None, "high"])
def test_lost_scores_come_back_from_the_run(gate, value):
    tags = dict(find_alias(MODEL, "previous").tags)
    for tag in ("test_lstm_macro_f1", "test_baseline_accuracy"):
        versions.delete_tag(MODEL, "1", tag) if value is None else versions.set_tag(MODEL, "1", tag, value)
    assert find_lost_scores(MODEL, 1) == ["test_lstm_macro_f1", "test_baseline_accuracy"]
    assert restore_scores(MODEL, 1) == f"{MODEL} version 1 has its scores again"
    assert find_alias(MODEL, "previous").tags == tags
    assert find_lost_scores(MODEL, 1) == []


def test_without_the_run_the_next_one_measures_the_version(gate):
    versions.delete_tag(MODEL, "1", "test_lstm_macro_f1")
    versions.set_tag(MODEL, "1", "gloveflow.run_id", "gone")
    assert "will be measured" in restore_scores(MODEL, 1)
    assert "gloveflow.documents_digest" not in open_client().get_model_version(MODEL, "1").tags
    assert find_lost_scores(MODEL, 1) == []


def test_versions_that_share_files_share_their_damage(gate):
    add_versions("2", copies=1)
    damage("2")
    assert is_broken(MODEL, 3)
