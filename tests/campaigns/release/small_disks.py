"""File systems of a few bytes, and processes whose rights are those of any user."""

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Self

PAGE = 4096
_DAC_OVERRIDE, _DAC_READ_SEARCH = 1, 2
_KEEP_CAPABILITIES = 8
_CAPABILITY_VERSION = 0x20080522


class SmallDisk:
    """A file system in memory of a size in bytes, mounted on a folder."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={max(size, PAGE)}", "small", folder], check=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["umount", "-l", self.folder], check=True)

    def resize(self, size: int) -> None:
        """Change the size."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)

    def make_writable(self, writable: bool) -> None:
        """Mount it again, to read only or to write."""
        subprocess.run(["mount", "-o", f"remount,{'rw' if writable else 'ro'}", self.folder], check=True)


def can_mount(folder: Path) -> bool:
    """Return whether this process may mount file systems."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError), SmallDisk(folder / "probe", PAGE):
        return True
    return False


def respect_modes() -> None:
    """Let the modes of files hold for this process, even if it is root's, when it writes."""
    if os.getuid() == 0:
        _keep_capabilities(~(1 << _DAC_OVERRIDE))


def become(user: int, group: int, *, read_all: bool = True) -> None:
    """Give a process of root the rights of another user; with `read_all` it may read everything, Python's files too."""
    if os.getuid() != 0:
        return
    ctypes.CDLL(None).prctl(_KEEP_CAPABILITIES, 1)
    os.setgroups([])
    os.setgid(group)
    os.setuid(user)
    _keep_capabilities(1 << _DAC_READ_SEARCH if read_all else 0)


def _keep_capabilities(kept: int) -> None:
    library = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice
    if library.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] = sets[1] & kept
    if library.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


@contextlib.contextmanager
def changed_mode(path: Path, mode: int) -> Iterator[None]:
    """Give a file or directory another mode for the body."""
    before = path.stat().st_mode & 0o7777
    path.chmod(mode)
    try:
        yield
    finally:
        path.chmod(before)
