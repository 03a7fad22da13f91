"""Schedules: serve a deployment of the pipeline whose runs start by cron, one at a time."""

import os
import warnings
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from pipeline_config.errors import ConfigError
from pipeline_config.settings import PipelineConfig
from tasks.runtime.escaping import escape_markdown
from tasks.runtime.parent import PARENT_VARIABLE


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
    """Return the options of the scheduled deployment. A run that is due while another one runs is cancelled."""
    from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
    from prefect.schedules import Cron

    return {
        "name": config.name,
        "schedules": [Cron(cron, timezone=timezone, slug="scheduled")],
        "global_limit": ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW),
        "parameters": {"config": config.model_dump(mode="json")},
        "description": f"Train, evaluate and register {escape_markdown(config.registered_model)}",
        "tags": ["gloveflow", config.name],
        "pause_on_shutdown": False,  # a restart of this process must not stop the schedule
        "print_starting_message": False,
    }


def serve_pipeline(config: PipelineConfig, *, cron: str, timezone: str, own_server: bool) -> None:
    """Start scheduled runs when they are due, until the process is ended. The runs end with this process.

    `PREFECT_API_URL` must name a server with a scheduler; `own_server` tells whether it is that of the artifacts
    directory. Runs whose process is gone are ended at the start and from time to time.
    """
    from flows.pipeline import train_pipeline
    from flows.recovery import sweeping

    # Prefect's runner warns when it is ended by SIGTERM
    warnings.filterwarnings("ignore", "coroutine 'Runner.astop' was never awaited", RuntimeWarning)
    os.environ[PARENT_VARIABLE] = str(os.getpid())
    with sweeping(f"{train_pipeline.name}/{config.name}", own_server=own_server):
        train_pipeline.serve(**describe_deployment(config, cron, timezone))
