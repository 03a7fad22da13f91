"""The artifact store: keys of stage outputs, references to outputs, and the verification of their files.

An output is the directory `<artifacts>/store/<stage>/<key>/`. It holds the stage's files and a `manifest.json`. The key
is a hash of the stage's name, its version, its configuration and the digests of its inputs. Paths, times and machines
are not in the key. `tasks.store.commit` writes outputs; this module only reads them.

The store is in the directory that `GLOVEFLOW_ARTIFACTS` names (default: `artifacts` in the working directory).
"""

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, model_validator

from pipeline_config.contracts.json_file import JsonFile
from tasks.store.disk_errors import require_handles

Content = TypeVar("Content", bound=JsonFile)
logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_verified: dict[tuple[int, ...], str] = {}  # device, inode, size, mtime_ns, ctime_ns -> SHA-256; for this process


def artifacts_root() -> Path:
    """Return the absolute path of the artifacts directory."""
    return Path(os.environ.get("GLOVEFLOW_ARTIFACTS") or "artifacts").absolute()


class ArtifactRef(BaseModel):
    """Reference to a committed stage output. Making a reference verifies the output's files.

    Attributes:
        stage: name of the stage.
        key: key of the output.
        digest: SHA-256 over the names and contents of the files. Keys made from it are content-addressed.
        facts: counts, measurements and the seconds that the stage took. They are for display only (log lines, summary,
            reports, metrics of the MLflow run), because neither a digest nor a key covers them: the manifest's checksum
            finds damage, but whoever edits the manifest can write a new one. Code that decides anything reads the
            output's files, which are verified. The same holds for `inputs` in the manifest, which no code reads.

    Raises:
        ValueError: (as pydantic's `ValidationError`) a file is missing or differs from the manifest.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    key: str
    digest: str
    facts: dict[str, Any] = {}

    @property
    def directory(self) -> Path:
        """Directory of the output."""
        return output_directory(self.stage, self.key)

    def path(self, name: str) -> Path:
        """Return the path of one of the output's files."""
        return self.directory / name

    def read_json(self, name: str) -> Any:
        """Return the content of a JSON file."""
        return json.loads(self.path(name).read_text("utf-8"))

    def read_model(self, kind: type[Content]) -> Content:
        """Return the content of the JSON file that a model describes.

        Raises:
            ValueError: (as pydantic's `ValidationError`) the file does not fit the model.
        """
        return kind.model_validate_json(self.path(kind.file_name).read_bytes())

    def read_table(self, name: str, columns: list[str] | None = None, *, memory_map: bool = False) -> pa.Table:
        """Return a Parquet file, or some of its columns, as a table."""
        # pq.read_table uses pyarrow.dataset, which is slow to import and takes three times the processor time
        with pq.ParquetFile(self.path(name), memory_map=memory_map) as file:
            return file.read(columns=columns)

    def count_rows(self, name: str) -> int:
        """Return the number of rows of a Parquet file, without reading them."""
        return int(pq.read_metadata(self.path(name)).num_rows)

    def map_table(self, name: str) -> pa.Table:
        """Return an Arrow IPC file, mapped into memory, as a table."""
        with pa.memory_map(str(self.path(name))) as file:
            return pa.ipc.open_file(file).read_all()

    @model_validator(mode="after")
    def _verify(self) -> Self:
        manifest = _read_manifest(self.directory)
        if manifest is None or manifest.digest != self.digest:
            raise ValueError(f"{self.directory}: no output with digest {self.digest[:12]} is here")
        problem = find_damage(self.directory, manifest)
        if problem:
            raise ValueError(problem)
        return self


class SourceRef(BaseModel):
    """Reference to input from outside the store: its location, and the digest that stands for its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: str
    kind: str
    digest: str


class _File(BaseModel):
    """A file's entry in a manifest."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """The part of an output's `manifest.json` that is read back.

    `stage`, `key`, `digest` and `files` are checked against each other, the directory's name and the files. `facts` and
    `seconds` are for display.
    """

    stage: str
    key: str
    digest: str
    files: dict[str, _File]
    facts: dict[str, Any] = {}
    seconds: float = 0.0


def stage_key(stage: str, version: int, inputs: Mapping[str, Any]) -> str:
    """Return the key of an output: 32 hexadecimal digits of a SHA-256 over stage, version and the inputs' content."""
    material = {"stage": stage, "version": version, "inputs": {name: keyed(v) for name, v in inputs.items()}}
    return hashlib.sha256(_canonical(material)).hexdigest()[:32]


def manifest_checksum(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 over what a manifest holds besides its checksum, as JSON gives it back."""
    plain = json.loads(json.dumps(content))
    plain.pop("checksum", None)
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()


def output_directory(stage: str, key: str) -> Path:
    """Return the directory of an output, which need not exist."""
    return artifacts_root() / "store" / stage / key


def find_output(stage: str, key: str) -> ArtifactRef | None:
    """Return the committed output of a key, or None if it is absent or damaged."""
    directory = output_directory(stage, key)
    manifest = _read_manifest(directory)
    if manifest is None:
        if directory.exists():
            logger.warning("%s has no readable manifest and will be rebuilt", directory)
        return None
    problem = find_damage(directory, manifest)
    if problem:
        logger.warning("%s: it will be rebuilt", problem)
        return None
    facts = {**manifest.facts, "seconds": manifest.seconds}
    return ArtifactRef(stage=stage, key=key, digest=manifest.digest, facts=facts)


def find_damage(directory: Path, manifest: Manifest) -> str | None:
    """Compare an output's files with its manifest; return a message about the first difference, or None."""
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            size = path.stat().st_size
            if size != entry.size:
                return f"{path} is damaged: {size} bytes, expected {entry.size}"
            if file_digest(path) != entry.sha256:
                return f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}"
        except OSError as error:
            require_handles(error, path)
            return f"{path} cannot be read: {error.strerror}"
    return None


def describe_damage(directory: Path) -> str | None:
    """Return what is wrong with the output in a directory of the store, or None if it is intact."""
    manifest = _read_manifest(directory)
    if manifest is None:
        return f"{directory} has no readable {MANIFEST}"
    return find_damage(directory, manifest)


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal. A process reads an unchanged file once, even if it is renamed."""
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if identity not in _verified:
        with path.open("rb") as file:
            _verified[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _verified[identity]


def tree_digest(paths: Mapping[str, Path]) -> str:
    """Return one SHA-256 over the names and contents of files."""
    return content_digest({name: file_digest(path) for name, path in paths.items()})


def content_digest(files: Mapping[str, str]) -> str:
    """Return one SHA-256 over the names and SHA-256 digests of files."""
    return hashlib.sha256(_canonical(files)).hexdigest()


def keyed(value: Any) -> Any:
    """Return what represents an input in a key: the digest of a reference, the keyed fields of a section."""
    if isinstance(value, ArtifactRef | SourceRef):
        return {"digest": value.digest}
    if hasattr(value, "keyed"):
        return value.keyed()
    return value


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _read_manifest(directory: Path) -> Manifest | None:
    try:
        content = json.loads((directory / MANIFEST).read_text("utf-8"))
        manifest = Manifest.model_validate(content)
    except OSError as error:
        require_handles(error, directory / MANIFEST)
        return None
    except (ValueError, RecursionError):
        return None
    if "checksum" in content and content["checksum"] != manifest_checksum(content):
        return None
    intact = manifest.digest == content_digest({name: entry.sha256 for name, entry in manifest.files.items()})
    in_place = (manifest.stage, manifest.key) == (directory.parent.name, directory.name)
    return manifest if intact and in_place else None
