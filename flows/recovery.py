"""Runs whose process is gone: find them, end them in Prefect and MLflow, and free what they held.

Every flow run holds a lock file in `<artifacts>/prefect/live` until its process ends, however it ends, and so does
every command that runs a flow. A file that nobody holds is a run whose process is gone.
"""

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from prefect import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitUpdate
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    TaskRunFilter,
)
from prefect.client.schemas.objects import StateType
from prefect.exceptions import ObjectNotFound
from prefect.states import Crashed

from flows.publishing import close_flow_runs
from tasks.store.artifacts import artifacts_root
from tasks.store.locks import lock_before_naming, try_lock
from tasks.store.private_files import make_directory
from tasks.tracking.runs import end_dead_runs

logger = logging.getLogger(__name__)
SWEEP_SECONDS = 30.0
_STARTED = (StateType.PENDING, StateType.RUNNING, StateType.CANCELLING)
_OPEN = (*_STARTED, StateType.SCHEDULED, StateType.PAUSED)
_PROCESS = "process-"  # what a tag of `hold_process` begins with


def hold_flow_run(identity: str) -> None:
    """Hold the lock file of a flow run until this process ends."""
    lock_before_naming(_live() / f"{identity}.lock")


def hold_process() -> str:
    """Hold a lock file until this process ends; return the tag that its flow runs get.

    By it a sweep finds a flow run that was killed after Prefect had made it and before it began.
    """
    tag = f"{_PROCESS}{os.getpid()}-{uuid4().hex[:8]}"
    lock_before_naming(_live() / f"{tag}.lock")
    return tag


def sweep() -> None:
    """End the flow runs, task runs and MLflow runs whose process is gone; each is logged.

    A flow run that is set to Crashed gives the slot of its deployment back.

    Raises:
        ServiceError: MLflow does not answer.
        httpx.HTTPError: Prefect does not answer.
    """
    with _ended_flow_runs() as ended:
        tags = [name for name in ended if name.startswith(_PROCESS)]
        identities = sorted({*end_dead_runs(), *_find_tagged(tags), *(set(ended) - set(tags))})
        close_flow_runs(identities)
        close_task_runs(identities)


def _find_tagged(tags: list[str]) -> list[str]:
    """Return the flow runs with one of the tags that have not ended."""
    if not tags:
        return []
    query = FlowRunFilter.model_validate({"tags": {"any_": tags}, "state": {"type": {"any_": _OPEN}}})
    with get_client(sync_client=True) as client:
        return [str(run.id) for run in client.read_flow_runs(flow_run_filter=query)]


def close_task_runs(flow_run_ids: list[str]) -> None:
    """Set the task runs of ended flow runs to Crashed that are still open."""
    if not flow_run_ids:
        return
    query = FlowRunFilter(id=FlowRunFilterId(any_=[UUID(identity) for identity in flow_run_ids]))
    _close_task_runs(flow_run_filter=query)


def close_late_task_runs(deployment: str) -> None:
    """Do the same for all crashed runs of a deployment: Prefect may record a task run after its flow run was ended.

    Args:
        deployment: name of the deployment, without its flow.
    """
    _close_task_runs(
        flow_run_filter=FlowRunFilter.model_validate({"state": {"type": {"any_": [StateType.CRASHED]}}}),
        deployment_filter=DeploymentFilter.model_validate({"name": {"any_": [deployment]}}),
    )


def _close_task_runs(**filters: Any) -> None:
    open_ones = TaskRunFilter.model_validate({"state": {"name": {"any_": ["Pending", "Running"]}}})  # not NotReady
    with get_client(sync_client=True) as client:
        for run in client.read_task_runs(task_run_filter=open_ones, **filters):
            client.set_task_run_state(run.id, Crashed(message="The process of this run is gone."), force=True)
            logger.warning("task run %s was left %s: now Crashed", run.name, run.state_name)


def recover_deployment(name: str, *, before: datetime) -> None:
    """End the flow runs that an earlier service started for a deployment and that no process holds; free its slot.

    Only for a server of this artifacts directory, and only while no other service serves the deployment: the runs of
    another machine hold no lock file here.

    Args:
        name: flow and deployment, as `train-classifier/sentiment`.
        before: runs that came into their state later are left alone.
    """
    with get_client(sync_client=True) as client:
        try:
            deployment = client.read_deployment_by_name(name)
        except ObjectNotFound:
            return
        query = FlowRunFilter.model_validate({"state": {"type": {"any_": _STARTED}}})
        runs = client.read_flow_runs(
            flow_run_filter=query, deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id]))
        )
        dead = [
            str(run.id)
            for run in runs
            if run.state and run.state.timestamp < before and not (_live() / f"{run.id}.lock").exists()
        ]
        close_flow_runs(dead)
        close_task_runs(dead)
        limit = client.read_deployment(deployment.id).global_concurrency_limit
        if limit and limit.active_slots and len(dead) == len(runs):
            client.update_global_concurrency_limit(limit.name, GlobalConcurrencyLimitUpdate(active_slots=0))
            logger.warning("the slot of %s was held by no run: it is free", name)


def free_slots(names: list[str]) -> None:
    """Free all slots of some limits, which no run may hold."""
    with get_client(sync_client=True) as client:
        for name in names:
            client.update_global_concurrency_limit(name, GlobalConcurrencyLimitUpdate(active_slots=0))


@contextlib.contextmanager
def sweeping(name: str, *, own_server: bool) -> Iterator[None]:
    """Sweep at the start and then every `SWEEP_SECONDS` during the body, in a thread.

    Args:
        name: flow and deployment that the body serves.
        own_server: whether the Prefect server is that of this artifacts directory.
    """
    started, ended = datetime.now(UTC), threading.Event()
    lock = artifacts_root() / "prefect" / f"serving-{name.replace('/', '-')}.lock"
    make_directory(lock.parent)

    def sweep_on() -> None:
        while not ended.wait(SWEEP_SECONDS):
            _try(sweep, lambda: close_late_task_runs(name.partition("/")[2]))

    with lock.open("a") as file:
        alone = try_lock(file.fileno(), lock)
        _try(sweep, *([lambda: recover_deployment(name, before=started)] if own_server and alone else []))
        thread = threading.Thread(target=sweep_on, name="sweep", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()


def try_to_sweep() -> None:
    """Sweep; an error is logged."""
    _try(sweep)


def _try(*steps: Callable[[], None]) -> None:
    """Do the steps; an error, such as a server that is away, is logged, because the next sweep comes soon."""
    try:
        for step in steps:
            step()
    except Exception as error:  # a service must not lose its sweep to any of them
        logger.warning("runs of processes that are gone could not be ended this time: %s", error)


@contextlib.contextmanager
def _ended_flow_runs() -> Iterator[list[str]]:
    """Yield the flow runs whose lock file nobody holds, and remove these files after a body without an error."""
    with contextlib.ExitStack() as held:
        found: dict[str, Path] = {}
        for path in _live().glob("*.lock"):
            with contextlib.suppress(FileNotFoundError):  # another sweep may remove it at this moment
                file = held.enter_context(path.open("rb"))
                if try_lock(file.fileno(), path):
                    found[path.stem] = path
        yield list(found)
        for path in found.values():
            path.unlink(missing_ok=True)


def _live() -> Path:
    return artifacts_root() / "prefect" / "live"
