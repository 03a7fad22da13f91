"""Schedules: serve a deployment of the pipeline whose runs start by cron, one at a time."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from pipeline_config.errors import ConfigError, ServiceError
from pipeline_config.settings import PipelineConfig
from tasks.runtime.escaping import escape_markdown
from tasks.runtime.parent import PARENT_VARIABLE

if TYPE_CHECKING:
    from prefect.runner import Runner

STOP_SECONDS = 6.0  # for a run to save its checkpoint and to end in MLflow and Prefect
RUNNER_SECONDS = 1.0


def check_schedule(cron: str, timezone: str) -> None:
    """Check a cron line and a time zone.

    Raises:
        ConfigError: one of them is invalid.
    """
    try:
        CronSim(cron, datetime.now(UTC))
    except CronSimError as error:
        raise ConfigError(f"--cron: got {cron!r}: {error}; expected five fields such as '0 3 * * *'") from None
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError):
        raise ConfigError(f"--timezone: got {timezone!r}, expected a name such as Europe/Berlin") from None


def describe_deployment(config: PipelineConfig, cron: str, timezone: str) -> dict[str, Any]:
    """Return the options of the scheduled deployment, for `Runner.add_flow`.

    A run that is due while another one runs is cancelled.
    """
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron

    return {
        "name": config.name,
        "schedules": [Cron(cron, timezone=timezone, slug="scheduled")],
        "concurrency_limit": ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        "parameters": {"config": config.model_dump(mode="json")},
        "description": f"Train, evaluate and register {escape_markdown(config.registered_model)}",
        "tags": ["gloveflow", config.name],
    }


def serve_pipeline(config: PipelineConfig, *, cron: str, timezone: str, own_server: bool) -> None:
    """Start scheduled runs when they are due, until Ctrl-C or SIGTERM. The runs end with this process.

    `PREFECT_API_URL` must name a server with a scheduler; `own_server` tells whether it is that of the artifacts
    directory. Runs whose process is gone are ended at the start and from time to time.

    Raises:
        ServiceError: Prefect's runner ended on its own.
    """
    from prefect.runner import Runner

    from flows.pipeline import train_pipeline
    from flows.recovery import sweeping, try_to_sweep

    # set again, because a library may have replaced the handler below Python's: polars does, and mlflow imports it
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    # a restart of this process must not stop the schedule
    runner = Runner(name=config.name, pause_on_shutdown=False)
    with sweeping(f"{train_pipeline.name}/{config.name}", own_server=own_server):
        runner.add_flow(train_pipeline, **describe_deployment(config, cron, timezone))
        with contextlib.suppress(KeyboardInterrupt), running_in_thread(runner) as wait:
            try:
                wait()
            finally:
                if end_runs(runner):
                    try_to_sweep()


@contextlib.contextmanager
def running_in_thread(runner: "Runner") -> Iterator[Callable[[], None]]:
    """Run Prefect's runner in a thread during the body, which leaves the signals to us.

    It would wait for the end of a run in steps of 3 seconds, and then import the flow to look for hooks.

    Yields:
        A function that returns never; it raises ServiceError when the runner ends on its own.
    """
    events = asyncio.Runner()
    loop = events.get_loop()
    errors: list[BaseException] = []
    task = loop.create_task(runner.start())

    def run() -> None:
        with events:
            try:
                loop.run_until_complete(task)
            except BaseException as error:  # of a cancelled task, too
                errors.append(error)

    def wait() -> None:
        while thread.is_alive():
            thread.join(0.5)
        raise ServiceError(f"Prefect's runner ended: {errors[0] if errors else 'without an error'}")

    thread = threading.Thread(target=run, name="prefect-runner", daemon=True)
    thread.start()
    try:
        yield wait
    finally:
        loop.set_exception_handler(lambda *_: None)  # its connections may break when the servers stop
        with contextlib.suppress(RuntimeError):  # the runner has ended
            loop.call_soon_threadsafe(task.cancel)
        thread.join(RUNNER_SECONDS)


def end_runs(runner: "Runner") -> bool:
    """End the processes of a runner with SIGTERM, with SIGKILL those that still run after `STOP_SECONDS`.

    Returns:
        Whether there were any.
    """
    processes = runner._process_manager
    told: set[int] = set()
    deadline = time.monotonic() + STOP_SECONDS
    while running := [handle.pid for key in processes.flow_run_ids() if (handle := processes.get(key)) and handle.pid]:
        late = time.monotonic() > deadline
        for pid in running:
            if late or pid not in told:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL if late else signal.SIGTERM)
                told.add(pid)
        if late:
            break
        time.sleep(0.05)
    return bool(told)
