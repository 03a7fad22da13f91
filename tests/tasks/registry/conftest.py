import shutil

import pytest

from tasks.tracking.server import open_client


@pytest.fixture
def registered(artifacts, registered_root, toy_root):
    """The small pipeline with its classifier registered as version 1, in this test's own store and database."""
    shutil.copytree(registered_root / "store", artifacts / "store")
    (artifacts / "mlflow").mkdir()
    shutil.copyfile(registered_root / "mlflow" / "mlflow.db", artifacts / "mlflow" / "mlflow.db")
    shutil.copytree(registered_root / "mlflow" / "files", artifacts / "mlflow" / "files")
    open_client()  # lets MLflow's own functions find the database, too
    return toy_root[1]
