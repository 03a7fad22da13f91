"""MLflow's client with errors in plain words, whatever was called.

A server that is away raises `ServiceError`, a database or a directory that cannot be written raises `StoreError`.
"""

import functools
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import (
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

_SQLITE = "sqlite:///"
_OUTAGES = {
    ErrorCode.Name(code)
    for code in (INTERNAL_ERROR, PERMISSION_DENIED, REQUEST_LIMIT_EXCEEDED, TEMPORARILY_UNAVAILABLE, UNAUTHENTICATED)
}
_REASONS = (  # what MLflow and its HTTP library say, and the same in short
    (re.compile(r"Connection refused"), "connection refused"),
    (re.compile(r"[Rr]ead timeout=(\S+?)\)|[Rr]ead timed out"), "no answer in time"),
    (re.compile(r"too many (\d{3}) error responses"), r"HTTP status \1"),
    (re.compile(r"[Cc]onnection aborted|ConnectionReset"), "the connection was cut"),
)


def _is_not_raised(record: logging.LogRecord) -> bool:
    """Refuse the lines with which MLflow logs an error of its database that it also raises."""
    return record.exc_info is None or "GLOVEFLOW_DEBUG" in os.environ


logging.getLogger("mlflow.store.db.utils").addFilter(_is_not_raised)


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


def _call(method: Callable[..., Any], uri: str, *args: Any, **kwargs: Any) -> Any:
    try:
        return method(*args, **kwargs)
    except MlflowException as error:
        if error.error_code not in _OUTAGES:
            raise
        _raise_store_error(error, uri)
        raise ServiceError(_describe(uri, method.__name__, error.message)) from error
    except OSError as error:
        if not hasattr(error, "response"):  # only the errors of MLflow's HTTP library have one
            _raise_store_error(error, uri)
            raise
        raise ServiceError(_describe(uri, method.__name__, str(error))) from error


def _raise_store_error(error: Exception, uri: str) -> None:
    """Raise `StoreError` if the database or the files of MLflow on this machine cannot be written."""
    place = Path(uri.removeprefix(_SQLITE)) if uri.startswith(_SQLITE) else artifacts_root()
    found = find_store_error(error, place)
    if found:
        raise found from error


def _describe(uri: str, call: str, message: str) -> str:
    reason = next((found.expand(short) for pattern, short in _REASONS if (found := pattern.search(message))), None)
    return f"MLflow at {hide_credentials(uri)} failed at `{call}`: {reason or ' '.join(message.split())[:300]}"
