"""MLflow's client with errors in plain words: a server that is away raises `ServiceError`, whatever was called."""

import functools
import re
from collections.abc import Callable
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

_OUTAGES = {
    ErrorCode.Name(code)
    for code in (INTERNAL_ERROR, PERMISSION_DENIED, REQUEST_LIMIT_EXCEEDED, TEMPORARILY_UNAVAILABLE, UNAUTHENTICATED)
}
_REASONS = (  # what MLflow and its HTTP library say, and the same in short
    (re.compile(r"Connection refused"), "connection refused"),
    (re.compile(r"[Rr]ead timeout=(\S+?)\)|[Rr]ead timed out"), "no answer in time"),
    (re.compile(r"too many (\d{3}) error responses"), r"HTTP status \1"),
    (
        re.compile(r"database disk image is malformed|file is not a database"),
        "its database is damaged; restore it from a backup",
    ),
    (re.compile(r"[Cc]onnection aborted|ConnectionReset"), "the connection was cut"),
)


class TrackingClient(MlflowClient):
    """A client of MLflow. A call that the server does not answer, or that it refuses us, raises `ServiceError`.

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
        raise ServiceError(_describe(uri, method.__name__, error.message)) from error
    except OSError as error:
        if not hasattr(error, "response"):  # only the errors of MLflow's HTTP library have one
            raise
        raise ServiceError(_describe(uri, method.__name__, str(error))) from error


def _describe(uri: str, call: str, message: str) -> str:
    reason = next((found.expand(short) for pattern, short in _REASONS if (found := pattern.search(message))), None)
    return f"MLflow at {hide_credentials(uri)} failed at `{call}`: {reason or ' '.join(message.split())[:300]}"
