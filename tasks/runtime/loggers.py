"""The project's loggers: their lines reach Prefect's handlers, without secrets, and users' errors show no traceback."""

import logging
import os

from pipeline_config.errors import GloveflowError
from pipeline_config.masking import mask_secrets

OUR_LOGGERS = ("flows", "tasks", "pipeline_config")


class _HideUserTraceback(logging.Filter):
    """Replace the traceback of an error that a user can fix by its message."""

    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, GloveflowError) and not os.environ.get("GLOVEFLOW_DEBUG"):
            record.exc_info = record.exc_text = None
            record.msg, record.args = "%s: %s", (type(error).__name__, error)
        return True


class _MaskSecrets(logging.Filter):
    """Mask secrets of addresses in a line and its traceback.

    It is for handlers: the filter of a logger does not see the lines of the loggers below it.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = mask_secrets(record.getMessage()), None
        if record.exc_info and not record.exc_text:
            record.exc_text = logging.Formatter().formatException(record.exc_info)  # handlers take it as it is
        if record.exc_text:
            record.exc_text = mask_secrets(record.exc_text)
        return True


def open_loggers() -> None:
    """Let INFO lines of our loggers reach Prefect's handlers, and hide the tracebacks of errors that a user can fix.

    Secrets of addresses are masked in what any handler of this process gets, lines of libraries included.
    """
    for name in OUR_LOGGERS:
        logging.getLogger(name).setLevel(logging.INFO)
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        engine = logging.getLogger(name)
        if not any(isinstance(present, _HideUserTraceback) for present in engine.filters):
            engine.addFilter(_HideUserTraceback())
    for handler in _list_handlers():
        if not any(isinstance(present, _MaskSecrets) for present in handler.filters):
            handler.addFilter(_MaskSecrets())


def _list_handlers() -> list[logging.Handler]:
    loggers = [logging.getLogger(), *logging.Logger.manager.loggerDict.values()]
    return [handler for logger in loggers if isinstance(logger, logging.Logger) for handler in logger.handlers]
