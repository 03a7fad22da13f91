"""A registration that is killed after one of its calls to MLflow is completed by the next one, with nothing twice."""

import os
import signal

import pytest

from tasks.registry.approval import approve
from tasks.tracking import client, versions
from tests.campaigns.release.small_runs import start_fork, wait_for
from tests.registrations import MODEL, alias, gated, register, train_another
from tests.registrations import versions as list_numbers

ALWAYS_NEW = ("gloveflow.run_id", "gloveflow.approval_until", "gloveflow.changes")


@pytest.fixture
def waiting(registered):
    """A function that registers version 2, which the gate lets pass, for the approval of a person."""
    config, other = gated(registered.config, approval="person", smoke_documents=0), train_another(registered)
    return lambda: register(registered, classifier=other, answers=1.0, config=config), config.registration


def kill_after(call: int, act) -> bool:
    """Do something in a fork that is killed after one of its calls to MLflow; return whether it got there."""

    def act_and_die() -> None:
        made, calls = client._call, []

        def count(*args, **kwargs):
            result = made(*args, **kwargs)
            calls.append(1)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        client._call = count
        act()

    code = wait_for(start_fork(act_and_die))
    assert code in (0, -signal.SIGKILL)
    return code != 0


def state() -> dict[str, object]:
    tags = versions.require_version(MODEL, 2).tags
    return {
        "versions": list_numbers(),
        "aliases": {name: alias(name) for name in ("champion", "challenger")},
        "tags": {key: value for key, value in tags.items() if key not in ALWAYS_NEW},
        "words": tags["gloveflow.decision"].partition(" until ")[0],
    }


def test_a_killed_registration_is_completed_by_the_next(waiting):
    ask, gate = waiting
    call = 1
    while kill_after(call, ask):
        call += 8
        assert alias("champion") == "1"
        assert list_numbers() in ([1], [1, 2])
    assert call > 15
    assert ask().decision.waits_until == versions.require_version(MODEL, 2).tags["gloveflow.approval_until"]
    found = state()
    assert (found["versions"], found["aliases"]) == ([1, 2], {"champion": "1", "challenger": "2"})
    assert found["tags"]["gloveflow.approval"] == "waiting"
    assert found["words"].startswith("version 1 stays champion: version 2 waits for a person")

    call = 1
    while alias("champion") == "1":
        assert kill_after(call, lambda: approve(MODEL, 2, gate, why="good"))
        call += 1
    assert approve(MODEL, 2, gate, why="good") == f"{MODEL} version 2 has the alias champion"
    assert state()["tags"]["gloveflow.approval"] == "approved"
    assert alias("previous") == "1"
