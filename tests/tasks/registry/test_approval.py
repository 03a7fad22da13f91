"""The approval of a person: what waits, what is approved, rejected, refused."""

import pytest

from pipeline_config.errors import ConfigError
from tasks.registry.approval import approve, reject
from tasks.registry.changes import promote
from tasks.tracking import versions
from tasks.tracking.version_list import read_approval
from tests.registrations import MODEL, add_versions, alias, gated, register, train_another


@pytest.fixture
def waiting(registered):
    """Version 2, which the gate lets pass, waits; returns a function that registers it again, and the configuration."""
    config, other = gated(registered.config, approval="person"), train_another(registered)

    def ask(**changes):
        return register(registered, classifier=other, answers=1.0, config=gated(config, **changes))

    first = ask()
    assert (first.version, first.promoted) == ("2", False)
    return ask, config.registration, first


def tags() -> dict[str, str]:
    return versions.require_version(MODEL, 2).tags


def test_a_version_that_passes_waits_as_challenger_and_goes_on_waiting_when_it_is_registered_again(waiting):
    ask, _, first = waiting
    assert (alias("champion"), alias("challenger")) == ("1", "2")
    assert tags()["gloveflow.approval"] == "waiting"
    assert tags()["gloveflow.approval_champion"] == "1"
    assert first.decision.waits_until == tags()["gloveflow.approval_until"]
    assert first.reason.startswith(
        f"version 1 stays champion: version 2 waits for a person until {first.decision.waits_until}"
    )
    assert f"`gloveflow models approve 2 --model {MODEL} --why TEXT`" in first.reason
    assert ask().decision.waits_until == first.decision.waits_until


def test_approval_moves_the_alias_once_and_leaves_who_and_why(waiting):
    _, gate, _ = waiting
    assert approve(MODEL, 2, gate, why="it reads well") == (
        f"{MODEL} version 2 has the alias champion of version 1, which is now previous"
    )
    assert alias("champion") == "2"
    (change,) = versions.read_changes(tags())
    assert (change["what"], change["why"], change["replaced"]) == ("got champion", "approved: it reads well", "1")
    with pytest.raises(ConfigError, match="does not wait for an approval: it is approved"):
        approve(MODEL, 2, gate, why="again")


def test_approval_is_refused_when_another_version_has_become_champion_since(waiting):
    ask, gate, _ = waiting
    add_versions("1", copies=1)
    promote(MODEL, 3, gate, why="by hand")
    with pytest.raises(ConfigError, match="compared while version 1 was champion, and now version 3 has that alias"):
        approve(MODEL, 2, gate, why="late")
    assert alias("champion") == "3"
    ask()
    assert tags()["gloveflow.approval_champion"] == "3"
    approve(MODEL, 2, gate, why="compared again")
    assert alias("champion") == "2"


def test_a_rejected_version_is_not_asked_about_again(waiting):
    ask, gate, _ = waiting
    assert reject(MODEL, 2, why="too rude") == f"{MODEL} version 2 is rejected; the champion stays"
    assert versions.read_changes(tags())[-1]["why"] == "too rude"
    again = ask()
    assert (again.promoted, again.decision.waits_until) == (False, None)
    assert again.reason.startswith("version 1 stays champion: a person rejected version 2. ")
    with pytest.raises(ConfigError, match="it is rejected"):
        approve(MODEL, 2, gate, why="after all")
    assert alias("champion") == "1"


def test_after_the_time_the_champion_stays_and_the_next_run_asks_again(waiting):
    ask, gate, _ = waiting
    versions.set_tag(MODEL, "2", "gloveflow.approval_until", "2020-01-01T00:00:00+00:00")
    assert read_approval(tags()) == "expired"
    for decide in (lambda: approve(MODEL, 2, gate, why="late"), lambda: reject(MODEL, 2, why="late")):
        with pytest.raises(ConfigError, match="waited until 2020-01-01T00:00:00"):
            decide()
    assert (alias("champion"), tags()["gloveflow.approval"]) == ("1", "expired")
    assert ask(approval_hours=1).decision.waits_until > "2025"
    assert tags()["gloveflow.approval"] == "waiting"


def test_without_a_champion_the_first_version_waits_too(registered):
    config = gated(registered.config, approval="person", model="other")
    first = register(registered, config=config)
    assert (first.version, first.promoted) == ("1", False)
    assert first.reason.startswith("not champion yet: version 1 waits")
    assert "which no version had" in approve("other", 1, config.registration, why="a start")


def test_a_version_that_nobody_asked_about_cannot_be_approved(registered):
    with pytest.raises(ConfigError, match="does not wait for an approval; `gloveflow models promote 1"):
        approve(MODEL, 1, registered.config.registration, why="x")
    with pytest.raises(ConfigError, match="no version 9"):
        reject(MODEL, 9, why="x")
