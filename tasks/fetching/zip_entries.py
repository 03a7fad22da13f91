"""Which entries of a zip archive are trusted, which macOS has added, and how far files may grow when decompressed."""

import re
import stat
import struct
import zipfile

from pipeline_config.errors import InputError

MAX_RATIO = 200  # of decompressed to compressed size; more is refused as a decompression bomb
LOCAL_HEADER = struct.Struct("<4s5H3I2H")  # APPNOTE.TXT 4.3.7
_NESTED = (".zip", ".gz", ".tgz", ".tar", ".bz2", ".xz", ".7z", ".rar", ".zst")
_ENOUGH_BYTES = 1 << 18  # below, a ratio says nothing


def find_problem(entry: zipfile.ZipInfo, end: int) -> str | None:
    """Return why an entry is refused, or None if it is trusted."""
    name, mode = entry.orig_filename, entry.external_attr >> 16
    if entry.header_offset < 0:
        return "begins before the archive"
    if not name or name.startswith(("/", "\\")) or re.match("[A-Za-z]:", name):
        return "its name is an absolute path"
    if ".." in re.split(r"[/\\]", name) or not name.isprintable():
        return "its name leads out of the archive's folder or is not printable"
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a link or a device"
    if entry.flag_bits & 0x2041:  # encrypted, strongly encrypted, or with an encrypted directory
        return "is encrypted"
    if name.lower().endswith(_NESTED):
        return "is an archive inside the archive"
    if entry.header_offset + LOCAL_HEADER.size + len(name.encode()) + entry.compress_size > end:
        return "overlaps with the next entry"
    if entry.file_size > MAX_RATIO * max(entry.compress_size, 1):
        return _describe_bomb(entry.file_size, entry.compress_size)
    return None


def is_of_macos(name: str) -> bool:
    """Return whether macOS added a file to an archive: its resource forks and folder settings."""
    *folders, last = name.split("/")
    return "__MACOSX" in folders or last.startswith("._") or last == ".DS_Store"


def check_ratio(name: str, size: int, packed_size: int) -> None:
    """Raise an `InputError` if a stream has grown to more than `MAX_RATIO` times of what was read of its file.

    Args:
        name: the file, for the message.
        size: bytes decompressed so far.
        packed_size: bytes read of the file so far.
    """
    if size > _ENOUGH_BYTES and size > MAX_RATIO * packed_size:
        raise InputError(f"{name}: {_describe_bomb(size, packed_size)}")


def _describe_bomb(size: int, packed_size: int) -> str:
    return f"decompresses to {size:,} bytes from {packed_size:,}, expected at most {MAX_RATIO} times as many"
