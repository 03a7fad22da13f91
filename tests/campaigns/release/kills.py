"""Whole runs that are killed with SIGKILL, at exact points and at random moments; then the next run must mend it all.

Several kills hit one artifacts directory, one run after the other, before a run is let through to its end. A trial is
one kill. The servers are killed, too.
"""

import contextlib
import os
import random
import shutil
import signal
import sqlite3
import subprocess
from pathlib import Path

from tests.campaigns.release.databases import PREPARE
from tests.campaigns.release.trials import Trials
from tests.campaigns.release.whole_runs import Finished, finished_run, output_digests, small_options
from tests.small_run import CommandLine

KILLS_PER_STORE = 6
END_SECONDS = 600.0
CALLS = {  # where a call is made, and how many there are in a run, about
    "os.fsync": ("import os as at", "fsync", 110),
    "os.rename": ("import os as at", "rename", 25),
    "os.mkdir": ("import os as at", "mkdir", 60),
    "a call of MLflow": ("import tasks.tracking.client as at", "_call", 60),
    "a request to Prefect": ("import prefect.client.base as base; at = base.PrefectHttpxSyncClient", "send", 60),
    "a step of the training": ("import tasks.training.history as history; at = history.History", "report_step", 100),
    "a save of a checkpoint": ("import tasks.training.checkpoints as c; at = c.Checkpoints", "save", 20),
}
# Python that makes a run kill itself before or after the n-th call of a function. What is no part of the standard library
# is imported with the flow: Prefect reads its settings when it is imported.
AT_A_CALL = """
import os, signal
import flows.cli.session as session
def count_calls():
    {where}
    call, calls = at.{name}, []
    def count(*args, **kwargs):
        calls.append(1)
        if len(calls) == {number} and not {after}: os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **kwargs)
        if len(calls) == {number}: os.kill(os.getpid(), signal.SIGKILL)
        return result
    at.{name} = count
def run_flow(root, load, run=session.run_flow, **parameters):
    def load_and_count():
        flow = load()
        count_calls()
        return flow
    return run(root, load_and_count, **parameters)
if "{where}" == "import os as at":
    count_calls()
else:
    session.run_flow = run_flow
"""


def play(trials: Trials) -> None:
    """Kill runs on one store after the other, and let one run to its end on each."""
    finished = finished_run()
    arguments = ["run", *small_options(trials.folder / "inputs", "training.checkpoint_steps=5")]
    while trials.tried < trials.count:
        artifacts = trials.folder / f"store-{trials.tried}"
        if trials.tried and trials.draw.random() < 0.8:  # the others start with the set-up of the databases
            for room, prepare in PREPARE.items():
                made = trials.folder / "made" / room / f"{room}.db"
                made.parent.mkdir(parents=True, exist_ok=True)
                if not made.exists():
                    prepare(made)
                shutil.copytree(made.parent, artifacts / room)
        line = CommandLine(artifacts)
        kills = [_kill(line, arguments, trials.draw) for _ in range(min(KILLS_PER_STORE, trials.count - trials.tried))]
        problem = _finish(line, arguments, finished)
        for _ in kills[1:] if problem else kills:
            trials.passed()
        if problem:
            trials.record_lost(f"after {'; '.join(kills)}: {problem}")
        if trials.tried > KILLS_PER_STORE:
            shutil.rmtree(artifacts)


def _kill(line: CommandLine, arguments: list[str], draw: random.Random) -> str:
    """Kill a run, or one of its servers, and return where."""
    if draw.random() < 0.6:
        name = draw.choice(list(CALLS))
        where, function, calls = CALLS[name]
        number, after = draw.randrange(1, calls + 1), draw.random() < 0.5
        before = AT_A_CALL.format(where=where, name=function, number=number, after=after)
        code, _ = line.run(*arguments, before=before, seconds=END_SECONDS)
        return f"{'after' if after else 'before'} {name}, number {number}" + (" (not reached)" if code == 0 else "")
    run = line.start(*arguments)
    seconds, victim = draw.uniform(0, 15), draw.choice(["command", "group", "server", "everything"])
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.wait(seconds)
    servers = _list_children(run.pid)
    with contextlib.suppress(ProcessLookupError):
        if victim != "server":
            (os.killpg if victim == "group" else os.kill)(run.pid, signal.SIGKILL)
    for pid in servers if victim in ("server", "everything") else []:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    run.communicate()
    return f"{victim} killed after {seconds:.1f} s"


def _list_children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _finish(line: CommandLine, arguments: list[str], finished: Finished) -> str | None:
    """Run to the end and return what is not as after an unbroken run."""
    code, output = line.run(*arguments, seconds=END_SECONDS)
    if code != 0 or "Traceback" in output:
        return f"the next run ended with {code}: {output[-1500:]}"
    digests = output_digests(line.artifacts)
    if digests != finished.digests:
        return f"other outputs: {sorted(set(digests.items()) ^ set(finished.digests.items()))}"
    return find_leftovers(line.artifacts)


def find_leftovers(artifacts: Path) -> str | None:
    """Return what killed runs left that a finished run would not leave: versions, open states, temporary files."""
    with contextlib.closing(sqlite3.connect(artifacts / "mlflow" / "mlflow.db")) as database:
        versions = database.execute("SELECT version FROM model_versions").fetchall()
        aliases = dict(database.execute("SELECT alias, version FROM registered_model_aliases").fetchall())
        running = database.execute("SELECT name FROM runs WHERE status = 'RUNNING'").fetchall()
        pending = database.execute("SELECT name FROM logged_models WHERE status = 1").fetchall()
    with contextlib.closing(sqlite3.connect(artifacts / "prefect" / "prefect.db")) as database:
        is_open = "state_type IN ('RUNNING', 'PENDING', 'CANCELLING') AND state_name != 'NotReady'"
        flows = database.execute(f"SELECT name, state_name FROM flow_run WHERE {is_open}").fetchall()
        tasks = database.execute(f"SELECT name, state_name FROM task_run WHERE {is_open}").fetchall()
    patterns = ("store/*/.tmp-*", "checkpoints/*/*/*", "*/.*.new", "*/.*.new-*")
    files = [str(path.relative_to(artifacts)) for pattern in patterns for path in artifacts.glob(pattern)]
    if versions != [(1,)] or aliases.get("champion") != 1:
        return f"versions {versions}, aliases {aliases}, expected version 1 as champion alone"
    open_states = {"MLflow runs": running, "models": pending, "flow runs": flows, "task runs": tasks, "files": files}
    return "; ".join(f"{kind} left: {what}" for kind, what in open_states.items() if what) or None
