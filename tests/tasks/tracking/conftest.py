"""An MLflow run in a database of the test's own."""

import pytest

from tasks.tracking import client
from tasks.tracking.server import open_client


@pytest.fixture(autouse=True)
def without_patience(monkeypatch) -> None:
    """Let no call be repeated."""
    monkeypatch.setattr(client, "PATIENCE_SECONDS", 0.0)


@pytest.fixture
def run_id(tracked) -> str:
    client = open_client()
    experiment = client.create_experiment("metrics", artifact_location=(tracked / "files").as_uri())
    return client.create_run(experiment).info.run_id
