import contextlib
import errno
import os
import re
import resource
import sqlite3
from types import SimpleNamespace

import pytest

from pipeline_config.errors import StoreError
from tasks.store.disk_errors import allow_open_files, find_store_error, store_errors


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "No space left on device (SPACE); free some space and run again, nothing was lost"),
        (errno.EDQUOT, "Disk quota exceeded (SPACE); free some space and run again, nothing was lost"),
        (errno.EACCES, "Permission denied; set GLOVEFLOW_ARTIFACTS to a writable directory, nothing was lost"),
        (errno.EROFS, "Read-only file system; set GLOVEFLOW_ARTIFACTS to a writable directory, nothing was lost"),
    ],
)
def test_error_of_writing_says_where_why_and_what_to_do(tmp_path, number, expected):
    where = re.escape(f"{tmp_path}: cannot be written: {expected}").replace("SPACE", r"[\d,.]+ MiB are free")
    with pytest.raises(StoreError, match=f"^{where}$"), store_errors(tmp_path):
        raise OSError(number, os.strerror(number))


def test_with_only_exhausted_other_errors_pass_unchanged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"corpus\.csv"), store_errors(tmp_path, only_exhausted=True):
        (tmp_path / "corpus.csv").read_text()


def test_with_only_exhausted_a_full_disk_is_still_an_error_of_the_store(tmp_path):
    with pytest.raises(StoreError, match="No space left on device"), store_errors(tmp_path, only_exhausted=True):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_other_exceptions_pass_unchanged(tmp_path):
    with pytest.raises(ZeroDivisionError), store_errors(tmp_path):
        _ = 1 / 0


def full_database(path):
    """SQLite's own error of a database that may not grow."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA max_page_count = 1")
        database.execute("CREATE TABLE numbers (value)")


def hidden(action):
    """Call an action, and raise its error as the cause of another one, as libraries do."""
    try:
        action()
    except Exception as error:
        raise RuntimeError("the library failed") from error


def fail(number, path=None):
    raise OSError(number, os.strerror(number), *([] if path is None else [str(path)]))


def test_a_full_database_is_a_full_disk_behind_any_error_of_a_library(tmp_path):
    with (
        pytest.raises(StoreError, match=r"database or disk is full \(.* MiB are free\); free some space"),
        store_errors(tmp_path),
    ):
        hidden(lambda: full_database(tmp_path / "a.db"))


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (errno.ENOSPC, "cannot be written: No space left on device (0.0 MiB are free); free some space and run again"),
        (errno.EROFS, "cannot be written: Read-only file system; set GLOVEFLOW_ARTIFACTS"),
        (errno.EMFILE, "cannot be opened: Too many open files; allow more open files (`ulimit -n 1024`) and run again"),
        (errno.EFBIG, "cannot be written: File too large; allow larger files (`ulimit -f unlimited`) and run again"),
    ],
)
def test_the_file_is_named_that_could_not_be_written(tmp_path, monkeypatch, number, expected):
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1024))
    with pytest.raises(RuntimeError) as caught:
        hidden(lambda: fail(number, tmp_path / "room" / "file"))
    found = find_store_error(caught.value, tmp_path)
    assert str(found).startswith(f"{tmp_path / 'room' / 'file'}: {expected}")
    assert str(found).endswith(", nothing was lost")


@pytest.mark.parametrize(
    ("soft", "hard", "allowed"),
    [(64, 4096, 1024), (64, 512, 512), (64, resource.RLIM_INFINITY, 1024), (4096, 8192, None)],
)
def test_a_command_lets_itself_open_more_files(monkeypatch, soft, hard, allowed):
    limits = []
    monkeypatch.setattr("resource.getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr("resource.setrlimit", lambda _, both: limits.append(both))
    allow_open_files()
    assert limits == ([] if allowed is None else [(allowed, hard)])


def test_a_machine_that_allows_too_few_open_files_is_told(monkeypatch):
    monkeypatch.setattr("resource.getrlimit", lambda _: (64, 128))
    monkeypatch.setattr("resource.setrlimit", lambda *_: None)
    with pytest.raises(StoreError, match=r"may have 128 files open at once, expected at least 256: .*ulimit -n 1024"):
        allow_open_files()


def test_a_file_elsewhere_that_may_not_be_read_is_no_error_of_the_store(tmp_path):
    with pytest.raises(PermissionError) as caught:
        fail(errno.EACCES, "/somewhere/else/corpus.csv")
    assert find_store_error(caught.value, tmp_path) is None


@pytest.mark.parametrize("error", [ValueError("x"), FileNotFoundError(errno.ENOENT, "x"), MemoryError()])
def test_other_errors_are_none_of_the_store(tmp_path, error):
    assert find_store_error(error, tmp_path) is None
