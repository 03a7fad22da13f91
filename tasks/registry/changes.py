"""Changes to the registry that a person or the gate decides: promote, roll back, delete.

A person's change holds the lock that a registration holds, so neither can undo the other. The files of a version are
checked against their digests before it gets an alias. Each change leaves who, when and why in a tag of the version.
"""

from pipeline_config.errors import ConfigError, UnusableModelError
from pipeline_config.registration import RegistrationConfig
from tasks.tracking import models, versions
from tasks.tracking.model_files import Version, verify_version
from tasks.tracking.version_files import describe_promotion


def give_alias(name: str, number: str, gate: RegistrationConfig, *, why: str, keep_previous: bool = False) -> None:
    """Give the champion alias to a version; the version that had it gets the alias of the previous one.

    The caller holds the lock and has checked the version. A kill between the steps leaves the champion as it was.

    Args:
        name: the registered model.
        number: the version.
        gate: the names of the aliases.
        why: the reason, for the record.
        keep_previous: leave the alias of the previous one where it is.
    """
    before = models.find_alias(name, gate.alias)
    if before is not None and str(before.version) == number:
        return
    replaced = {} if before is None else {"replaced": str(before.version)}
    versions.record_change(name, number, f"got {gate.alias}", why=why, **replaced)
    if before is not None and not keep_previous:
        models.set_alias(name, gate.previous_alias, str(before.version))
    models.set_alias(name, gate.alias, number)


def promote(name: str, number: int, gate: RegistrationConfig, *, why: str) -> str:
    """Give the champion alias to a version, without the gate; return what was done.

    A champion that cannot be used does not become the previous one.

    Raises:
        ConfigError: there is no such model or version.
        UnusableModelError: the version's files are gone or changed, or it has no digests.
    """
    with models.registry_lock():
        version = versions.require_version(name, number)
        before = models.find_alias(name, gate.alias)
        if before is not None and str(before.version) == str(number):
            return f"{name} version {number} already has the alias {gate.alias}; nothing was changed"
        return hand_over(name, version, before, gate, why=why)


def hand_over(name: str, version: Version, before: Version | None, gate: RegistrationConfig, *, why: str) -> str:
    """Give the champion alias to a version after a check of its files; return what was done. The caller holds the lock.

    Args:
        name: the registered model.
        version: the version.
        before: the version that has the alias now, if any.
        gate: the names of the aliases.
        why: the reason, for the record.

    Raises:
        UnusableModelError: the version's files are gone or changed, or it has no digests.
    """
    number = str(version.version)
    verify_version(version)
    broken = before is not None and not is_usable(before)
    give_alias(name, number, gate, why=why, keep_previous=broken)
    if before is None:
        return f"{name} version {number} has the alias {gate.alias}, which no version had"
    kept = "it cannot be used, so it is not kept as" if broken else "which is now"
    return (
        f"{name} version {number} has the alias {gate.alias} of version {before.version}, {kept} {gate.previous_alias}"
    )


def rollback(name: str, gate: RegistrationConfig, *, why: str) -> str:
    """Give the champion alias back to the version that had it before; return what was done.

    The alias of the previous version moves on to the version before that, or is removed if there is none.

    Raises:
        ConfigError: there is no such model, or no version to go back to.
        UnusableModelError: that version's files are gone or changed, or it has no digests.
    """
    with models.registry_lock():
        versions.require_model(name)
        champion, previous = models.find_alias(name, gate.alias), models.find_alias(name, gate.previous_alias)
        if previous is None:
            raise ConfigError(
                f"{name}: no version has the alias {gate.previous_alias}, so there is none to go back to; "
                f"{describe_promotion(name, 'N')} chooses a version"
            )
        number = str(previous.version)
        if champion is not None and str(champion.version) == number:
            raise ConfigError(
                f"{name}: version {number} has both {gate.alias} and {gate.previous_alias}, so there is no other one "
                f"to go back to; {describe_promotion(name, 'N')} chooses a version"
            )
        verify_version(previous)
        return_alias(name, previous, gate, why=why)
    came = "which no version had" if champion is None else f"which version {champion.version} had"
    return f"{name} version {number} has the alias {gate.alias} again, {came}"


def return_alias(name: str, previous: Version, gate: RegistrationConfig, *, why: str) -> None:
    """Give the champion alias to the previous version, and the alias of that one to the version before it, if any.

    The caller holds the lock and has checked the version.
    """
    versions.record_change(name, str(previous.version), f"got {gate.alias} back", why=why)
    models.set_alias(name, gate.alias, str(previous.version))
    older = _version_before(name, previous)
    if older is None:
        versions.delete_alias(name, gate.previous_alias)
    else:
        models.set_alias(name, gate.previous_alias, older)


def delete(name: str, number: int, *, why: str) -> str:
    """Remove a version from the registry; return what was done. The files of its MLflow run stay.

    Raises:
        ConfigError: there is no such model or version, or it has an alias.
    """
    with models.registry_lock():
        versions.require_version(name, number)
        aliases = versions.aliases_of(name, number)
        if aliases:
            raise ConfigError(
                f"{name} version {number} has the alias {', '.join(aliases)}, and a version with an alias is never "
                "deleted; give the alias to another version first"
            )
        versions.delete_version(name, str(number), why=why)
    return f"{name} version {number} is deleted from the registry; its MLflow run keeps its files"


def is_usable(version: Version) -> bool:
    """Return whether the files of a version agree with their digests."""
    try:
        verify_version(version)
    except UnusableModelError:
        return False
    return True


def _version_before(name: str, version: Version) -> str | None:
    """Return the version from which a version took the champion alias, if it is still registered."""
    for change in reversed(versions.read_changes(version.tags)):
        number = change.get("replaced", "")
        if number.isdecimal() and number != str(version.version):
            try:
                versions.require_version(name, int(number))
            except ConfigError:
                return None
            return number
    return None
