"""The approval of a person: a version that the gate lets pass waits as challenger until a person decides.

Tags of the version hold the state, until when it waits, and the champion that it was compared with. Nothing runs
meanwhile: the run that asked has ended. Approval gives the alias only if that champion still has it.
"""

from datetime import UTC, datetime, timedelta

from pipeline_config.contracts.decision import Decision
from pipeline_config.errors import ConfigError
from pipeline_config.registration import RegistrationConfig
from tasks.registry.changes import hand_over
from tasks.tracking import models, versions
from tasks.tracking.model_files import Version
from tasks.tracking.version_files import describe_promotion
from tasks.tracking.version_list import APPROVAL_TAG, CHAMPION_TAG, UNTIL_TAG, read_approval

NO_CHAMPION = "none"


def ask_approval(name: str, number: str, decision: Decision, gate: RegistrationConfig) -> Decision:
    """Let a version that the gate lets pass wait for a person; return the decision, which does not promote it.

    A version that waits already for a decision about the same champion goes on waiting, and one that was rejected
    stays so. The caller holds the lock of the registry.
    """
    tags = versions.require_version(name, int(number)).tags
    state, champion = read_approval(tags), decision.champion or NO_CHAMPION
    if state == "rejected":
        reason = f"{_keeps(decision, gate)}: a person rejected version {number}. {describe_promotion(name, number)} "
        return decision.model_copy(update={"promoted": False, "reason": f"{reason}makes it the champion all the same"})
    until = tags.get(UNTIL_TAG, "")
    if state != "waiting" or tags.get(CHAMPION_TAG) != champion:
        until = (datetime.now(UTC) + timedelta(hours=gate.approval_hours)).isoformat(timespec="seconds")
        versions.set_tag(name, number, CHAMPION_TAG, champion)
        versions.set_tag(name, number, UNTIL_TAG, until)
        versions.set_tag(name, number, APPROVAL_TAG, "waiting")
    reason = (
        f"{_keeps(decision, gate)}: version {number} waits for a person until {until}, "
        f"`gloveflow models approve {number} --model {name} --why TEXT` or `reject` in its place. "
        f"The gate lets it pass: {decision.reason.removeprefix(f'{gate.alias}: ')}"
    )
    return decision.model_copy(update={"promoted": False, "reason": reason, "waits_until": until})


def approve(name: str, number: int, gate: RegistrationConfig, *, why: str) -> str:
    """Give the champion alias to a version that waits; return what was done.

    Raises:
        ConfigError: there is no such version, it does not wait or not any more, or another version has become champion.
        UnusableModelError: the version's files are gone or changed, or it has no digests.
    """
    with models.registry_lock():
        version = _require_waiting(name, number)
        compared = version.tags.get(CHAMPION_TAG, "")
        champion = models.find_alias(name, gate.alias)
        now = NO_CHAMPION if champion is None else str(champion.version)
        if now == str(number):  # an approval that was killed before its last step
            versions.set_tag(name, now, APPROVAL_TAG, "approved")
            return f"{name} version {number} has the alias {gate.alias}"
        if now != compared:
            had = "no version" if compared == NO_CHAMPION else f"version {compared}"
            has = "no version has" if champion is None else f"version {now} has"
            raise ConfigError(
                f"{name} version {number} was compared while {had} was {gate.alias}, and now {has} that alias: "
                f"`gloveflow run` with its configuration compares it again"
            )
        done = hand_over(name, version, champion, gate, why=f"approved: {why}")
        versions.set_tag(name, str(number), APPROVAL_TAG, "approved")
    return done


def reject(name: str, number: int, *, why: str) -> str:
    """Record that a version that waits is not wanted; return what was done.

    Raises:
        ConfigError: there is no such version, or it does not wait or not any more.
    """
    with models.registry_lock():
        _require_waiting(name, number)
        versions.record_change(name, str(number), "rejected", why=why)
        versions.set_tag(name, str(number), APPROVAL_TAG, "rejected")
    return f"{name} version {number} is rejected; the champion stays"


def _require_waiting(name: str, number: int) -> Version:
    version = versions.require_version(name, number)
    state = read_approval(version.tags)
    if state == "waiting":
        return version
    if state == "expired":
        versions.set_tag(name, str(number), APPROVAL_TAG, "expired")
        raise ConfigError(
            f"{name} version {number} waited until {version.tags.get(UNTIL_TAG)}, and the champion stayed: `gloveflow "
            f"run` with its configuration asks again, {describe_promotion(name, str(number))} needs no question"
        )
    raise ConfigError(
        f"{name} version {number} does not wait for an approval{f': it is {state}' if state else ''}; "
        f"{describe_promotion(name, str(number))} needs none"
    )


def _keeps(decision: Decision, gate: RegistrationConfig) -> str:
    return f"version {decision.champion} stays {gate.alias}" if decision.champion else f"not {gate.alias} yet"
