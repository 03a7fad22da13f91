import logging
import sys

import pytest

from pipeline_config.errors import InputError
from tasks.runtime.loggers import OUR_LOGGERS, open_loggers


@pytest.fixture(params=["prefect.flow_runs", "prefect.task_runs"])
def engine(request, monkeypatch):
    """A logger of Prefect's engine, without filters."""
    logger = logging.getLogger(request.param)
    monkeypatch.setattr(logger, "filters", [])
    for name in OUR_LOGGERS:
        monkeypatch.setattr(logging.getLogger(name), "level", logging.WARNING)
    return logger


def record_of(error: BaseException) -> logging.LogRecord:
    try:
        raise error
    except type(error):
        return logging.LogRecord("engine", logging.ERROR, __file__, 1, "Task failed", (), sys.exc_info())


def test_info_lines_of_the_project_pass(engine):
    open_loggers()
    assert all(logging.getLogger(name).level == logging.INFO for name in OUR_LOGGERS)


def test_error_of_a_user_is_logged_as_its_message_without_a_traceback(engine, monkeypatch):
    monkeypatch.delenv("GLOVEFLOW_DEBUG", raising=False)
    open_loggers()
    record = record_of(InputError("a.csv: no such file"))
    assert engine.filter(record)
    assert record.getMessage() == "InputError: a.csv: no such file"
    assert record.exc_info is None


def test_with_debug_the_traceback_of_a_users_error_stays(engine, monkeypatch):
    monkeypatch.setenv("GLOVEFLOW_DEBUG", "1")
    open_loggers()
    record = record_of(InputError("a.csv: no such file"))
    assert engine.filter(record)
    assert (record.getMessage(), record.exc_info is None) == ("Task failed", False)


def test_traceback_of_a_defect_stays(engine, monkeypatch):
    monkeypatch.delenv("GLOVEFLOW_DEBUG", raising=False)
    open_loggers()
    record = record_of(ZeroDivisionError("a defect"))
    assert engine.filter(record)
    assert (record.getMessage(), record.exc_info is None) == ("Task failed", False)


def test_repeated_calls_add_one_filter(engine):
    for _ in range(3):
        open_loggers()
    assert len(engine.filters) == 1
