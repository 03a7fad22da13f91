import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.runtime import parent
from tasks.runtime.parent import PARENT_VARIABLE, end_with_parent

CHILD = """
import signal, sys, time
from tasks.runtime import parent
parent.POLL_SECONDS, parent.GRACE_SECONDS = 0.02, 0.2
{handler}
parent.end_with_parent()
print("ready", flush=True)
time.sleep(60)
"""
PARENT = """
import os, subprocess, sys
os.environ["GLOVEFLOW_PARENT_PID"] = str(os.getpid())
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


def has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "handler", ["", "signal.signal(signal.SIGTERM, signal.SIG_IGN)"], ids=["at SIGTERM", "at SIGKILL"]
)
def test_a_process_ends_soon_after_its_parent_was_killed(handler):
    killed = subprocess.run(
        [sys.executable, "-c", PARENT, CHILD.format(handler=handler)], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    pid, deadline = int(killed.stdout), time.monotonic() + 5
    while not has_ended(pid):
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            pytest.fail("the process outlived its parent")
        time.sleep(0.02)


@pytest.mark.parametrize("value", [None, "own"], ids=["no parent named", "the process itself"])
def test_without_a_parent_to_watch_nothing_is_done(monkeypatch, value):
    monkeypatch.setattr(parent, "_watch", lambda _: pytest.fail("watches"))
    monkeypatch.delenv(PARENT_VARIABLE, raising=False)
    if value:
        monkeypatch.setenv(PARENT_VARIABLE, str(os.getpid()))
    end_with_parent()
