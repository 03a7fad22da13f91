"""Whole runs that are killed with SIGKILL, at exact points and at random moments; then the next run must mend it all.

Several kills hit one artifacts directory, one run after the other, before a run is let through to its end. A trial is
one kill; a run that ends before it is none. On three of four directories the runs are forks that kill themselves at a call, and share a Prefect server; on the
others they are commands with a server of their own, which are killed from outside, with their servers or without.
"""

import contextlib
import importlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from functools import partial
from itertools import takewhile
from pathlib import Path
from typing import Any

from tests.campaigns.release.databases import PREPARE
from tests.campaigns.release.small_runs import SmallRuns
from tests.campaigns.release.trials import Trials
from tests.campaigns.release.whole_runs import output_digests
from tests.small_run import CommandLine

KILLS_PER_STORE = 6
END_SECONDS = 600.0
CLOSED_SECONDS = 30.0  # Prefect records the end of a task run a moment after it
CALLS = {  # where a call is made, and how many there are in a run, about
    "os.fsync": ("os", "fsync", 110),
    "os.rename": ("os", "rename", 25),
    "os.mkdir": ("os", "mkdir", 60),
    "a call of MLflow": ("tasks.tracking.client", "_call", 60),
    "a request to Prefect": ("prefect.client.base:PrefectHttpxSyncClient", "send", 60),
    "a step of the training": ("tasks.training.history:History", "report_step", 100),
    "a save of a checkpoint": ("tasks.training.checkpoints:Checkpoints", "save", 20),
}


def play(trials: Trials) -> None:
    """Kill runs on one directory after the other, and let one run to its end on each."""
    runs = SmallRuns(trials.folder)
    runs.options += ["--set", "training.checkpoint_steps=5"]
    with runs:
        while trials.tried < trials.count:
            artifacts = trials.folder / f"store-{trials.tried}"
            if trials.tried and trials.draw.random() < 0.8:  # the others start with the set-up of the databases
                _copy_databases(trials.folder / "made", artifacts)
            number = min(KILLS_PER_STORE, trials.count - trials.tried)
            in_forks = trials.draw.random() < 0.75
            play_store = _play_forks if in_forks else _play_commands
            kills, problem = play_store(runs, artifacts, trials.draw, number)
            for _ in kills[1:] if problem else kills:
                trials.passed()
            if problem:
                trials.record_lost(f"after {'; '.join(kills) or 'no kill'}: {problem}")
            shutil.rmtree(artifacts)


def _copy_databases(made: Path, artifacts: Path) -> None:
    for room, prepare in PREPARE.items():
        database = made / room / f"{room}.db"
        database.parent.mkdir(parents=True, exist_ok=True)
        if not database.exists():
            prepare(database)
        shutil.copytree(database.parent, artifacts / room)


def _play_forks(runs: SmallRuns, artifacts: Path, draw: random.Random, number: int) -> tuple[list[str], str | None]:
    """Kill forks at calls, and return where, and what is wrong after a run to its end."""
    kills: list[str] = []
    while len(kills) < number:
        name, after = draw.choice(list(CALLS)), draw.random() < 0.5
        call = draw.randrange(1, CALLS[name][2] // (2 if kills else 1) + 1)  # a run that goes on has less to do
        code, output = runs.commands.run(
            artifacts, *runs.options, before=partial(_kill_at, *CALLS[name][:2], call, after=after)
        )
        if code == 0:
            break
        kills.append(f"{'after' if after else 'before'} {name}, number {call}")
        if code != -signal.SIGKILL:
            return kills, f"the run ended with {code}: {output[-1500:]}"
    problem = runs.finish(artifacts)
    return kills, problem or find_leftovers(artifacts, runs.folder / "prefect" / "prefect" / "prefect.db")


def _kill_at(place: str, name: str, number: int, *, after: bool) -> None:
    """Let this process kill itself at a call of a function."""
    module, _, attribute = place.partition(":")
    holder: Any = importlib.import_module(module)
    holder = getattr(holder, attribute) if attribute else holder
    call: Callable[..., Any] = getattr(holder, name)
    made: list[int] = []

    def count(*args: Any, **kwargs: Any) -> Any:
        made.append(1)
        last = len(made) == number
        if last and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **kwargs)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(holder, name, count)


def _play_commands(runs: SmallRuns, artifacts: Path, draw: random.Random, number: int) -> tuple[list[str], str | None]:
    """Kill commands at random moments, and return what was killed, and what is wrong after a run to its end."""
    line = CommandLine(artifacts)
    for name in ("PREFECT_API_URL", "PREFECT_API_AUTH_STRING", "PREFECT_HOME"):
        line.environment.pop(name, None)
    kills = list(takewhile(bool, (kill_command(line, runs.options, draw) for _ in range(number))))
    code, output = line.run(*runs.options, seconds=END_SECONDS)
    if code != 0 or "Traceback" in output:
        return kills, f"the next run ended with {code}: {output[-1500:]}"
    digests = output_digests(artifacts)
    if digests != runs.digests:
        return kills, f"other outputs: {sorted(set(digests.items()) ^ set(runs.digests.items()))}"
    return kills, find_leftovers(artifacts, artifacts / "prefect" / "prefect.db")


def kill_command(
    line: CommandLine, arguments: list[str], draw: random.Random, *, earliest: float = 0, latest: float = 15
) -> str:
    """Kill a command, or its server, between two moments, and return when; an empty text if it ended before."""
    run = line.start(*arguments)
    seconds, victim = draw.uniform(earliest, latest), draw.choice(["command", "group", "server", "everything"])
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(seconds)
        return ""
    servers = _list_children(run.pid)
    with contextlib.suppress(ProcessLookupError):
        if victim != "server":
            (os.killpg if victim == "group" else os.kill)(run.pid, signal.SIGKILL)
    for pid in servers if victim in ("server", "everything") else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.communicate(timeout=END_SECONDS)
    return f"{victim} killed after {seconds:.1f} s"


def _list_children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def find_leftovers(artifacts: Path, prefect: Path) -> str | None:
    """Return what killed runs left that a finished run would not leave: versions, open states, temporary files.

    Args:
        artifacts: the artifacts directory.
        prefect: the database of the Prefect server of its runs.
    """
    with contextlib.closing(sqlite3.connect(artifacts / "mlflow" / "mlflow.db")) as database:
        versions = database.execute("SELECT version FROM model_versions").fetchall()
        aliases = dict(database.execute("SELECT alias, version FROM registered_model_aliases").fetchall())
        running = database.execute("SELECT name FROM runs WHERE status = 'RUNNING'").fetchall()
        pending = database.execute("SELECT name FROM logged_models WHERE status = 1").fetchall()
    patterns = ("store/*/.tmp-*", "checkpoints/*/*/*", "*/.*.new", "*/.*.new-*")
    files = [str(path.relative_to(artifacts)) for pattern in patterns for path in artifacts.glob(pattern)]
    if versions != [(1,)] or aliases.get("champion") != 1:
        return f"versions {versions}, aliases {aliases}, expected version 1 as champion alone"
    open_states = {"MLflow runs": running, "models": pending, "files": files, "Prefect": _wait_for_end(prefect)}
    return "; ".join(f"{kind} left: {what}" for kind, what in open_states.items() if what) or None


def _wait_for_end(prefect: Path) -> list[tuple[str, str]]:
    """Return the flow runs and task runs that are open, and stay so for some seconds."""
    is_open = "state_type IN ('RUNNING', 'PENDING', 'CANCELLING') AND state_name != 'NotReady'"
    deadline = time.monotonic() + CLOSED_SECONDS
    while True:
        with contextlib.closing(sqlite3.connect(prefect, timeout=60)) as database:
            found = [
                row
                for table in ("flow_run", "task_run")
                for row in database.execute(f"SELECT name, state_name FROM {table} WHERE {is_open}").fetchall()
            ]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.2)
