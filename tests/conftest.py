"""Fixtures that tests of several rooms use."""

import os
import tempfile
from pathlib import Path

import pytest

from flows.cli.environment import prepare_environment

# One thread of torch in each process of the tests: two processes with two each fight for two cores and take many times as
# long. It is read when torch is imported, and by the commands that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What the command line sets, before any other conftest imports prefect; no test may reach the user's own servers.
_unused = tempfile.TemporaryDirectory(prefix="gloveflow-tests-")
for _name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME", "MLFLOW_TRACKING_URI"):
    os.environ.pop(_name, None)
prepare_environment(Path(_unused.name))
Path(os.environ["PREFECT_HOME"]).mkdir()


def pytest_unconfigure() -> None:
    """Remove what nobody should have written."""
    _unused.cleanup()


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bytes by their parameter: compressed bytes hold the time, and every process must collect the same names."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture
def artifacts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Point the project to an artifacts directory of the test's own, which does not exist yet."""
    path = tmp_path / "artifacts"
    monkeypatch.setenv("GLOVEFLOW_ARTIFACTS", str(path))
    return path
