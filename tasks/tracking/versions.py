"""Registered versions: look one up, change its aliases and tags, keep the record of who changed what, delete it."""

import json
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from mlflow.exceptions import MlflowException

from pipeline_config.errors import ConfigError
from pipeline_config.masking import mask_secrets
from tasks.tracking import runs
from tasks.tracking.model_files import Version
from tasks.tracking.runs import user_name
from tasks.tracking.server import ABSENT, open_client
from tasks.tracking.version_list import CHANGES_TAG, RUN_TAG

MAX_CHANGES = 20
MAX_WHY = 1000


class RunRecord(NamedTuple):
    """What the MLflow run of a version holds: the configuration, metrics, and stage outputs by stage."""

    settings: dict[str, str]
    metrics: dict[str, float]
    outputs: dict[str, dict[str, Any]]


def require_version(name: str, number: int) -> Version:
    """Return a registered version.

    Raises:
        ConfigError: there is no such model or no such version.
    """
    try:
        return open_client().get_model_version(name, str(number))
    except MlflowException as error:
        if error.error_code not in ABSENT:
            raise
    require_model(name)
    raise ConfigError(f"{name}: no version {number}; `gloveflow models --model {name}` lists its versions")


def require_model(name: str) -> dict[str, str]:
    """Return the aliases of a registered model, with the number of their version.

    Raises:
        ConfigError: there is no such model.
    """
    try:
        aliases = open_client().get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code in ABSENT:
            raise ConfigError(f"{name}: no such registered model; `gloveflow models` lists them") from error
        raise
    return {str(alias): str(version) for alias, version in aliases.items()}


def aliases_of(name: str, number: int) -> list[str]:
    """Return the aliases of a version, sorted."""
    return sorted(alias for alias, version in require_model(name).items() if version == str(number))


def delete_alias(name: str, alias: str) -> None:
    """Remove an alias; its version stays."""
    open_client().delete_registered_model_alias(name, alias)


def set_tag(name: str, number: str, key: str, value: str) -> None:
    """Set a tag of a version."""
    open_client().set_model_version_tag(name, number, key, mask_secrets(value))


def delete_tag(name: str, number: str, key: str) -> None:
    """Remove a tag of a version."""
    open_client().delete_model_version_tag(name, number, key)


def read_model_tags(name: str) -> dict[str, str]:
    """Return the tags of a registered model."""
    return dict(open_client().get_registered_model(name).tags)


def set_model_tag(name: str, key: str, value: str) -> None:
    """Set a tag of a registered model."""
    open_client().set_registered_model_tag(name, key, mask_secrets(value))


def delete_model_tag(name: str, key: str) -> None:
    """Remove a tag of a registered model."""
    open_client().delete_registered_model_tag(name, key)


def record_change(name: str, number: str, what: str, *, why: str, **more: str) -> None:
    """Add a change to the record in the tags of a version: what, who, when, why."""
    tags = open_client().get_model_version(name, number).tags
    changes = [*read_changes(tags), _describe_change(what, why, more)]
    set_tag(name, number, CHANGES_TAG, json.dumps(changes[-MAX_CHANGES:], ensure_ascii=False))


def read_changes(tags: dict[str, str]) -> list[dict[str, str]]:
    """Return the changes that the tags of a version record, the oldest first; a senseless record is empty."""
    try:
        changes = json.loads(tags.get(CHANGES_TAG, "[]"))
    except ValueError:
        return []
    return [change for change in changes if isinstance(change, dict)] if isinstance(changes, list) else []


def delete_version(name: str, number: str, *, why: str) -> None:
    """Remove a version from the registry, and record that in a tag of the model; the files of its run stay."""
    client = open_client()
    change = json.dumps(_describe_change("deleted", why, {}), ensure_ascii=False)
    client.set_registered_model_tag(name, f"gloveflow.deleted.{number}", mask_secrets(change))
    client.delete_model_version(name, number)


def read_run(run_id: str) -> RunRecord | None:
    """Return what the run of a version holds, or None if the run is gone."""
    client = open_client()
    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    try:
        outputs = json.loads(_read_text(run_id, "reports/outputs.json"))
    except (MlflowException, OSError, ValueError):
        outputs = {}
    return RunRecord(dict(run.data.params), dict(run.data.metrics), outputs if isinstance(outputs, dict) else {})


def was_broken_off(run_id: str) -> bool:
    """Return whether the run of a version is there and ended before its time."""
    try:
        run = open_client().get_run(run_id)
    except MlflowException:
        return False
    return runs.LOCK_TAG in run.data.tags and runs.was_broken_off(run)


def find_experiment(version: Version) -> str:
    """Return the name of the experiment of a version's run; that of a new run of its model if the run is gone."""
    client = open_client()
    try:
        run = client.get_run(version.tags.get(RUN_TAG, ""))
        return str(client.get_experiment(run.info.experiment_id).name)
    except MlflowException:
        return f"gloveflow/{version.name.removeprefix('gloveflow-')}"


def _read_text(run_id: str, name: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return Path(open_client().download_artifacts(run_id, name, folder)).read_text("utf-8")


def _describe_change(what: str, why: str, more: dict[str, str]) -> dict[str, str]:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return {"what": what, "who": user_name(), "when": now, "why": why[:MAX_WHY], **more}
