"""The project's loggers: their lines reach Prefect's handlers, and errors that a user can fix show no traceback."""

import logging
import os

from pipeline_config.errors import GloveflowError

OUR_LOGGERS = ("flows", "tasks", "pipeline_config")


class _HideUserTraceback(logging.Filter):
    """Replace the traceback of an error that a user can fix by its message."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, GloveflowError) and not os.environ.get("GLOVEFLOW_DEBUG"):
            record.exc_info = record.exc_text = None
            record.msg, record.args = "%s: %s", (type(error).__name__, error)
        return True


def open_loggers() -> None:
    """Let INFO lines of our loggers reach Prefect's handlers, and hide the tracebacks of errors that a user can fix."""
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        engine = logging.getLogger(name)
        if not any(isinstance(present, _HideUserTraceback) for present in engine.filters):
            engine.addFilter(_HideUserTraceback())
