"""Commit a stage output: written to one side, synced, described by a manifest, and renamed into place.

A kill at any moment leaves all of an output or nothing of it.
"""

import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from pipeline_config.errors import StoreError
from tasks.store.artifacts import (
    MANIFEST,
    ArtifactRef,
    artifacts_root,
    content_digest,
    file_digest,
    find_output,
    keyed,
    output_directory,
)
from tasks.store.disk_errors import store_errors
from tasks.store.locks import file_lock
from tasks.store.output import StageOutput

_TOOLS = ("gloveflow", "torch", "torchtext", "pyarrow", "numpy", "scikit-learn", "safetensors")


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
        "digest": content_digest({name: entry["sha256"] for name, entry in files.items()}),
        "files": files,
        "facts": output.facts,
        "inputs": {name: keyed(value) for name, value in inputs.items()},
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
