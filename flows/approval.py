"""The question to a person on the page of a Prefect run: it pauses, and goes on with the answer.

The registry decides, not the page: a version that was approved or rejected with `gloveflow models` meanwhile lets the
run go on, and an answer that comes after another version has become champion is refused.
"""

import contextlib
import contextvars
import logging
import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
from prefect import runtime
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from pydantic import Field

from flows.publishing import decision_table
from pipeline_config.contracts.decision import Decision
from pipeline_config.errors import GloveflowError
from pipeline_config.registration import RegistrationConfig
from tasks.registry.approval import approve, reject
from tasks.registry.register_model import Registration
from tasks.runtime.escaping import escape_markdown
from tasks.tracking import server, versions
from tasks.tracking.version_list import read_approval

logger = logging.getLogger(__name__)
POLL_SECONDS = 5
NEVER_SECONDS = 10 * 365 * 86_400  # a run that Prefect's own time-out ends counts as failed; ours resumes it


class Answer(RunInput):
    """The form on the page of a paused run."""

    approve: bool = Field(False, title="Make this version the champion", description="Off: the champion stays.")
    why: str = Field(min_length=1, title="Why", description="Is kept with the version.")


def ask_on_page(registration: Registration, gate: RegistrationConfig) -> Registration:
    """Pause this flow run until a person has decided about its version, or the time is over.

    Returns:
        The registration with what was decided; unchanged if nobody has to be asked, or Prefect does not answer. Then
        the version goes on waiting, for `gloveflow models approve` or `reject`.
    """
    decision = registration.decision
    if gate.approval != "pause" or decision.waits_until is None:
        return registration
    logger.info("%-20s this run pauses until a person decides, here or with the command", "approval")
    answer = None
    try:
        with _going_on_when_decided(registration):
            form = Answer.with_initial_data(description=describe_question(registration))
            answer = pause_flow_run(wait_for_input=form, timeout=NEVER_SECONDS, poll_interval=POLL_SECONDS)
    except httpx.HTTPError as error:
        logger.warning("this run cannot wait on its page any longer: Prefect does not answer: %s", error)
    said = "" if answer is None else _decide(registration, gate, answer)
    return registration.model_copy(update={"decision": _read_decision(registration, said)})


def describe_question(registration: Registration) -> str:
    """Return what a person has to know, in Markdown: the version, the gate's reason, and each rule's figures."""
    name, number, decision = registration.model, registration.version, registration.decision
    rows = [
        f"| {escape_markdown(row['rule'])} | {row['value']} | {row['other']} | {_describe_difference(row)} |"
        for row in decision_table(decision)
    ]
    return "\n".join(
        [
            f"May [{escape_markdown(name)} version {number}]({server.model_url(name, number)}) become the champion?",
            "",
            escape_markdown(f"{decision.reason[:1].upper()}{decision.reason[1:]}"),
            "",
            "| rule | version | other | difference |",
            "|---|---|---|---|",
            *rows,
        ]
    )


def _describe_difference(row: dict[str, Any]) -> str:
    return "" if row["difference"] == "" else f"{row['difference']:+} ({row['low']:+} to {row['high']:+})"


def _decide(registration: Registration, gate: RegistrationConfig, answer: Answer) -> str:
    """Approve or reject as a person answered, and return what was done; a version that waits no more stays as it is."""
    name, number = registration.model, int(registration.version)
    if _read_state(registration) != "waiting":
        return ""
    why = f"{answer.why} (on the page of flow run {runtime.flow_run.name})"
    try:
        return approve(name, number, gate, why=why) if answer.approve else reject(name, number, why=why)
    except GloveflowError as error:
        return f"the champion stays: {error}"


def _read_decision(registration: Registration, said: str) -> Decision:
    """Return the decision with the state of the approval as the registry has it now."""
    state, before = _read_state(registration), registration.decision
    if state == "waiting":
        return before.model_copy(update={"reason": said}) if said else before
    reason = said or f"version {registration.version} is {state} by a person"
    if state == "expired":
        reason = f"nobody approved version {registration.version} until {before.waits_until}; the champion stays"
    logger.info("%-20s %s", "approval", reason)
    return before.model_copy(update={"promoted": state == "approved", "reason": reason, "waits_until": None})


def _read_state(registration: Registration) -> str | None:
    return read_approval(versions.require_version(registration.model, int(registration.version)).tags)


@contextlib.contextmanager
def _going_on_when_decided(registration: Registration) -> Iterator[None]:
    """Resume the paused flow run, during the body, once its version waits no more: decided elsewhere, or too late."""
    stop, identity = threading.Event(), UUID(str(runtime.flow_run.id))

    def watch() -> None:
        while not stop.wait(POLL_SECONDS):
            try:
                if _read_state(registration) != "waiting":  # then the answer is not looked at
                    resume_flow_run(identity, run_input={"approve": False, "why": "decided elsewhere, or too late"})
                    return
            except Exception as error:  # a server that is away; it is asked again
                logger.warning("whether version %s is approved is unknown: %s", registration.version, error)

    context = contextvars.copy_context()
    thread = threading.Thread(target=context.run, args=(watch,), name="approval", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
