"""Promotion, rollback and deletion of registered versions by hand."""

import threading

import pytest

from pipeline_config.errors import ConfigError, UnusableModelError
from tasks.registry.changes import delete, give_alias, promote, rollback
from tasks.store.locks import file_lock
from tasks.tracking import models, versions
from tasks.tracking.models import find_alias
from tasks.tracking.runs import user_name
from tasks.tracking.server import mlflow_directory, open_client
from tests.registrations import MODEL, add_versions, alias, damage, gated, register, train_another


@pytest.fixture
def gate(registered):
    """Three versions, of which the first is champion; returns the names of the aliases."""
    add_versions("1", copies=2)
    return registered.config.registration


def aliases() -> dict[str, str]:
    found = versions.require_model(MODEL)
    found.pop("challenger", None)
    return found


def test_a_version_that_the_gate_lets_pass_makes_the_champion_the_previous_one(registered):
    register(registered, classifier=train_another(registered), answers=1.0)
    assert aliases() == {"champion": "2", "previous": "1"}
    (change,) = versions.read_changes(find_alias(MODEL, "champion").tags)
    assert (change["what"], change["who"], change["replaced"]) == ("got champion", user_name(), "1")
    assert change["why"].startswith("champion: macro F1 1.0000, version 1 ")


def test_a_promoted_version_takes_the_alias_and_leaves_who_when_and_why(gate):
    assert promote(MODEL, 3, gate, why="it is calmer") == (
        f"{MODEL} version 3 has the alias champion of version 1, which is now previous"
    )
    assert aliases() == {"champion": "3", "previous": "1"}
    (change,) = versions.read_changes(find_alias(MODEL, "champion").tags)
    assert (change["what"], change["who"], change["why"]) == ("got champion", user_name(), "it is calmer")
    assert change["when"].endswith("+00:00")


def test_the_champion_is_not_promoted_twice(gate):
    promote(MODEL, 2, gate, why="once")
    assert "already has the alias champion; nothing was changed" in promote(MODEL, 2, gate, why="twice")
    assert aliases() == {"champion": "2", "previous": "1"}
    assert [change["why"] for change in versions.read_changes(find_alias(MODEL, "champion").tags)] == ["once"]


def test_a_rollback_goes_back_one_version_each_time_until_there_is_none(gate):
    promote(MODEL, 2, gate, why="a")
    promote(MODEL, 3, gate, why="b")
    assert rollback(MODEL, gate, why="worse") == f"{MODEL} version 2 has the alias champion again, which version 3 had"
    assert aliases() == {"champion": "2", "previous": "1"}
    rollback(MODEL, gate, why="worse, too")
    assert aliases() == {"champion": "1"}
    assert versions.read_changes(find_alias(MODEL, "champion").tags)[-1]["why"] == "worse, too"
    with pytest.raises(ConfigError, match="no version has the alias previous, so there is none to go back to"):
        rollback(MODEL, gate, why="again")


def test_a_rollback_to_the_champion_itself_is_refused(gate):
    models.set_alias(MODEL, "previous", "1")
    with pytest.raises(ConfigError, match="version 1 has both champion and previous"):
        rollback(MODEL, gate, why="?")


def test_a_damaged_version_gets_no_alias(gate):
    promote(MODEL, 2, gate, why="a")
    damage("1")  # the files of all copies
    for change in (lambda: promote(MODEL, 3, gate, why="b"), lambda: rollback(MODEL, gate, why="c")):
        with pytest.raises(UnusableModelError, match=r"its file .* was changed after it was registered"):
            change()
    assert aliases() == {"champion": "2", "previous": "1"}


def test_a_champion_that_cannot_be_used_does_not_become_the_previous_one(gate):
    promote(MODEL, 2, gate, why="a")
    open_client().delete_model_version_tag(MODEL, "2", "gloveflow.files")
    assert "it cannot be used, so it is not kept as previous" in promote(MODEL, 3, gate, why="b")
    assert aliases() == {"champion": "3", "previous": "1"}


def test_a_version_with_an_alias_is_never_deleted(gate):
    with pytest.raises(ConfigError, match=r"version 1 has the alias challenger, champion, and a version with an alias"):
        delete(MODEL, 1, why="old")
    assert "version 2 is deleted" in delete(MODEL, 2, why="old")
    with pytest.raises(ConfigError, match="no version 2"):
        versions.require_version(MODEL, 2)
    tag = open_client().get_registered_model(MODEL).tags["gloveflow.deleted.2"]
    assert '"why": "old"' in tag
    assert f'"who": "{user_name()}"' in tag


@pytest.mark.parametrize("change", [promote, delete])
def test_an_unknown_model_or_version_is_a_mistake_of_the_command_line(gate, change):
    arguments = [gate] if change is promote else []
    with pytest.raises(ConfigError, match=f"{MODEL}: no version 9; `gloveflow models --model {MODEL}` lists"):
        change(MODEL, 9, *arguments, why="x")
    with pytest.raises(ConfigError, match="unknown: no such registered model; `gloveflow models` lists them"):
        change("unknown", 1, *arguments, why="x")


def test_rolling_back_an_unknown_model_is_a_mistake(gate):
    with pytest.raises(ConfigError, match="unknown: no such registered model"):
        rollback("unknown", gate, why="x")


@pytest.mark.parametrize("change", ["promote", "rollback", "delete"])
def test_a_change_waits_for_the_lock_that_a_registration_holds(gate, change):
    models.set_alias(MODEL, "previous", "2")
    calls = {
        "promote": lambda: promote(MODEL, 3, gate, why="x"),
        "rollback": lambda: rollback(MODEL, gate, why="x"),
        "delete": lambda: delete(MODEL, 3, why="x"),
    }
    asked = threading.Event()
    thread = threading.Thread(target=lambda: (asked.set(), calls[change]()))
    before = aliases()
    with file_lock(mlflow_directory() / ".registry.lock", waiting_for="nobody"):
        thread.start()
        asked.wait()
        thread.join(0.3)
        assert thread.is_alive()
        assert aliases() == before
        versions.require_version(MODEL, 3)
    thread.join()
    if change == "delete":
        with pytest.raises(ConfigError):
            versions.require_version(MODEL, 3)
    else:
        assert aliases() != before


def test_a_kill_between_the_steps_of_a_promotion_leaves_the_champion(gate, monkeypatch):
    set_alias = models.set_alias

    def stop(name: str, which: str, number: str) -> None:
        if which == "champion":
            raise KeyboardInterrupt
        set_alias(name, which, number)

    monkeypatch.setattr(models, "set_alias", stop)
    with pytest.raises(KeyboardInterrupt):
        promote(MODEL, 2, gate, why="x")
    assert aliases() == {"champion": "1", "previous": "1"}
    monkeypatch.setattr(models, "set_alias", set_alias)
    promote(MODEL, 2, gate, why="x")
    assert aliases() == {"champion": "2", "previous": "1"}


def test_the_record_keeps_the_newest_changes_and_survives_senseless_content(gate):
    for number in range(versions.MAX_CHANGES + 3):
        versions.record_change(MODEL, "2", "tried", why=str(number))
    changes = versions.read_changes(open_client().get_model_version(MODEL, "2").tags)
    assert [change["why"] for change in changes] == [str(n) for n in range(3, versions.MAX_CHANGES + 3)]
    for text in ("{", "7", '["x"]'):
        assert versions.read_changes({"gloveflow.changes": text}) == []


def test_the_first_champion_has_no_previous_one(registered):
    versions.delete_alias(MODEL, "champion")
    give_alias(MODEL, "1", gated(registered.config).registration, why="x")
    assert aliases() == {"champion": "1"}
    assert alias("champion") == "1"
