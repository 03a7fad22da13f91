"""Damage in the records of Prefect that `gloveflow doctor` finds and mends: dead runs, held slots, an old database.

Reads the database of these artifacts; repairs go through a Prefect server.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from uuid import UUID

from flows.cli.damage import check_revision, examine_database
from flows.cli.findings import Finding
from tasks.store.locks import is_held
from tasks.store.private_files import make_directory

_OPEN = ("PENDING", "RUNNING", "CANCELLING")


def check_prefect(root: Path) -> Iterator[Finding]:
    """Check the revision of Prefect's database, and slots that no run holds."""
    database = root / "prefect" / "prefect.db"
    own = "PREFECT_API_URL" not in os.environ and os.environ.get("PREFECT_HOME") == str(database.parent)
    if not own or examine_database(database) != ("ok", False):
        return
    from flows.cli.prefect_server import wanted_revision  # here: it imports prefect's server

    yield from check_revision("prefect db", database, wanted_revision(), _migrate)
    if _is_idle(root) and (names := _held_slots(database)):
        yield Finding(
            False,
            "slots",
            f"{', '.join(names)}: held by no run, so that runs of the deployment may wait for them",
            "free them",
            partial(_free_slots, root, names),
        )


def check_flow_runs(root: Path) -> Iterator[Finding]:
    """Find the flow runs whose process is gone and that Prefect still shows as open."""
    files = (path for path in sorted(root.glob("prefect/live/*.lock")) if not path.name.startswith("process-"))
    live = [path for path in files if not is_held(path)]
    open_ones = _open_flow_runs(root / "prefect" / "prefect.db", [path.stem for path in live])
    if _is_idle(root) and "PREFECT_API_URL" not in os.environ:  # then a run without a file is nobody's either
        open_ones = _open_flow_runs(root / "prefect" / "prefect.db")
    if open_ones:
        yield Finding(
            False,
            "dead runs",
            f"Prefect shows as open the flow runs of processes that are gone: {', '.join(open_ones)}",
            "set them and their task runs to Crashed, which gives the slot of their deployment back",
            partial(_sweep, root, tuple(open_ones)),
        )
    elif live and "PREFECT_API_URL" in os.environ:
        yield Finding(
            True,
            "live files",
            f"{len(live)} flow runs whose process is gone; their Prefect server knows whether they are open",
            "set those that are open to Crashed, as the next run would do",
            partial(_sweep, root, ()),
        )


def _is_idle(root: Path) -> bool:
    """Return whether no run, no `gloveflow serve` and no server uses these artifacts."""
    from flows.cli.server_records import read_servers

    locks = (*root.glob("prefect/live/*.lock"), *root.glob("prefect/serving-*.lock"))
    return not any(is_held(path) for path in locks) and not read_servers(root)


def _open_flow_runs(database: Path, identities: list[str] | None = None) -> list[str]:
    """Return the flow runs that are open in Prefect's database, or those of some that are.

    A user's own server is asked by the sweep.
    """
    if identities == [] or not database.exists():
        return []
    with (
        contextlib.suppress(sqlite3.Error, ValueError),
        contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection,
    ):
        rows = connection.execute("SELECT id FROM flow_run WHERE state_type IN (?, ?, ?)", _OPEN).fetchall()
        found = [str(UUID(str(identity))) for (identity,) in rows]
        if identities is None:
            return found
        wanted = {identity.replace("-", ""): identity for identity in identities}
        return [wanted[key] for identity in found if (key := identity.replace("-", "")) in wanted]
    return []


def _held_slots(database: Path) -> list[str]:
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=5)) as connection,
    ):
        return [str(name) for (name,) in connection.execute(
            "SELECT name FROM concurrency_limit_v2 WHERE active_slots > 0 ORDER BY name"
        )]  # fmt: skip
    return []


def _sweep(root: Path, identities: tuple[str, ...]) -> str:
    """End the flow runs whose lock file nobody holds, and some that have none."""
    from flows.cli.servers import embedded_prefect

    with embedded_prefect(root) as wait_for_server:
        from flows.recovery import sweep

        wait_for_server()
        for identity in identities:
            path = root / "prefect" / "live" / f"{identity}.lock"
            make_directory(path.parent)
            path.touch(0o600)
        sweep()
    return "the flow runs of processes that are gone are Crashed"


def _free_slots(root: Path, names: list[str]) -> str:
    from flows.cli.servers import embedded_prefect

    if not _is_idle(root):
        return "a run or a service has begun meanwhile; left alone"
    with embedded_prefect(root) as wait_for_server:
        from flows.recovery import free_slots

        wait_for_server()
        free_slots(names)
    return f"freed {', '.join(names)}"


def _migrate(path: Path) -> str:
    from flows.cli.prefect_server import prepare_prefect_database

    prepare_prefect_database()
    return f"{path} is migrated"
