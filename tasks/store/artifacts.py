"""The artifact store: stage outputs written once, verified always, and skipped when they are there.

An output is the directory `<artifacts>/store/<stage>/<key>/`: the stage's files and a `manifest.json`. The
key is a hash of the stage, its version, its configuration and the digests of its inputs, never of paths,
times or machines. A reader sees all of an output or nothing of it (see `commit_output`).

Reads and writes the directory that `GLOVEFLOW_ARTIFACTS` names (default: `artifacts` in the working
directory).
"""

import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, model_validator

from pipeline_config.errors import StoreError
from tasks.store.locks import file_lock, store_errors
from tasks.store.output import StageOutput

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_TOOLS = ("gloveflow", "torch", "torchtext", "pyarrow", "numpy", "scikit-learn", "safetensors")
_verified: dict[tuple[int, ...], str] = {}  # device, inode, size, mtime_ns, ctime_ns -> SHA-256, this process only


def artifacts_root() -> Path:
    """Return the absolute path of the artifacts directory."""
    return Path(os.environ.get("GLOVEFLOW_ARTIFACTS") or "artifacts").absolute()


class ArtifactRef(BaseModel):
    """Reference to a committed stage output, verified against its files whenever one is made.

    `digest` covers the names and contents of the files, so a key made from it is content-addressed.
    `facts` are counts and measurements for reports; they are in no key and no digest.

    Raises:
        ValueError: (pydantic's) a file is missing or is not what the manifest says.
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

    def read_table(self, name: str, columns: list[str] | None = None, *, memory_map: bool = False) -> pa.Table:
        """Return a Parquet file, or some of its columns, as a table."""
        # pq.read_table goes by way of pyarrow.dataset, which is slow to import and takes three times the processor time
        with pq.ParquetFile(self.path(name), memory_map=memory_map) as file:
            return file.read(columns=columns)

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
    """Reference to input that the store does not own: where it is, and the digest that stands for its content."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    location: str
    kind: str
    digest: str


class _File(BaseModel):
    """What a manifest says of a file."""

    size: int
    sha256: str


class Manifest(BaseModel):
    """What is read back of an output's `manifest.json`."""

    stage: str
    key: str
    digest: str
    files: dict[str, _File]
    facts: dict[str, Any] = {}
    seconds: float = 0.0


def stage_key(stage: str, version: int, inputs: Mapping[str, Any]) -> str:
    """Return the key of an output: 32 hexadecimal digits over stage, version and the content of the inputs."""
    material = {"stage": stage, "version": version, "inputs": {name: _keyed(v) for name, v in inputs.items()}}
    return hashlib.sha256(_canonical(material)).hexdigest()[:32]


def output_directory(stage: str, key: str) -> Path:
    """Return the directory of an output, whether it exists or not."""
    return artifacts_root() / "store" / stage / key


def find_output(stage: str, key: str) -> ArtifactRef | None:
    """Return the committed output of a key, or None when it is absent or damaged."""
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
    """Compare an output's files with its manifest and say what is wrong, if anything."""
    for name, entry in manifest.files.items():
        path = directory / name
        try:
            size = path.stat().st_size
            if size != entry.size:
                return f"{path} is damaged: {size} bytes, expected {entry.size}"
            if file_digest(path) != entry.sha256:
                return f"{path} is damaged: its SHA-256 is not the one in {MANIFEST}"
        except OSError as error:
            return f"{path} cannot be read: {error.strerror}"
    return None


def commit_output(
    stage: str, key: str, write: Callable[[StageOutput], None], *, inputs: Mapping[str, Any] | None = None
) -> tuple[ArtifactRef, bool]:
    """Return the output of a key, computing it with `write` when it is not there.

    One writer per key holds a file lock that dies with its process; others wait and find the work done. The
    files go to a temporary directory on the same file system, are synced, described by a manifest, and the
    directory is renamed into place, so that a kill at any moment leaves all of the output or nothing.

    Returns:
        The verified reference, and whether this call computed it.

    Raises:
        StoreError: the store cannot be written.
    """
    directory = output_directory(stage, key)
    with store_errors(directory):
        directory.parent.mkdir(parents=True, exist_ok=True)
    with file_lock(directory.parent / f".{key}.lock", waiting_for=f"another run to finish {stage}"):
        found = find_output(stage, key)
        scratch = artifacts_root() / "checkpoints" / stage / key
        if found is not None:
            shutil.rmtree(scratch, ignore_errors=True)
            return found, False
        _sweep_temporaries(directory)
        temporary = directory.parent / f".tmp-{key}-{uuid.uuid4().hex[:8]}"
        started = time.perf_counter()
        with store_errors(temporary):
            temporary.mkdir()
        try:
            output = StageOutput(temporary, scratch)
            with store_errors(temporary, only_full=True):
                write(output)
            with store_errors(temporary):
                _write_manifest(stage, key, output, inputs or {}, seconds=time.perf_counter() - started)
                _publish(temporary, directory)
            shutil.rmtree(scratch, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        found = find_output(stage, key)
        if found is None:
            raise StoreError(f"{directory}: the output was damaged while it was being written")
        return found, True


def file_digest(path: Path) -> str:
    """Return the SHA-256 of a file in hexadecimal; unchanged files, renamed or not, are read once per process."""
    status = path.stat()
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    if identity not in _verified:
        with path.open("rb") as file:
            _verified[identity] = hashlib.file_digest(file, "sha256").hexdigest()
    return _verified[identity]


def tree_digest(paths: Mapping[str, Path]) -> str:
    """Return one SHA-256 over named files: their names and contents."""
    return _content_digest({name: file_digest(path) for name, path in paths.items()})


def _keyed(value: Any) -> Any:
    if isinstance(value, ArtifactRef | SourceRef):
        return {"digest": value.digest}
    if hasattr(value, "keyed"):
        return value.keyed()
    return value


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def _read_manifest(directory: Path) -> Manifest | None:
    try:
        manifest = Manifest.model_validate(json.loads((directory / MANIFEST).read_text("utf-8")))
    except (OSError, ValueError):
        return None
    intact = manifest.digest == _content_digest({name: entry.sha256 for name, entry in manifest.files.items()})
    in_place = (manifest.stage, manifest.key) == (directory.parent.name, directory.name)
    return manifest if intact and in_place else None


def _content_digest(files: Mapping[str, str]) -> str:
    return hashlib.sha256(_canonical(files)).hexdigest()


def _write_manifest(stage: str, key: str, output: StageOutput, inputs: Mapping[str, Any], *, seconds: float) -> None:
    files: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="sync") as disk:  # which takes its time while the digests are made
        paths = sorted(output.directory.iterdir())
        synced = disk.map(sync, paths)
        for path in paths:
            files[path.name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
            if path.suffix == ".parquet":
                files[path.name]["rows"] = pq.read_metadata(path).num_rows
        list(synced)  # raises what a sync raised
    manifest = {
        "stage": stage,
        "key": key,
        "digest": _content_digest({name: entry["sha256"] for name, entry in files.items()}),
        "files": files,
        "facts": output.facts,
        "inputs": {name: _keyed(value) for name, value in inputs.items()},
        "seconds": round(seconds, 3),
        "tools": {name: metadata.version(name) for name in _TOOLS},
    }
    output.path(MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sync(output.path(MANIFEST))


def _publish(temporary: Path, directory: Path) -> None:
    sync(temporary)
    if directory.exists():  # damaged, or it would have been found
        directory.rename(temporary.with_name(f"{temporary.name}-damaged"))
    temporary.rename(directory)
    sync(directory.parent)
    _sweep_temporaries(directory)


def _sweep_temporaries(directory: Path) -> None:
    for stale in directory.parent.glob(f".tmp-{directory.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file or a directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
