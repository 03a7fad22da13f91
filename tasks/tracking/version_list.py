"""The list of registered versions, quickly: read from our SQLite database without mlflow, whose import takes seconds.

Another server is asked through MLflow's client. Also the names of the tags of a version. Reads only.
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

DOCUMENTS_TAG = "gloveflow.documents_digest"
RUN_TAG = "gloveflow.run_id"
CORPUS_TAG = "gloveflow.corpus"
EVALUATION_TAG = "gloveflow.evaluation"  # key and digest of the output with its predictions
DECISION_TAG = "gloveflow.decision"
OUTCOME_TAG = "gloveflow.outcome"  # against the champion: better, equivalent, worse, unknown, or none
CHANGES_TAG = "gloveflow.changes"  # a JSON list, the newest change last
SMOKE_TAG = "gloveflow.smoke"  # passed, or why not
VERDICT_TAG = "gloveflow.verdict"  # what the evaluation says, in short
APPROVAL_TAG = "gloveflow.approval"  # waiting, approved, rejected or expired
UNTIL_TAG = "gloveflow.approval_until"  # ISO 8601
CHAMPION_TAG = "gloveflow.approval_champion"  # the version with which one that waits was compared, or none
REGISTERED = ""  # in place of a model's name: what is registered, whichever model it is
_DELETED = "Deleted_Internal"  # the stage with which MLflow marks a deleted version


class VersionRecord(NamedTuple):
    """A registered version; `created` is in seconds since 1970, `aliases` are sorted."""

    name: str
    version: int
    created: float
    aliases: tuple[str, ...]
    tags: dict[str, str]

    def score(self, model: str, metric: str) -> float | None:
        """Return a test score from the tags, or None if there is none or it is no number.

        Versions of older releases are networks, and have no other scores than those.
        """
        tag = score_tag(model, metric)
        try:
            return float(self.tags.get(tag) or self.tags[score_tag(model or "lstm", metric)])
        except (KeyError, ValueError):
            return None


def score_tag(model: str, metric: str) -> str:
    """Return the name of the tag of a test score of a version; `model` is `REGISTERED`, `lstm` or `baseline`."""
    return f"test_{model}_{metric}" if model else f"test_{metric}"


def read_approval(tags: Mapping[str, str]) -> str | None:
    """Return the state of the approval of a version; one that waited for too long is expired."""
    state = tags.get(APPROVAL_TAG)
    if state != "waiting":
        return state
    try:
        until = datetime.fromisoformat(tags.get(UNTIL_TAG, ""))
    except ValueError:
        return "expired"
    return "expired" if until <= datetime.now(UTC) else state


def list_versions(root: Path, model: str | None = None) -> list[VersionRecord]:
    """Return registered versions, by name and number.

    Args:
        root: the artifacts directory.
        model: name of a registered model; None is all of them.

    Raises:
        ServiceError: the registry cannot be read.
    """
    database = root / "mlflow" / "mlflow.db"
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        if not database.exists():
            return []
        with contextlib.suppress(sqlite3.Error):  # a database of another version: MLflow migrates it
            return _select(_read_database(database), model)
    return _select(sorted(_ask_server(), key=lambda record: record[:2]), model)


def _select(records: Iterable[VersionRecord], model: str | None) -> list[VersionRecord]:
    return [record for record in records if model in (None, record.name)]


def _read_database(path: Path) -> Iterator[VersionRecord]:
    with _open(path) as database:
        aliases: dict[tuple[str, int], list[str]] = {}
        for name, version, alias in database.execute("SELECT name, version, alias FROM registered_model_aliases"):
            aliases.setdefault((name, version), []).append(alias)
        tags: dict[tuple[str, int], dict[str, str]] = {}
        for name, version, key, value in database.execute("SELECT name, version, key, value FROM model_version_tags"):
            tags.setdefault((name, version), {})[key] = value or ""
        for name, version, created in database.execute(
            "SELECT name, version, creation_time FROM model_versions WHERE current_stage <> ? ORDER BY name, version",
            (_DELETED,),
        ):
            own = tuple(sorted(aliases.get((name, version), ())))
            yield VersionRecord(name, version, (created or 0) / 1000, own, tags.get((name, version), {}))


def _open(path: Path) -> contextlib.closing[sqlite3.Connection]:
    return contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=60))


def _ask_server() -> Iterator[VersionRecord]:
    from tasks.tracking.server import open_client  # here: it imports mlflow

    client = open_client()
    for model in _pages(client.search_registered_models):
        for version in _pages(client.search_model_versions, f"name = '{model.name}'"):
            aliases = sorted(alias for alias, number in model.aliases.items() if str(number) == str(version.version))
            yield VersionRecord(
                model.name, int(version.version), version.creation_timestamp / 1000, tuple(aliases), dict(version.tags)
            )


def _pages(search: Callable[..., Any], *arguments: str) -> Iterator[Any]:
    token = None
    while True:
        page = search(*arguments, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
