"""The question on the page of a paused run: answered there, answered elsewhere, not answered."""

import threading
import time
from contextvars import copy_context
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from prefect import flow, get_client, runtime
from prefect.exceptions import NotPausedError
from prefect.flow_runs import resume_flow_run

from flows import approval
from pipeline_config.registration import RegistrationConfig
from tasks.registry.approval import ask_approval, reject
from tasks.tracking import versions
from tasks.tracking.version_list import read_approval

GATE = RegistrationConfig(approval="pause")


@pytest.fixture
def waiting(on_copy, monkeypatch):
    """A registration whose version waits for a person, without a champion."""
    monkeypatch.setattr(approval, "POLL_SECONDS", 1)
    registration = on_copy.registration
    versions.delete_alias(registration.model, GATE.alias)
    passed = registration.decision.model_copy(update={"champion": None})
    asked = ask_approval(registration.model, registration.version, passed, GATE)
    return registration.model_copy(update={"decision": asked})


@flow(name="ask", persist_result=False)
def ask(registration, identities):
    identities.append(runtime.flow_run.id)
    return approval.ask_on_page(registration, GATE)


def ask_while(registration, act):
    """Run the flow; once it is paused, do something with its id, in another thread; return what came of it."""
    identities = []

    def wait_and_act():
        deadline = time.monotonic() + 60
        with get_client(sync_client=True) as client:
            while time.monotonic() < deadline:
                state = client.read_flow_run(UUID(identities[0])).state if identities else None
                if state and state.is_paused():
                    act(UUID(identities[0]))
                    return
                time.sleep(0.05)

    thread = threading.Thread(target=copy_context().run, args=(wait_and_act,))
    thread.start()
    answered = ask(registration, identities)
    thread.join()
    return answered


def resume(identity, **answer):
    """Answer as Prefect's page does, which shows the form a moment after the pause."""
    for _ in range(100):
        try:
            return resume_flow_run(identity, run_input=answer)
        except (NotPausedError, RuntimeError):
            time.sleep(0.1)
    raise AssertionError("the run could not be resumed")


def state_of(registration):
    return read_approval(versions.require_version(registration.model, int(registration.version)).tags)


def test_approval_on_the_page_gives_the_alias(waiting):
    answered = ask_while(waiting, lambda identity: resume(identity, approve=True, why="it reads well"))
    assert (answered.promoted, state_of(answered), answered.decision.waits_until) == (True, "approved", None)
    assert "has the alias champion" in answered.reason
    version = versions.require_version(waiting.model, int(waiting.version))
    assert "it reads well (on the page of flow run " in versions.read_changes(version.tags)[-1]["why"]


def test_a_rejection_elsewhere_lets_the_run_go_on(waiting):
    def reject_elsewhere(_identity):
        reject(waiting.model, int(waiting.version), why="no")

    answered = ask_while(waiting, reject_elsewhere)
    assert (answered.promoted, state_of(answered)) == (False, "rejected")
    assert answered.reason == f"version {waiting.version} is rejected by a person"


def test_without_an_answer_the_champion_stays(waiting):
    until = (datetime.now(UTC) + timedelta(seconds=2)).isoformat()
    versions.set_tag(waiting.model, waiting.version, "gloveflow.approval_until", until)
    late = waiting.model_copy(update={"decision": waiting.decision.model_copy(update={"waits_until": until})})
    answered = ask(late, identities := [])
    with get_client(sync_client=True) as client:
        assert client.read_flow_run(UUID(identities[0])).state.is_completed()
    assert (answered.promoted, state_of(answered)) == (False, "expired")
    assert f"nobody approved version {waiting.version} until" in answered.reason


def test_the_question_shows_the_rules_with_their_figures(waiting):
    question = approval.describe_question(waiting)
    assert question.startswith(f"May [{waiting.model} version {waiting.version}](")
    assert question.count("\n| ") == 1 + len(waiting.decision.rules)


def test_nobody_is_asked_about_a_version_that_does_not_wait(on_copy):
    assert approval.ask_on_page(on_copy.registration, GATE) is on_copy.registration
