"""MLflow's client with errors in plain words, whatever was called.

A server that is away raises `ServiceError`, a database or a directory that cannot be written raises `StoreError`.
A call that failed is repeated for some seconds if a second one does no harm. What creates something goes through
`create_once`. A server that hangs is not asked again, because the timeout of one call is all that a user should wait.
"""

import functools
import logging
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
    BAD_REQUEST,
    INTERNAL_ERROR,
    PERMISSION_DENIED,
    REQUEST_LIMIT_EXCEEDED,
    TEMPORARILY_UNAVAILABLE,
    UNAUTHENTICATED,
    ErrorCode,
)

from pipeline_config.errors import ServiceError
from tasks.runtime.services import hide_credentials
from tasks.store.artifacts import artifacts_root
from tasks.store.disk_errors import find_store_error

T = TypeVar("T")
PATIENCE_SECONDS = 6.0
PAUSE_SECONDS = 0.5  # it doubles
_REFUSED, _NO_ANSWER = "connection refused", "no answer in time"
_SQLITE = "sqlite:///"
_REFUSED_ROW = ErrorCode.Name(BAD_REQUEST)
_OUTAGES = {
    ErrorCode.Name(code)
    for code in (INTERNAL_ERROR, PERMISSION_DENIED, REQUEST_LIMIT_EXCEEDED, TEMPORARILY_UNAVAILABLE, UNAUTHENTICATED)
}
_REASONS = (  # what MLflow and its HTTP library say, and the same in short
    (re.compile(r"Connection refused"), _REFUSED),
    (re.compile(r"[Rr]ead timeout=(\S+?)\)|[Rr]ead timed out"), _NO_ANSWER),
    (re.compile(r"too many (\d{3}) error responses"), r"HTTP status \1"),
    (
        re.compile(r"database disk image is malformed|file is not a database"),
        "its database is damaged; restore it from a backup",
    ),
    (re.compile(r"[Cc]onnection aborted|ConnectionReset"), "the connection was cut"),
)


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Refuse the lines with which MLflow logs an error of its database that it also raises."""
    return record.exc_info is None or "GLOVEFLOW_DEBUG" in os.environ


logging.getLogger("mlflow.store.db.utils").addFilter(_is_not_raised)


class Unanswered(ServiceError):  # noqa: N818 (a kind of it)
    """MLflow took a call and did not answer in time. Nobody knows whether it did what was asked."""


class TrackingClient(MlflowClient):
    """A client of MLflow. A call that the server does not answer, or that it refuses us, raises `ServiceError`.

    A call that cannot write to the database or the files on this machine raises `StoreError`.

    MLflow's other errors, such as that a run or a model does not exist, stay as they are.
    """

    def __getattribute__(self, name: str) -> Any:
        """Return an attribute; a public method is wrapped, so that it raises `ServiceError` for an outage."""
        value = super().__getattribute__(name)
        if name.startswith("_") or name == "tracking_uri" or not callable(value):
            return value
        return functools.partial(_call, value, super().__getattribute__("tracking_uri"))


def create_once(create: Callable[[], T], find: Callable[[], T | None]) -> T:
    """Create something; if the call failed, look first whether MLflow has it, and create it only if not.

    Args:
        create: the call that creates.
        find: returns what the call created, or None.

    Raises:
        Unanswered: MLflow hangs.
        ServiceError: MLflow does not answer.
    """
    try:
        return create()
    except Unanswered:
        raise
    except ServiceError:
        found = find()
        return create() if found is None else found


def _call(method: Callable[..., Any], uri: str, *args: Any, **kwargs: Any) -> Any:
    pause, deadline = PAUSE_SECONDS, time.monotonic() + PATIENCE_SECONDS
    while True:
        try:
            return _call_in_plain_words(method, uri, *args, **kwargs)
        except Unanswered:
            raise
        except ServiceError as error:
            repeatable = _REFUSED in str(error) or not method.__name__.startswith(("create_", "log_outputs"))
            if not repeatable or time.monotonic() + pause > deadline:
                raise
        time.sleep(pause)
        pause *= 2


def _call_in_plain_words(method: Callable[..., Any], uri: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return method(*args, **kwargs)
    except MlflowException as error:
        if error.error_code not in _OUTAGES and not _is_race(error):
            raise
        _raise_store_error(error, uri)
        raise _describe(uri, method.__name__, error.message) from error
    except OSError as error:
        if not hasattr(error, "response"):  # only the errors of MLflow's HTTP library have one
            _raise_store_error(error, uri)
            raise
        raise _describe(uri, method.__name__, str(error)) from error


def _is_race(error: MlflowException) -> bool:
    """Return whether two processes wrote the same row at once: at the next try MLflow finds that of the other."""
    return bool(error.error_code == _REFUSED_ROW and "IntegrityError" in str(error.message))


def _raise_store_error(error: Exception, uri: str) -> None:
    """Raise `StoreError` if the database or the files of MLflow on this machine cannot be written."""
    place = Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else artifacts_root()
    found = find_store_error(error, place)
    if found:
        raise found from error


def _describe(uri: str, call: str, message: str) -> ServiceError:
    reason = next((found.expand(short) for pattern, short in _REASONS if (found := pattern.search(message))), None)
    kind = Unanswered if reason == _NO_ANSWER else ServiceError
    return kind(f"MLflow at {hide_credentials(uri)} failed at `{call}`: {reason or ' '.join(message.split())[:300]}")
