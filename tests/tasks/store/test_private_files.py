"""What is made can be read by its owner alone; what exists keeps its mode."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from flows.cli.server_records import record_servers
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory, open_to_append


@pytest.fixture(autouse=True)
def open_umask() -> Iterator[None]:
    """Let the process give all permissions that it is not told to withhold."""
    before = os.umask(0)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_missing_directory_is_made_private(tmp_path: Path) -> None:
    make_directory(tmp_path / "a" / "b")
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)


def test_a_directory_and_a_file_that_exist_keep_their_modes(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir(mode=0o775)
    (tmp_path / "shared" / "log").write_bytes(b"old ")
    (tmp_path / "shared" / "log").chmod(0o664)
    with open_to_append(tmp_path / "shared" / "log") as file:
        file.write(b"new")
    assert (mode(tmp_path / "shared"), mode(tmp_path / "shared" / "log")) == (0o775, 0o664)
    assert (tmp_path / "shared" / "log").read_bytes() == b"old new"


def test_a_new_log_is_private(tmp_path: Path) -> None:
    open_to_append(tmp_path / "logs" / "server.log").close()
    assert (mode(tmp_path / "logs"), mode(tmp_path / "logs" / "server.log")) == (0o700, 0o600)


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        make_directory(tmp_path / "file" / "below")


@pytest.mark.parametrize("by", ["lock", "servers"])
def test_the_artifacts_directory_is_made_private_by_whoever_is_first(tmp_path: Path, by: str) -> None:
    root = tmp_path / "artifacts"
    if by == "lock":
        with file_lock(root / "mlflow" / ".lock", waiting_for="nobody"):
            pass
    else:
        record_servers(root, {})
    assert mode(root) == 0o700
