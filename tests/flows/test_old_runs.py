"""Ended flow runs go with what their pages show; open ones and those of others stay."""

import time
from uuid import UUID, uuid4

import pytest
from prefect import flow, get_client
from prefect.client.schemas.actions import ArtifactCreate, LogCreate
from prefect.client.schemas.filters import FlowRunFilter, LogFilter
from prefect.exceptions import ObjectNotFound
from prefect.states import Completed, Failed, Running, State

from flows.old_runs import find_flow_runs, wait_for_logs
from tasks.housekeeping.selection import Item, Limits

LIMITS = Limits(1, 0, time.time() + 3600)


@flow(name="train-classifier")
def ours(config: dict[str, str]) -> None: ...


@flow(name="theirs")
def theirs(config: dict[str, str]) -> None: ...


def create(made: object, pipeline: str, state: State[None]) -> str:
    with get_client(sync_client=True) as client:
        run = client.create_flow_run(made, parameters={"config": {"name": pipeline}}, state=state)  # type: ignore[arg-type]
        client.create_artifact(ArtifactCreate(key="results", type="table", data="[]", flow_run_id=run.id))
        client.create_logs([LogCreate(name="x", level=20, message="m", timestamp=run.created, flow_run_id=run.id)])  # type: ignore[arg-type]
        return str(run.id)


def exists(identity: str) -> bool:
    with get_client(sync_client=True) as client:
        try:
            client.read_flow_run(UUID(identity))
        except ObjectNotFound:
            return False
    return True


def going(items: list[Item]) -> list[str]:
    return [item.name.rpartition("(")[2].rstrip(")") for item in items if item.remove]


@pytest.fixture
def pipeline(prefect_api: str) -> str:
    return f"pipeline-{uuid4().hex[:8]}"


def test_old_ended_runs_go_with_artifacts_and_logs_and_the_newest_stays(pipeline: str) -> None:
    old, kept, newest = (create(ours, pipeline, state) for state in (Completed(), Failed(), Completed()))
    running, other = create(ours, pipeline, Running()), create(theirs, pipeline, Completed())
    items = list(find_flow_runs(LIMITS, {kept}, pipeline=pipeline))
    assert len(items) == 3
    assert going(items) == [old]
    assert all(item.remove() for item in items if item.remove)
    wait_for_logs([old])
    assert [exists(identity) for identity in (old, kept, newest, running, other)] == [False, True, True, True, True]
    with get_client(sync_client=True) as client:
        for identity, number in ((old, 0), (newest, 1)):
            query = FlowRunFilter.model_validate({"id": {"any_": [identity]}})
            assert len(client.read_artifacts(flow_run_filter=query)) == number
            assert len(client.read_logs(LogFilter.model_validate({"flow_run_id": {"any_": [identity]}}))) == number


def test_a_run_that_was_started_again_after_the_search_stays(pipeline: str) -> None:
    old, _ = create(ours, pipeline, Completed()), create(ours, pipeline, Completed())
    (item,) = [item for item in find_flow_runs(LIMITS, set(), pipeline=pipeline) if item.remove]
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(UUID(old), Running(), force=True)
    assert item.remove
    assert not item.remove()
    assert exists(old)


def test_young_runs_stay_and_other_pipelines_are_not_seen(pipeline: str) -> None:
    for _ in range(2):
        create(ours, pipeline, Completed())
    assert going(list(find_flow_runs(Limits(0, 86400, time.time()), set(), pipeline=pipeline))) == []
    assert len(going(list(find_flow_runs(LIMITS, set(), pipeline=pipeline)))) == 1
    assert list(find_flow_runs(LIMITS, set(), pipeline="none")) == []
