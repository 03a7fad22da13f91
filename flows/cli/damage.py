"""Damage in an artifacts directory that `gloveflow doctor` finds and mends: outputs, leftovers, databases, servers.

A repair moves damaged outputs aside and removes only what no process uses and nobody can use. Lock files stay: the
kernel ends a lock with its process, and removing the file would let two processes in.
"""

import contextlib
import os
import shlex
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from flows.cli.findings import Finding
from flows.cli.server_records import DEFAULT_PORTS, dead_servers, forget_servers, read_servers
from tasks.housekeeping.restore import MARK, PLACE
from tasks.housekeeping.selection import measure
from tasks.scoring.work import list_unfinished
from tasks.store.artifacts import describe_damage
from tasks.store.databases import read_revision
from tasks.store.locks import is_held, locked_at_once
from tasks.store.private_files import make_directory

ASIDE = "moved-aside"
UNNAMED_SECONDS = 60.0  # a file without its final name that is older belongs to no process


def check_outputs(root: Path) -> Iterator[Finding]:
    """Compare every output of the store with its manifest."""
    for directory in sorted(root.glob("store/*/*")):
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        problem = describe_damage(directory)
        if problem and is_held(_key_lock(directory)):
            yield Finding(True, "store", f"{directory} is being written by a run")
        elif problem and not all(os.access(path, os.R_OK) for path in (directory, *directory.glob("*"))):
            yield Finding(False, "store", f"{problem}; this user may not read all files of the output")
        elif problem:
            yield Finding(
                False,
                "store",
                problem,
                f"move the output to {root / ASIDE}; the next run that needs it computes it again",
                partial(_move_aside, root, directory),
            )


def check_leftovers(root: Path) -> Iterator[Finding]:
    """Find temporary files and folders of processes that are gone."""
    for folder in sorted(root.glob("store/*/.tmp-*")):
        lock = folder.with_name(f".{folder.name.split('-')[1]}.lock")
        if not is_held(lock):
            yield _leftover(folder, partial(_remove_locked, folder, lock))
    for pattern, lock_name in (
        ("checkpoints/*/.tmp-*", ".housekeeping.lock"),
        ("scoring/.tmp-*", ".housekeeping.lock"),
        ("reports/.tmp-*", "reports/.lock"),
        (".backup-*", ".housekeeping.lock"),
    ):
        lock = root / lock_name
        for path in sorted(root.glob(pattern)):
            if not is_held(lock):
                yield _leftover(path, partial(_remove_locked, path, lock))
    yield from _check_restore(root)
    for pattern in ("store/*/.*.new", "mlflow/live/*.new", "prefect/live/*.new", "prefect/.auth-string-*"):
        for path in sorted(root.glob(pattern)):
            if time.time() - path.stat().st_mtime > UNNAMED_SECONDS and not is_held(path):
                yield _leftover(path, partial(_remove, path))
    for name in ("mlflow", "prefect"):
        lock = root / name / ".database.lock"
        for path in sorted(root.glob(f"{name}/.{name}.db.new*")):
            if not is_held(lock):
                yield _leftover(path, partial(_remove_locked, path, lock))


def _check_restore(root: Path) -> Iterator[Finding]:
    place, lock = root / PLACE, root / ".housekeeping.lock"
    if (place / MARK).exists() and not is_held(lock):
        yield Finding(False, "restore", f"{root}: a restore was interrupted; the same `gloveflow restore` ends it")
    elif place.exists() and not is_held(lock):
        yield _leftover(place, partial(_remove_locked, place, lock))


def check_scorings(root: Path) -> Iterator[Finding]:
    """List scorings that were begun and not finished; those with finished rows stay, because the next one uses them."""
    for found in list_unfinished(root):
        name = found.output or "an output whose name is not known"
        if is_held(found.lock):
            yield Finding(True, "scoring", f"{name} is being written")
        elif not found.rows:
            yield _leftover(found.folder, partial(_remove_locked, found.folder, found.lock))
        else:
            when = time.strftime("%Y-%m-%d %H:%M", time.localtime(found.changed))
            yield Finding(
                True,
                "scoring",
                f"{name} was not finished, {when}: {found.rows:,} rows are kept, {found.size / 2**20:.1f} MiB; the "
                f"same `gloveflow score` goes on from them, and `rm -r {shlex.quote(str(found.folder))}` gives them up",
            )


def check_databases(root: Path) -> Iterator[Finding]:
    """Check the SQLite databases of Prefect and MLflow, if they exist."""
    for name, prepare in (("prefect", _prepare_prefect), ("mlflow", _prepare_mlflow)):
        path, subject = root / name / f"{name}.db", f"{name} db"
        if not path.exists():
            yield Finding(True, subject, f"{path}: does not exist yet; the first run creates it")
            continue
        problem, unfinished = examine_database(path)
        size = f"{path.stat().st_size / 2**20:.1f} MiB"
        if problem == "ok" and unfinished and not is_held(path.with_name(".database.lock")):
            remedy = "set it up, as the next run would do; a database that holds records is not replaced"
            yield Finding(
                False, subject, f"{path}: its first set-up was interrupted, {size}", remedy, partial(prepare, path)
            )
        else:
            advice = "" if problem == "ok" else _advise(path)
            yield Finding(problem == "ok", subject, f"{path}: {problem}, {size}{advice}")


def check_revision(subject: str, path: Path, wanted: str, migrate: Callable[[Path], str]) -> Iterator[Finding]:
    """Find a database of another revision than the installed version works with."""
    found = read_revision(path)
    if found and found != wanted:
        yield Finding(
            False,
            subject,
            f"{path}: needs a migration from revision {found} to {wanted}",
            f"migrate it, as the next command would do; the database of before stays as {path.name}.backup",
            partial(migrate, path),
        )


def check_space(root: Path) -> Iterator[Finding]:
    """Tell what the parts of the artifacts take."""
    parts = {path.name: measure(path) for path in sorted(root.iterdir()) if path.is_dir()} if root.is_dir() else {}
    shown = ", ".join(f"{name} {size / 2**20:,.1f} MB" for name, size in parts.items() if size >= 2**20 // 20)
    if shown:
        yield Finding(True, "space", f"{shown}; `gloveflow gc --dry-run` shows what may go")


def check_servers(root: Path) -> Iterator[Finding]:
    """Report which servers of `gloveflow ui` or `gloveflow serve` run for this directory."""
    servers = read_servers(root)
    for name in DEFAULT_PORTS:
        url = servers.get(name)
        yield Finding(True, f"{name} pages", f"{url} is up" if url else "not running; `gloveflow ui` starts them")
    for url in dead_servers(root):
        yield Finding(
            False,
            "servers.json",
            f"names {url}, whose process is gone",
            "remove the entry from servers.json",
            partial(_forget_dead, root, url),
        )


def _leftover(path: Path, mend: Callable[[], str]) -> Finding:
    return Finding(False, "leftover", f"{path}: left by a process that is gone", "remove it", mend)


def _key_lock(directory: Path) -> Path:
    return directory.with_name(f".{directory.name}.lock")


def _move_aside(root: Path, directory: Path) -> str:
    with locked_at_once(_key_lock(directory)) as free:
        if not free:
            return f"{directory} is in use by a run, which mends it itself; left alone"
        if not describe_damage(directory):
            return f"{directory} is intact now; left alone"
        place = root / ASIDE / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}" / directory.parent.name
        make_directory(place)
        directory.rename(place / directory.name)
    return f"moved {directory} to {place / directory.name}"


def _remove_locked(path: Path, lock: Path) -> str:
    with locked_at_once(lock) as free:
        return _remove(path) if free else f"{path} is in use; left alone"


def _remove(path: Path) -> str:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    return f"removed {path}"


def examine_database(path: Path) -> tuple[str, bool]:
    """Return `ok` or what is wrong, and whether its set-up was never finished."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=5)) as database:
            problem = str(database.execute("PRAGMA quick_check").fetchone()[0])
            known = database.execute("SELECT count(*) FROM sqlite_master WHERE name = 'alembic_version'").fetchone()[0]
            revisions = database.execute("SELECT count(*) FROM alembic_version").fetchone()[0] if known else 0
    except sqlite3.Error as error:
        return str(error), False
    return problem, not revisions


def _advise(path: Path) -> str:
    backup = path.with_name(f"{path.name}.backup")
    older = (
        f"put {backup}, from before the last migration, in its place, or" if backup.exists() else "restore a copy, or"
    )
    return f"; end all servers, then {older} move it away to begin a new one"


def _prepare_mlflow(path: Path) -> str:
    from tasks.tracking.server import open_client  # here: it imports mlflow

    open_client()
    return f"{path} is set up"


def _prepare_prefect(path: Path) -> str:
    from flows.cli.prefect_server import prepare_prefect_database  # here: it imports prefect

    if "PREFECT_API_URL" in os.environ or Path(os.environ.get("PREFECT_HOME", "")) != path.parent:
        return f"{path} is not the database that Prefect is set to; left alone"
    prepare_prefect_database()
    return f"{path} is set up"


def _forget_dead(root: Path, url: str) -> str:
    forget_servers(root)
    return f"{url} is no longer in servers.json"
