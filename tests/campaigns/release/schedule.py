"""A schedule of every minute, of which processes are killed in the middle of a run: the next due run has to come.

A trial kills `gloveflow serve`, the process of the run, a server, or all of them, at a random moment of a run that
computes every stage. If `serve` is dead then, or ends, it is started again, as a service manager would do.
"""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.campaigns.release.trials import Trials
from tests.campaigns.release.whole_runs import new_store, small_options
from tests.small_run import CommandLine

DUE_SECONDS = 120.0  # from the start of `serve`, or from the kill, until the next run begins
RUN_SECONDS = 180.0
VICTIMS = ("serve", "run", "prefect_server", "mlflow_server", "everything")
GOES_ON = ("prefect_server", "mlflow_server")  # the run that goes on without them holds back the next one
OPEN = "state_type IN ('RUNNING', 'PENDING', 'CANCELLING') AND state_name != 'NotReady'"


@dataclass
class Service:
    """`gloveflow serve`, which is started again when it has ended."""

    line: CommandLine
    options: list[str]
    log: Path

    def start(self) -> None:
        """Start the command; its output goes to a file."""
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.cli.main", "serve", *self.options, "--cron", "* * * * *"],
                env=self.line.environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def kill(self, victim: str) -> None:
        """Send SIGKILL to a part of the service."""
        children = _list_children(self.process.pid)
        chosen = [pid for pid in children if victim == "everything" or _name_of(pid) == victim]
        for pid in [*chosen, *([self.process.pid] if victim in ("serve", "everything") else [])]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def keep_running(self) -> bool:
        """Start the command again if it has ended, and return whether it had."""
        if self.process.poll() is None:
            return False
        self.start()
        return True

    def read(self, database: str, query: str) -> list[tuple[object, ...]]:
        """Return rows of a database of the artifacts; none as long as it is not there."""
        path = self.line.artifacts / database
        with (
            contextlib.suppress(sqlite3.OperationalError),
            contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as connection,
        ):
            return connection.execute(query).fetchall()
        return []


def play(trials: Trials) -> None:
    """Kill a part of a service again and again."""
    line = new_store(trials.folder)
    service = Service(line, small_options(trials.folder / "inputs"), trials.folder / "serve.txt")
    service.start()
    try:
        while trials.tried < trials.count:
            victim = VICTIMS[trials.tried % len(VICTIMS)]
            problem = _play_trial(service, victim, trials.draw)
            trials.check(f"{victim} killed", problem, lost=True)
    finally:
        service.process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            service.process.wait(30)
        service.process.kill()


def _play_trial(service: Service, victim: str, draw: random.Random) -> str | None:
    """Kill in the middle of a run, and return what is wrong after the next one."""
    if not _wait(lambda: not _list_running(service), RUN_SECONDS, service):
        return "a run does not end"
    shutil.rmtree(service.line.artifacts / "store", ignore_errors=True)
    if not _wait(lambda: _list_running(service), DUE_SECONDS, service):
        return "no run began before the kill"
    time.sleep(draw.uniform(0.0, 8.0))
    service.kill(victim)
    killed = datetime.now(UTC)
    for _ in range(20):  # a service manager starts it again after a second or so
        time.sleep(0.1)
    if service.keep_running():
        killed = datetime.now(UTC)
    if victim in GOES_ON and not _wait(lambda: not _list_running(service), RUN_SECONDS, service):
        return "the run does not end"
    query = f"SELECT id FROM flow_run WHERE start_time > '{killed:%Y-%m-%d %H:%M:%S}' AND state_type != 'CANCELLED'"
    if not _wait(lambda: service.read("prefect/prefect.db", query), DUE_SECONDS, service):
        return f"no run began within {DUE_SECONDS:.0f} s; the last lines: {_tail(service.log)}"
    done = query.replace("!= 'CANCELLED'", "= 'COMPLETED'")
    if not _wait(lambda: service.read("prefect/prefect.db", done), RUN_SECONDS, service):
        return f"no later run was completed; the last lines: {_tail(service.log)}"
    before = f"start_time < '{killed:%Y-%m-%d %H:%M:%S}'"
    flows = service.read("prefect/prefect.db", f"SELECT name, state_name FROM flow_run WHERE {OPEN} AND {before}")
    tasks = service.read("prefect/prefect.db", f"SELECT name, state_name FROM task_run WHERE {OPEN} AND {before}")
    moment = int(killed.timestamp() * 1000)
    query = f"SELECT name FROM runs WHERE status = 'RUNNING' AND start_time < {moment}"
    runs = service.read("mlflow/mlflow.db", query)
    return f"still open: {flows} {tasks} {runs}" if flows or tasks or runs else None


def _list_running(service: Service) -> list[tuple[object, ...]]:
    return service.read("prefect/prefect.db", "SELECT id FROM flow_run WHERE state_type = 'RUNNING'")


def _wait(is_there: Callable[[], object], seconds: float, service: Service) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if is_there():
            return True
        service.keep_running()
        time.sleep(0.3)
    return False


def _list_children(pid: int) -> list[int]:
    """Return the processes that any thread of a process has started."""

    def read() -> Iterator[int]:
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                yield from map(int, path.read_text().split())

    return list(read())


def _name_of(pid: int) -> str:
    """Return which part of a service a process is."""
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
        return next((name for name in ("prefect_server", "mlflow_server") if name in command), "run")
    return ""


def _tail(log: Path) -> str:
    return log.read_text("utf-8", "replace")[-1500:]
