"""MLflow's database: its set-up and its migration."""

import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

from tasks.store.databases import connected
from tasks.tracking.database import LOCATIONS
from tasks.tracking.server import open_client
from tests.tasks.tracking.processes import start_python

KILLS = """
import os
from pathlib import Path
from tasks.tracking.server import open_client
from tests.killed_setups import kill_at_size

directory = Path(os.environ["GLOVEFLOW_ARTIFACTS"], "mlflow")
directory.mkdir(parents=True)
print([kill_at_size(open_client, directory, size) for size in (1, 20_000, 40_000, 60_000, 150_000)])
print((directory / "mlflow.db").exists(), len(open_client().search_experiments()))
"""


def make_older(path: Path) -> None:
    """Make a database of an earlier MLflow version, with a run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    address = f"sqlite:///{path}"
    engine = utils.create_sqlalchemy_engine(address)
    InitialBase.metadata.create_all(engine)
    config = utils._get_alembic_config(address)
    revisions = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, revisions[5])  # the newest is the first
    engine.dispose()
    with connected(path) as database:
        database.execute("INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (7, 'old', 'active')")
        database.execute(
            "INSERT INTO runs (run_uuid, name, experiment_id, lifecycle_stage, status, user_id, start_time, artifact_uri) "
            "VALUES ('r1', 'old run', 7, 'active', 'FINISHED', 'me', 0, 'file:///elsewhere/r1')"
        )


class TestSetUp:
    @pytest.mark.usefixtures("artifacts")
    def test_one_that_is_killed_at_any_size_starts_again(self):
        process = start_python(KILLS)
        output, errors = process.communicate()
        assert output.splitlines() == [str([True] * 5), "False 1"], (output, errors)

    def test_a_database_that_a_killed_set_up_in_place_left_is_replaced(self, artifacts):
        (artifacts / "mlflow").mkdir(parents=True)
        engine = utils.create_sqlalchemy_engine(f"sqlite:///{artifacts}/mlflow/mlflow.db")
        InitialBase.metadata.create_all(engine)
        engine.dispose()
        with connected(artifacts / "mlflow" / "mlflow.db") as database:
            database.execute("CREATE TABLE spans (trace_id VARCHAR(50))")  # of a later step
        assert [experiment.name for experiment in open_client().search_experiments()] == ["Default"]

    def test_a_database_of_an_earlier_version_is_migrated_with_its_runs_and_a_copy_is_kept(self, artifacts):
        path = artifacts / "mlflow" / "mlflow.db"
        make_older(path)
        before = sqlite3.connect(path)
        revision = before.execute("SELECT version_num FROM alembic_version").fetchone()
        before.close()
        assert open_client().get_run("r1").info.run_name == "old run"
        with connected(path.with_name("mlflow.db.backup")) as backup:
            assert backup.execute("SELECT version_num FROM alembic_version").fetchone() == revision
            assert backup.execute("SELECT run_uuid FROM runs").fetchall() == [("r1",)]


def test_every_column_of_mlflow_that_may_hold_a_location_is_known():
    found = {
        (table.name, column.name)
        for table in utils.Base.metadata.tables.values()
        for column in table.columns
        if {"location", "uri", "path"} & set(column.name.split("_"))
    }
    of_the_registry = {("model_versions", "source")}
    with_a_key = {("trace_tags", "value")}
    known = {(table, column) for table, columns in LOCATIONS.items() for column in columns}
    of_no_use_here = {("workspaces", "trace_archival_location")}
    assert found - of_no_use_here == known - of_the_registry - with_a_key
