import errno
import logging
import os
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

from pipeline_config.errors import StoreError
from tasks.store import locks
from tasks.store.locks import file_lock, try_lock

HOLD_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from tasks.store.locks import file_lock

with file_lock(Path(sys.argv[1]), waiting_for="nobody"):
    print("locked", flush=True)
    time.sleep(600)
"""


def can_lock(path) -> bool:
    with path.open("a") as file:
        return try_lock(file.fileno(), path)


def test_locked_file_cannot_be_locked_again_until_the_body_ends(tmp_path):
    path = tmp_path / "a.lock"
    with file_lock(path, waiting_for="nobody"):
        assert not can_lock(path)
    assert can_lock(path)


def test_lock_is_released_when_the_body_fails(tmp_path):
    path = tmp_path / "a.lock"
    with pytest.raises(RuntimeError, match="body"), file_lock(path, waiting_for="nobody"):
        raise RuntimeError("body")
    assert can_lock(path)


def test_locks_of_different_files_do_not_wait_for_each_other(tmp_path):
    with file_lock(tmp_path / "a.lock", waiting_for="nobody"):
        assert can_lock(tmp_path / "b.lock")


def test_missing_folders_of_the_lock_file_are_made(tmp_path):
    path = tmp_path / "store" / "stage" / "a.lock"
    with file_lock(path, waiting_for="nobody"):
        assert path.is_file()


def test_waiting_is_logged_once_and_ends_when_the_lock_is_released(tmp_path, monkeypatch, caplog):
    path = tmp_path / "a.lock"
    holder = path.open("a")
    assert try_lock(holder.fileno(), path)
    naps = []

    def sleep(seconds):
        naps.append(seconds)
        if len(naps) == 3:
            holder.close()

    monkeypatch.setattr(locks, "time", SimpleNamespace(sleep=sleep))
    monkeypatch.setattr(logging.getLogger("tasks"), "propagate", True)
    with (
        caplog.at_level(logging.INFO, logger="tasks.store.locks"),
        file_lock(path, waiting_for="another run to finish"),
    ):
        assert caplog.messages == ["waiting for another run to finish"]
    assert len(naps) == 3


def test_lock_dies_with_its_process_even_by_sigkill(tmp_path):
    path = tmp_path / "a.lock"
    command = [sys.executable, "-c", HOLD_UNTIL_KILLED, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        held = not can_lock(path)
        process.kill()
        process.wait()
    assert held
    assert can_lock(path)


def test_file_system_without_locks_is_an_error(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", no_locks)
    path = tmp_path / "a.lock"
    expected = f"{path}: its file system has no file locks (No locks available)"
    with pytest.raises(StoreError, match=f"^{re.escape(expected)}$"), file_lock(path, waiting_for="nobody"):
        pytest.fail("entered without a lock")


def test_lock_file_that_cannot_be_opened_is_an_error(tmp_path):
    (tmp_path / "a.lock").mkdir()
    expected = (
        f"{tmp_path / 'a.lock'}: cannot be written: Is a directory; "
        "set GLOVEFLOW_ARTIFACTS to a writable directory, nothing was lost"
    )
    with pytest.raises(StoreError, match=f"^{re.escape(expected)}$"), file_lock(tmp_path / "a.lock", waiting_for="x"):
        pytest.fail("entered without a lock")
