"""Run a flow in this process for the command line: signals, the Prefect server, and the end of every task run."""

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar
from uuid import UUID

from flows.cli.servers import embedded_prefect
from pipeline_config.errors import GloveflowError, ServiceError
from tasks.runtime.loggers import open_loggers
from tasks.runtime.services import hide_credentials, require_answer

T = TypeVar("T")
logger = logging.getLogger(__name__)
FLUSH_SECONDS = 3.0
ANSWER_SECONDS = 6.0  # how long a call waits for Prefect, which by itself waits a minute
TELL_AGAIN_SECONDS = 30.0
LAST_SECONDS = 10.0
_undelivered: set[Future[bool]] = set()  # what Prefect had not taken after `FLUSH_SECONDS`


class Interrupted(GloveflowError):  # noqa: N818 (an interruption is not an error)
    """The run was interrupted by Ctrl-C or a termination signal."""

    exit_code = 130


def run_flow(root: Path, load: Callable[[], Callable[..., Any]], **parameters: Any) -> Any:
    """Run a flow to its end and return its result.

    Args:
        root: the artifacts directory.
        load: imports the flow and returns it; it is called while the embedded server starts.
        parameters: the flow's parameters.

    Raises:
        Interrupted: the run was interrupted by Ctrl-C or SIGTERM.
        ServiceError: the Prefect server does not answer.
        Exception: the flow's own error.
    """
    embedded = "PREFECT_API_URL" not in os.environ
    if not embedded:
        url = os.environ["PREFECT_API_URL"].rstrip("/")
        require_answer("Prefect", f"{url}/health", advice="start it, or correct or unset PREFECT_API_URL")
    with _terminate_like_ctrl_c(), embedded_prefect(root) as wait_for_server:
        flow = load()
        # set again, because a library may have replaced the handler below Python's: polars does, and mlflow imports it
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
        from prefect import tags
        from prefect.settings import temporary_settings

        from flows.recovery import hold_process

        open_loggers()
        wait_for_server()
        flow_run_ids: list[UUID] = []
        observed = flow.with_options(  # type: ignore[attr-defined]
            on_running=[lambda _flow, flow_run, _state: flow_run_ids.append(flow_run.id)]
        )
        outages = contextlib.ExitStack()
        try:
            outages.enter_context(_tell_of_outages())
            with temporary_settings(_client_settings()), tags(hold_process()):
                state = observed(**parameters, return_state=True)
        except KeyboardInterrupt as error:
            raise Interrupted(_describe_interrupt(error)) from None
        except Exception as error:
            if reason := _find_outage(error):
                raise ServiceError(
                    f"Prefect at {hide_credentials(os.environ.get('PREFECT_API_URL', ''))} does not answer: {reason}"
                ) from error
            raise
        finally:
            with outages:
                flush_and_close_task_runs(flow_run_ids, close=embedded)
        if state.is_cancelled():
            raise Interrupted(state.message)
        return state.result()


def flush_and_close_task_runs(flow_run_ids: list[UUID], *, close: bool) -> None:
    """Send queued events and log lines to the Prefect server, and close the task runs that are still open.

    Args:
        flow_run_ids: the flow runs of this process.
        close: whether to wait until the server has recorded the end of every task run, and to set the runs that are
            still open after `FLUSH_SECONDS` to Crashed. Needed before the server stops.
    """
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.settings import temporary_settings
    from prefect.states import Crashed

    for worker in (EventsWorker, APILogWorker):
        _undelivered.update(worker.drain_all(timeout=FLUSH_SECONDS)[1])  # type: ignore[index]
    if not flow_run_ids or not close:
        return
    settings = temporary_settings(_client_settings())  # by itself, the client asks a dead server for minutes
    with contextlib.suppress(Exception), settings, get_client(sync_client=True) as client:
        deadline = time.monotonic() + FLUSH_SECONDS
        while True:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": flow_run_ids}))
            open_runs = [r for r in runs if not (r.state and (r.state.is_final() or r.state.name == "NotReady"))]
            if not open_runs or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for run in open_runs:
            client.set_task_run_state(run.id, Crashed(message="The run was interrupted."), force=True)


def exit_process(code: int) -> None:
    """End the process with an exit code.

    After an interruption it does not wait for threads that still run. For a server that is away, Prefect's client would
    try each of the last events and log lines again and again: they have `LAST_SECONDS`.
    """
    if wait(_undelivered, LAST_SECONDS).not_done or (threading.active_count() > 1 and code == Interrupted.exit_code):
        leave_at_once(code)
    sys.exit(code)


def leave_at_once(code: int) -> NoReturn:
    """End the process without what Python does at its end, which takes seconds after torch was imported."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def _terminate_like_ctrl_c() -> Iterator[None]:
    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _client_settings() -> dict[Any, Any]:
    """Return Prefect's settings for a run of the command line."""
    from prefect.settings import (
        PREFECT_API_REQUEST_TIMEOUT,
        PREFECT_CLIENT_MAX_RETRIES,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    )

    settings: dict[Any, Any] = {PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}  # the heartbeat delays the end by 1 s
    if "PREFECT_API_REQUEST_TIMEOUT" not in os.environ:
        settings[PREFECT_API_REQUEST_TIMEOUT] = ANSWER_SECONDS
    if "PREFECT_CLIENT_MAX_RETRIES" not in os.environ:
        settings[PREFECT_CLIENT_MAX_RETRIES] = 2  # a lost server is reported after some 6 s, not after a minute
    return settings


class _OutageTeller(logging.Handler):
    """Say once in a while that Prefect does not answer, as soon as its client asks again."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.told = -TELL_AGAIN_SECONDS

    def emit(self, record: logging.LogRecord) -> None:
        if "retryable" in str(record.msg) and time.monotonic() > self.told + TELL_AGAIN_SECONDS:
            self.told = time.monotonic()
            url = hide_credentials(os.environ.get("PREFECT_API_URL", ""))
            logger.warning("Prefect at %s does not answer; it is asked again", url)


@contextlib.contextmanager
def _tell_of_outages() -> Iterator[None]:
    """Log a warning during the body when Prefect does not answer a call, before the call is given up.

    Prefect's own lines about log lines that could not be sent, on standard error, are off.
    """
    client, teller = logging.getLogger("prefect.client"), _OutageTeller()
    level, raised = client.level, logging.raiseExceptions
    logging.raiseExceptions = bool(os.environ.get("GLOVEFLOW_DEBUG"))
    client.setLevel(logging.DEBUG)
    client.addHandler(teller)
    try:
        yield
    finally:
        client.removeHandler(teller)
        client.setLevel(level)
        logging.raiseExceptions = raised


def _describe_interrupt(error: KeyboardInterrupt) -> str:
    return f"Interrupted by {error.args[0]}" if error.args else "Interrupted by Ctrl-C"


def _find_outage(error: Exception) -> str:
    """Return why Prefect did not answer, if that is what the error says, and else an empty text."""
    import httpx

    if isinstance(error, httpx.HTTPStatusError):
        return f"HTTP status {error.response.status_code}" if error.response.status_code >= 500 else ""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    return str(error) if isinstance(error, httpx.TransportError) or "Failed to reach API" in str(error) else ""
