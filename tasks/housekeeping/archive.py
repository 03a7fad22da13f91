"""The format of a backup: one compressed tar file whose last member lists all others with size and SHA-256.

Members are regular files with relative names, as they lie in an artifacts directory. A file that was cut off has no
list, and whatever is not in the list, differs from it, or has a name that leads elsewhere is refused.
"""

import contextlib
import gzip
import hashlib
import json
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any, BinaryIO, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from pipeline_config.errors import InputError
from tasks.store.artifacts import manifest_checksum

FORMAT = 1
INDEX = "gloveflow-backup.json"
FOLDERS = ("store", "reports", "downloads", "prefect", "mlflow")
BLOCK = 1 << 20
_MAX_INDEX = 1 << 28
_BROKEN = (tarfile.TarError, zlib.error, EOFError, OSError, UnicodeError, ValueError, OverflowError)


class Entry(BaseModel):
    """A file of a backup."""

    model_config = ConfigDict(extra="forbid", strict=True)

    size: int
    sha256: str


class Index(BaseModel):
    """What a backup holds.

    Attributes:
        format: raised when older releases could not restore it.
        gloveflow: the release that made it.
        created: ISO 8601.
        files: by name.
        checksum: over all of this.
    """

    model_config = ConfigDict(extra="forbid", strict=True)

    format: int
    gloveflow: str
    created: str
    files: dict[str, Entry]
    checksum: str = ""


class Member(NamedTuple):
    """A file of a backup that is read: the backup, its name, its size, and what reads its content."""

    archive: Path
    name: str
    size: int
    content: IO[bytes]

    def blocks(self) -> Iterator[bytes]:
        """Yield the content; a damaged one raises `InputError`."""
        while True:
            with _plain_errors(self.archive):
                block = self.content.read(BLOCK)
            if not block:
                return
            yield block


class _Reader(gzip.GzipFile):
    """A decompressed file of which nobody reads more than a block at once, whatever a header says."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= BLOCK:
            raise tarfile.ReadError(f"a header asks for {size} bytes at once")
        return super().read(size)


def add_file(archive: tarfile.TarFile, name: str, content: BinaryIO, size: int) -> None:
    """Add a file to an archive, with the rights that a restore gives it."""
    member = tarfile.TarInfo(name)
    member.size, member.mode = size, 0o600
    archive.addfile(member, content)


def read_members(path: Path) -> Iterator[Member]:
    """Yield the files of an archive, the list of all last.

    Raises:
        InputError: it is no backup, is damaged, or a member may not be there.
    """
    with _plain_errors(path), path.open("rb") as file, _Reader(fileobj=file) as reader:
        try:
            archive = tarfile.open(fileobj=reader, mode="r:")  # noqa: SIM115 (closed below)
        except tarfile.ReadError as error:
            raise InputError(f"{path}: is no backup of gloveflow: {error}") from error
        with archive:
            for member in archive:
                problem = find_problem(member)
                if problem:
                    raise InputError(f"{path}: {member.name!r} {problem}; this is no backup that gloveflow made")
                content = archive.extractfile(member)
                if content is None:
                    raise tarfile.ReadError(f"{member.name} has no content")
                yield Member(path, member.name, member.size, content)
                archive.members = []  # type: ignore[attr-defined]  # otherwise it remembers them all


def find_problem(member: tarfile.TarInfo) -> str | None:
    """Return why a member of an archive may not be restored, or None."""
    if member.type != tarfile.REGTYPE or member.issparse():
        return "is a link, a device or a directory, expected a plain file"
    if member.name == INDEX:
        return "is too large" if member.size > _MAX_INDEX else None
    parts = PurePosixPath(member.name).parts
    if "/".join(parts) != member.name or ".." in parts or "\\" in member.name or not member.name.isprintable():
        return "has a name that leads out of the directory"
    if len(parts) < 2 or parts[0] not in FOLDERS or (parts[0] == "prefect" and parts != ("prefect", "prefect.db")):
        return f"is not in {', '.join(FOLDERS)}"
    return None


def check_archive(path: Path) -> Index:
    """Read a whole backup and compare every file with the list at its end; return the list.

    Raises:
        InputError: it is no backup, is damaged, is of a later release, or a member may not be there.
    """
    found: dict[str, Entry] = {}
    index: Index | None = None
    for member in read_members(path):
        if index is not None:
            raise InputError(f"{path}: is damaged: {member.name} stands behind the list of its files")
        if member.name == INDEX:
            index = _read_index(path, member)
        elif member.name in found:
            raise InputError(f"{path}: is damaged: {member.name} is there twice")
        else:
            found[member.name] = Entry(size=member.size, sha256=copy_content(member))
    if index is None:
        raise InputError(f"{path}: is cut off or no backup of gloveflow: it has no list of its files")
    for name in sorted(found.keys() | index.files.keys()):
        if found.get(name) != index.files.get(name):
            raise InputError(f"{path}: is damaged: {name} differs from the list of its files")
    return index


def copy_content(member: Member, target: BinaryIO | None = None) -> str:
    """Read the content of a member, copy it if there is a target, and return its SHA-256."""
    digest = hashlib.sha256()
    for block in member.blocks():
        digest.update(block)
        if target is not None:
            target.write(block)
    return digest.hexdigest()


def dump_index(index: Index) -> bytes:
    """Return the content of the list, with its checksum."""
    content: dict[str, Any] = index.model_dump(exclude={"checksum"})
    return json.dumps(content | {"checksum": manifest_checksum(content)}, indent=1).encode()


def _read_index(path: Path, member: Member) -> Index:
    text = b"".join(member.blocks())
    try:
        content = json.loads(text)
        if isinstance(content, dict) and isinstance(content.get("format"), int) and content["format"] > FORMAT:
            raise InputError(
                f"{path}: is of format {content['format']}, and this release knows {FORMAT}; restore it with "
                f"gloveflow {content.get('gloveflow', 'of a later version')}"
            )
        index = Index.model_validate(content)
    except (ValidationError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: is damaged: the list of its files cannot be read") from error
    if index.checksum != manifest_checksum(content):
        raise InputError(f"{path}: is damaged: the list of its files does not have its checksum")
    return index


@contextlib.contextmanager
def _plain_errors(path: Path) -> Iterator[None]:
    """Raise what a damaged archive, or one that cannot be read, makes libraries raise as `InputError`."""
    try:
        yield
    except _BROKEN as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        raise InputError(f"{path}: is damaged or no backup of gloveflow: {error}") from error
