"""Set-ups and upgrades of both databases that are killed at sizes of their growing files, in forks of one process."""

import asyncio
import contextlib
import random
import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

from alembic.script import ScriptDirectory
from prefect.server.database import provide_database_interface
from prefect.server.database.alembic_commands import alembic_config, alembic_upgrade
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.database.dependencies import temporary_database_config
from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL, temporary_settings
from prefect.utilities.asyncutils import run_sync_in_worker_thread

from flows.cli.prefect_server import prepare_prefect_database
from tasks.tracking.database import prepare_mlflow_database
from tests.campaigns.release.trials import Trials
from tests.killed_setups import kill_at_size
from tests.tasks.tracking.test_database import make_older

SIZES = {"mlflow": 1_000_000, "prefect": 1_700_000}  # of a new database, in bytes, about


def play(trials: Trials) -> None:
    """Kill a set-up or an upgrade, of each database in turn, once or twice, and start it again."""
    for number in range(trials.count):
        name = ("mlflow", "prefect")[number % 2]
        folder = trials.folder / str(number)
        folder.mkdir()
        upgrade = trials.draw.random() < 0.5 and number >= 2
        problem = _kill_and_start(name, folder, trials, upgrade=upgrade)
        trials.check(f"trial {number}, {'upgrade' if upgrade else 'set-up'} of {name}", problem, lost=True)
        shutil.rmtree(folder)


def _kill_and_start(name: str, folder: Path, trials: Trials, *, upgrade: bool) -> str | None:
    path = folder / f"{name}.db"
    whole = trials.folder / f"whole-{name}.db"
    prepare = partial(PREPARE[name], path)
    if upgrade:
        older = trials.folder / f"older-{name}" / "older.db"
        if not older.exists():
            older.parent.mkdir(exist_ok=True)
            _make_older(name, older)
        shutil.copy(older, path)
    sizes = [_draw_size(trials.draw, name, path) for _ in range(trials.draw.choice([1, 2]))]
    for size in sizes:
        kill_at_size(prepare, folder, size)
    try:
        prepare()
    except Exception as error:
        return f"killed at {sizes} bytes, the next start failed: {type(error).__name__}: {error}"
    if not whole.exists():
        shutil.copy(path, whole)
    with contextlib.closing(sqlite3.connect(path)) as database:
        sound = database.execute("PRAGMA integrity_check").fetchone()[0]
        revision = database.execute("SELECT version_num FROM alembic_version").fetchall()
        kept = database.execute("SELECT value FROM of_a_user").fetchall() if upgrade else [("kept",)]
    with contextlib.closing(sqlite3.connect(whole)) as database:
        expected = database.execute("SELECT version_num FROM alembic_version").fetchall()
    left = sorted(file.name for file in folder.iterdir() if file.name.startswith("."))
    if sound != "ok" or revision != expected or kept != [("kept",)]:
        return f"killed at {sizes} bytes: integrity {sound}, revision {revision}, record {kept}"
    return None if set(left) <= {".database.lock"} else f"killed at {sizes} bytes, {left} were left"


def _draw_size(draw: random.Random, name: str, path: Path) -> int:
    """Return a size of all files at which to kill: from the first byte to a little more than they will have."""
    before = path.stat().st_size if path.exists() else 0
    return before + draw.randrange(1, int((3 if before else 1) * SIZES[name] * 1.02))


def _make_older(name: str, path: Path) -> None:
    """Make a database at a revision before the last ones, with a record."""
    if name == "mlflow":
        make_older(path)
    else:
        with temporary_database_config(AioSqliteConfiguration(connection_url=f"sqlite+aiosqlite:///{path}")):
            scripts = ScriptDirectory.from_config(alembic_config())
            scripts.version_locations = [str(provide_database_interface().orm.versions_dir)]
            revisions = [script.revision for script in scripts.walk_revisions()]
            asyncio.run(run_sync_in_worker_thread(alembic_upgrade, revisions[5]))  # the newest is the first
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE of_a_user (value TEXT)")
        database.execute("INSERT INTO of_a_user VALUES ('kept')")


def _prepare_mlflow(path: Path) -> None:
    prepare_mlflow_database(path, files=path.parent / "files")


def _prepare_prefect(path: Path) -> None:
    with temporary_settings({PREFECT_API_DATABASE_CONNECTION_URL: f"sqlite+aiosqlite:///{path}"}):
        prepare_prefect_database()


PREPARE: dict[str, Callable[[Path], None]] = {"mlflow": _prepare_mlflow, "prefect": _prepare_prefect}
