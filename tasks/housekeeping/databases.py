"""Give the space of deleted records back to the disk: SQLite keeps it in the file until it is asked.

A kill leaves the database as it was, since SQLite does it in one transaction. Other processes wait meanwhile; one that
is busy for a while keeps its database as it is.
"""

import contextlib
import os
import shutil
import sqlite3
from pathlib import Path

from tasks.housekeeping.selection import oldest_live_start
from tasks.tracking.strays import remove_stray_rows

BUSY_SECONDS = 5.0
SHARE = 0.25  # of the pages that have to be free


def shrink_databases(root: Path) -> int:
    """Shrink the databases of an artifacts directory of which a quarter or more is free; return the bytes.

    Not while a run goes on: it would have to wait.
    """
    if oldest_live_start(root) is not None:
        return 0
    with contextlib.suppress(sqlite3.Error):
        remove_stray_rows()
    names = [] if os.environ.get("MLFLOW_TRACKING_URI") else ["mlflow"]
    return sum(shrink(root / name / f"{name}.db") for name in [*names, "prefect"])


def shrink(path: Path) -> int:
    """Shrink a database if a quarter or more of it is free, nobody uses it, and the disk has room for a copy."""
    if not path.exists():
        return 0
    before = path.stat().st_size
    with (
        contextlib.suppress(sqlite3.Error),
        contextlib.closing(sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)) as database,
    ):
        pages, free = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count"))
        if free < SHARE * pages or shutil.disk_usage(path.parent).free < 2 * before:
            return 0
        database.execute("VACUUM")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return max(0, before - path.stat().st_size)
