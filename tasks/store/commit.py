"""Commit a stage output, so that a kill at any moment leaves the whole output or nothing.

Reads nothing; writes `<artifacts>/store/<stage>/<key>/`. The order is: write the files to a temporary directory, sync
them to the disk, write and sync the manifest, sync the temporary directory, rename it, sync its parent directory.
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
from pipeline_config.masking import mask_values
from tasks.store.artifacts import (
    MANIFEST,
    ArtifactRef,
    artifacts_root,
    content_digest,
    file_digest,
    find_output,
    keyed,
    manifest_checksum,
    output_directory,
)
from tasks.store.disk_errors import store_errors
from tasks.store.locks import file_lock
from tasks.store.output import StageOutput
from tasks.store.private_files import make_directory

_TOOLS = ("gloveflow", "torch", "torchtext", "pyarrow", "numpy", "scikit-learn", "safetensors")


def commit_output(
    stage: str, key: str, write: Callable[[StageOutput], None], *, inputs: Mapping[str, Any] | None = None
) -> tuple[ArtifactRef, bool]:
    """Return the output of a key. If the store does not have it, compute it with `write`.

    A writer holds a file lock on the key, which ends with its process. Other writers of the same key wait, and then
    find the output.

    Args:
        stage: name of the stage.
        key: key of the output.
        write: writes the output's files.
        inputs: inputs of the stage, recorded in the manifest for people to read.

    Returns:
        The verified reference, and whether this call computed the output.

    Raises:
        StoreError: the store cannot be written.
    """
    directory = output_directory(stage, key)
    with store_errors(directory):
        make_directory(directory.parent)
    with file_lock(directory.parent / f".{key}.lock", waiting_for=f"another run to finish {stage}"):
        with store_errors(directory):
            found = find_output(stage, key)
        scratch = artifacts_root() / "checkpoints" / stage / key
        if found is not None:
            shutil.rmtree(scratch, ignore_errors=True)
            return found, False
        temporary = directory.parent / f".tmp-{key}-{uuid.uuid4().hex[:8]}"
        started = time.perf_counter()
        with store_errors(temporary):
            _sweep_temporaries(directory)
            temporary.mkdir()
        try:
            output = StageOutput(temporary, scratch)
            with store_errors(temporary, only_exhausted=True):
                write(output)
            with store_errors(temporary):
                _write_manifest(
                    output, stage=stage, key=key, inputs=inputs or {}, seconds=time.perf_counter() - started
                )
                _publish(temporary, directory)
            shutil.rmtree(scratch, ignore_errors=True)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        found = find_output(stage, key)
        if found is None:
            raise StoreError(f"{directory}: the output was damaged while it was being written")
        return found, True


def _write_manifest(output: StageOutput, *, stage: str, key: str, inputs: Mapping[str, Any], seconds: float) -> None:
    """Sync the output's files, and write and sync the manifest that describes them."""
    files: dict[str, dict[str, Any]] = {}
    with ThreadPoolExecutor(1, thread_name_prefix="sync") as disk:  # the disk works while the digests are computed
        paths = sorted(output.directory.iterdir())
        synced = disk.map(sync, paths)
        for path in paths:
            files[path.name] = {"size": path.stat().st_size, "sha256": file_digest(path)}
            if path.suffix == ".parquet":
                files[path.name]["rows"] = pq.read_metadata(path).num_rows
        list(synced)  # waits, and raises the error of a sync
    manifest: dict[str, Any] = {
        "stage": stage,
        "key": key,
        "digest": content_digest({name: entry["sha256"] for name, entry in files.items()}),
        "files": files,
        "facts": output.facts,
        "inputs": mask_values({name: keyed(value) for name, value in inputs.items()}),
        "seconds": round(seconds, 3),
        "tools": {name: metadata.version(name) for name in _TOOLS},
    }
    manifest["checksum"] = manifest_checksum(manifest)
    output.path(MANIFEST).write_text(json.dumps(manifest, indent=1, ensure_ascii=False) + "\n", "utf-8")
    sync(output.path(MANIFEST))


def _publish(temporary: Path, directory: Path) -> None:
    """Rename a complete temporary directory to its final name, with a sync before and after."""
    sync(temporary)
    if directory.exists():  # it is damaged, otherwise it would have been found
        directory.rename(temporary.with_name(f"{temporary.name}-damaged"))
    temporary.rename(directory)
    sync(directory.parent)
    _sweep_temporaries(directory)


def _sweep_temporaries(directory: Path) -> None:
    for stale in directory.parent.glob(f".tmp-{directory.name}-*"):
        shutil.rmtree(stale, ignore_errors=True)


def sync(path: Path) -> None:
    """Wait until a file's content, or a directory's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
