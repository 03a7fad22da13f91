"""Records in our own MLflow database that killed processes left open: find them, and end them.

A run holds a lock file while its process lives (`tasks.tracking.runs`). A run that MLflow shows as RUNNING and whose
lock nobody holds, or has no file any more, belongs to a process that is gone. Runs of other programs are left alone.
"""

from collections.abc import Iterator

from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus, Run, ViewType

from tasks.store.locks import is_held
from tasks.tracking import runs
from tasks.tracking.models import DIGEST_TAG
from tasks.tracking.server import open_client


def find_dead_runs() -> list[str]:
    """Return the names of the runs whose process is gone and that are still RUNNING."""
    return [str(run.info.run_name) for run in _dead_runs(open_client())]


def end_dead_runs() -> str:
    """Set these runs to KILLED, and their unfinished models to FAILED; return what was done."""
    client = open_client()
    ended = list(_dead_runs(client))
    for run in ended:
        runs.end_dead_run(client, run)
    runs.end_dead_runs()  # removes the lock files
    return f"{len(ended)} MLflow runs of processes that are gone are KILLED"


def count_live_files() -> int:
    """Return the number of lock files of runs that have ended."""
    return sum(not is_held(path) for path in runs.live_directory().glob("*.lock"))


def find_pending_models() -> list[str]:
    """Return the ids of our logged models that are PENDING though their run has ended or is gone."""
    return [str(model.model_id) for model in _pending_models(open_client())]


def end_pending_models() -> str:
    """Set these models to FAILED; return what was done."""
    client = open_client()
    pending = list(_pending_models(client))
    for model in pending:
        client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
    return f"{len(pending)} logged models are FAILED"


def _experiments(client: MlflowClient) -> list[str]:
    return [str(found.experiment_id) for found in client.search_experiments(view_type=ViewType.ALL)]


def _dead_runs(client: MlflowClient) -> Iterator[Run]:
    for run in client.search_runs(
        _experiments(client), "attributes.status = 'RUNNING'", ViewType.ALL, max_results=5000
    ):
        lock = run.data.tags.get(runs.LOCK_TAG)
        # asked again after the lock, because a run ends before it lets its lock go
        if lock and not is_held(runs.live_directory() / f"{lock}.lock") and _is_running(client, run):
            yield run


def _is_running(client: MlflowClient, run: Run) -> bool:
    return str(client.get_run(run.info.run_id).info.status) == "RUNNING"


def _pending_models(client: MlflowClient) -> Iterator[LoggedModel]:
    running = client.search_runs(_experiments(client), "attributes.status = 'RUNNING'", ViewType.ALL, max_results=5000)
    busy = {run.info.run_id for run in running}
    for experiment in _experiments(client):
        token: str | None = None
        while True:
            page = client.search_logged_models([experiment], page_token=token)
            for model in page:
                if (
                    model.status == LoggedModelStatus.PENDING
                    and DIGEST_TAG in model.tags
                    and model.source_run_id not in busy
                ):
                    yield model
            token = page.token
            if not token:
                break
