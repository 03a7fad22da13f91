"""Mend aliases and tags of versions that cannot be used or compared, for `gloveflow doctor --repair`.

Every step holds the registry's lock and checks again first. A version and its files are never removed.
"""

import math
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline_config.errors import StoreError, UnusableModelError
from pipeline_config.registration import RegistrationConfig
from tasks.registry.changes import is_usable, return_alias
from tasks.tracking import models, versions
from tasks.tracking.model_files import Version, verify_version
from tasks.tracking.server import open_client
from tasks.tracking.version_list import DECISION_TAG, DOCUMENTS_TAG, OUTCOME_TAG, RUN_TAG, list_versions, score_tag

INTERRUPTED = "not decided: the registration was interrupted; `gloveflow run` with its configuration decides"
_SCORES = [score_tag(model, metric) for model in ("lstm", "baseline") for metric in ("accuracy", "macro_f1")]


def find_lost_scores(name: str, number: int) -> list[str]:
    """Check the files of a version; return its tags that should hold a test score and do not.

    Raises:
        UnusableModelError: its files are gone or changed, or it has no digests.
    """
    version = versions.require_version(name, number)
    verify_version(version)
    return _lost_scores(version)


def is_broken(name: str, number: int) -> bool:
    """Return whether the files of a version are gone or differ from their digests.

    Files that are there and could only not be read, for lack of permission or of disk space, say nothing about that.
    """
    version = versions.require_version(name, number)
    try:
        verify_version(version)
    except UnusableModelError as error:
        return error.__cause__ is None or not _folder_exists(version)
    except StoreError:
        return not _folder_exists(version)
    return False


def move_alias_off(name: str, number: str, alias: str, gate: RegistrationConfig) -> str:
    """Take an alias from a version that cannot be used; return what was done.

    The champion alias goes to the version with the alias of the previous one, if that one can be used. Any other alias
    is removed.
    """
    with models.registry_lock():
        found = models.find_alias(name, alias)
        if found is None or str(found.version) != number or not is_broken(name, int(number)):
            return f"{name}@{alias} is in order now; left alone"
        why = f"gloveflow doctor: version {number} cannot be used"
        previous = models.find_alias(name, gate.previous_alias)
        versions.record_change(name, number, f"lost {alias}", why=why)
        if alias == gate.alias and previous is not None and str(previous.version) != number and is_usable(previous):
            return_alias(name, previous, gate, why=why)
            return f"{alias} of {name} is moved from version {number} to version {previous.version}"
        versions.delete_alias(name, alias)
    return f"{alias} of {name} is removed from version {number}; no version has it now"


def restore_scores(name: str, number: int) -> str:
    """Set lost score tags of a version from its MLflow run; return what was done.

    If the run does not have them, the digest of the documents is removed, so that the gate measures the version.
    """
    with models.registry_lock():
        version = versions.require_version(name, number)
        record = versions.read_run(version.tags.get(RUN_TAG, ""))
        for tag in _lost_scores(version):
            score = record.metrics.get(tag) if record else None
            if score is None:
                versions.delete_tag(name, str(number), DOCUMENTS_TAG)
                return f"{name} version {number} will be measured by the next run"
            versions.set_tag(name, str(number), tag, str(score))
    return f"{name} version {number} has its scores again"


def _lost_scores(version: Version) -> list[str]:
    if DOCUMENTS_TAG not in version.tags:  # then the gate measures the version
        return []
    return [tag for tag in _SCORES if not 0 <= _number(version.tags.get(tag, "")) <= 1]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _folder_exists(version: Version) -> bool:
    location = urlsplit(open_client().get_model_version_download_uri(version.name, str(version.version)))
    return location.scheme not in ("", "file") or Path(url2pathname(location.path)).exists()


def find_half_made(root: Path, gate: RegistrationConfig) -> list[tuple[str, int]]:
    """Return name and number of the newest versions whose run was broken off before the gate decided.

    Such a version has no decision, and at most the alias of the challenger.
    """
    newest = {record.name: record for record in list_versions(root)}
    return [
        (name, record.version)
        for name, record in newest.items()
        if models.DIGEST_TAG in record.tags
        and set(record.aliases) <= {gate.challenger_alias}
        and DECISION_TAG not in record.tags
        and versions.was_broken_off(record.tags.get(RUN_TAG, ""))
    ]


def finish_record(root: Path, name: str, number: int, gate: RegistrationConfig) -> str:
    """Write into the record of a version that its registration was interrupted; return what was done."""
    with models.registry_lock():
        if (name, number) not in find_half_made(root, gate):
            return f"{name} version {number} is registered completely now; left alone"
        versions.set_tag(name, str(number), DECISION_TAG, INTERRUPTED)
        versions.set_tag(name, str(number), OUTCOME_TAG, "unknown")
    return f"{name} version {number}: {INTERRUPTED}"
