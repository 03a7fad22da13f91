"""Old flow runs on a Prefect server: find those that have ended and may go, and delete them with what their pages show.

Prefect deletes states, task runs and log lines with a flow run, but not the artifacts of its page.
"""

import contextlib
import time
from collections.abc import Collection, Iterator
from functools import partial
from typing import Any
from uuid import UUID

import httpx
from prefect import get_client
from prefect.client.schemas.filters import ArtifactFilter, FlowFilter, FlowRunFilter, LogFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound

from pipeline_config.errors import ServiceError
from tasks.housekeeping.selection import Item, Limits, not_newest

FLOW_RUNS = "Prefect flow runs"
FLOWS = ("train-classifier", "score-texts")
PAGE = 200  # Prefect's largest
LOG_SECONDS = 10.0
_ENDED = [StateType.COMPLETED, StateType.FAILED, StateType.CANCELLED, StateType.CRASHED]


def find_flow_runs(limits: Limits, kept: Collection[str], *, pipeline: str | None = None) -> Iterator[Item]:
    """Find the flow runs of our flows that have ended.

    Args:
        limits: what is kept in any case.
        kept: ids of flow runs that stay.
        pipeline: name of a configuration, to whose flow runs the search is limited; None is no limit.
    """
    runs = [run for run in _read_ended() if pipeline is None or _is_of(run, pipeline)]
    rest = {run.id for run in not_newest(runs, limits.keep, group=_group, when=_moment)}
    for run in runs:
        old = run.id in rest and limits.is_old(_moment(run)) and str(run.id) not in kept
        yield Item(FLOW_RUNS, f"{run.name} ({run.id})", 0, partial(_delete, run.id) if old else None)


def wait_for_logs(deleted: Collection[str]) -> None:
    """Wait until the server has deleted the log lines of deleted flow runs, which it does afterwards."""
    if not deleted:
        return
    query = LogFilter.model_validate({"flow_run_id": {"any_": list(deleted)}})
    deadline = time.monotonic() + LOG_SECONDS
    with get_client(sync_client=True) as client:
        while client.read_logs(query, limit=1) and time.monotonic() < deadline:
            time.sleep(0.1)


@contextlib.contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPError as error:
        raise ServiceError(f"Prefect does not answer: {error}") from error


@_plain_errors()
def _read_ended() -> list[FlowRun]:
    flows = FlowFilter.model_validate({"name": {"any_": list(FLOWS)}})
    query = FlowRunFilter.model_validate({"state": {"type": {"any_": _ENDED}}})
    with get_client(sync_client=True) as client:
        runs: list[FlowRun] = []
        while True:
            page = client.read_flow_runs(
                flow_filter=flows, flow_run_filter=query, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=len(runs)
            )
            runs += page
            if len(page) < PAGE:
                return runs


def _is_of(run: FlowRun, pipeline: str) -> bool:
    config: Any = run.parameters.get("config")
    return pipeline in run.tags or (isinstance(config, dict) and config.get("name") == pipeline)


def _group(run: FlowRun) -> tuple[object, ...]:
    config: Any = run.parameters.get("config")
    name = config.get("name") if isinstance(config, dict) else run.parameters.get("model")
    return run.flow_id, run.deployment_id, str(name)


def _moment(run: FlowRun) -> float:
    moment = run.end_time or run.start_time or run.created
    return moment.timestamp() if moment else 0.0


@_plain_errors()
def _delete(identity: UUID) -> bool:
    """Delete an ended flow run after another look at its state; return whether it was deleted."""
    query = FlowRunFilter.model_validate({"id": {"any_": [identity]}})
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(identity)
            if run.state is None or not run.state.is_final():
                return False
            while found := client.read_artifacts(flow_run_filter=query, artifact_filter=ArtifactFilter(), limit=PAGE):
                for artifact in found:
                    client.delete_artifact(artifact.id)
            client.delete_flow_run(identity)
        except ObjectNotFound:
            return False
    return True
