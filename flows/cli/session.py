"""Run a flow in this process for the command line: signals, server, a clean end of every task run."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar
from uuid import UUID

from flows.cli.servers import embedded_prefect
from pipeline_config.errors import GloveflowError, ServiceError
from tasks.runtime.loggers import open_loggers

T = TypeVar("T")
SETTLE_SECONDS = 3.0


class Interrupted(GloveflowError):  # noqa: N818 (it is no error)
    """The run was interrupted by Ctrl-C or a termination signal."""

    exit_code = 130


def run_flow(root: Path, load: Callable[[], Callable[..., Any]], *arguments: Any) -> Any:
    """Run a flow to its end and return its result.

    Args:
        root: the artifacts directory.
        load: imports the flow and returns it; called while the embedded server starts.
        arguments: what the flow is called with.

    Raises:
        Interrupted: by Ctrl-C or SIGTERM.
        ServiceError: the Prefect server does not answer.
        Exception: what the flow raised.
    """
    embedded = "PREFECT_API_URL" not in os.environ
    with _terminate_like_ctrl_c(), embedded_prefect(root) as wait_for_server:
        flow = load()
        # again, because a library may have put a handler under Python's: polars, which mlflow imports if it is there
        signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        open_loggers()
        wait_for_server()
        flow_run_ids: list[UUID] = []
        observed = flow.with_options(  # type: ignore[attr-defined]
            on_running=[lambda _flow, flow_run, _state: flow_run_ids.append(flow_run.id)]
        )
        try:
            with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):  # it costs a second at the end
                state = observed(*arguments, return_state=True)
        except KeyboardInterrupt as error:
            raise Interrupted(_why(error)) from None
        except Exception as error:
            if _is_unreachable(error):
                raise ServiceError(
                    f"Prefect at {os.environ.get('PREFECT_API_URL')} does not answer: {error}"
                ) from error
            raise
        finally:
            settle(flow_run_ids, wait=embedded)
        if state.is_cancelled():
            raise Interrupted(state.message)
        return state.result()


def settle(flow_run_ids: list[UUID], *, wait: bool) -> None:
    """Send what is still queued for the server, and end task runs whose threads were left behind.

    Args:
        flow_run_ids: the flow runs of this process.
        wait: also wait until the server has recorded the end of every task run, because it is going to stop.
    """
    from prefect import get_client
    from prefect.client.schemas.filters import FlowRunFilter
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker
    from prefect.states import Crashed

    EventsWorker.drain_all(timeout=SETTLE_SECONDS)
    APILogWorker.drain_all(timeout=SETTLE_SECONDS)
    if not flow_run_ids or not wait:
        return
    with contextlib.suppress(Exception), get_client(sync_client=True) as client:
        deadline = time.monotonic() + SETTLE_SECONDS
        while True:
            runs = client.read_task_runs(flow_run_filter=FlowRunFilter(id={"any_": flow_run_ids}))
            open_runs = [r for r in runs if not (r.state and (r.state.is_final() or r.state.name == "NotReady"))]
            if not open_runs or time.monotonic() > deadline:
                break
            time.sleep(0.1)
        for run in open_runs:
            client.set_task_run_state(run.id, Crashed(message="The run was interrupted."), force=True)


def leave(code: int) -> None:
    """End the process at once; threads that cannot be stopped do not hold it up."""
    if threading.active_count() > 1 and code == Interrupted.exit_code:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@contextlib.contextmanager
def _terminate_like_ctrl_c() -> Iterator[None]:
    def interrupt(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _why(error: KeyboardInterrupt) -> str:
    return f"Interrupted by {error.args[0]}" if error.args else "Interrupted by Ctrl-C"


def _is_unreachable(error: Exception) -> bool:
    import httpx

    return isinstance(error, httpx.TransportError) or "Failed to reach API" in str(error)
