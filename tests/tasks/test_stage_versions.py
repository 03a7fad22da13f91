"""A guard for stage versions: what a stage writes on a fixed small input is written down beside its version.

A cached output is found by its stage's version and inputs. So a change of the code that changes an output has to come
with a new version, or old outputs pass for new ones. `stage_outputs.json` holds, for every file of every stage, a digest
of each column of whole numbers or texts, and count, mean and mean size of each column of other numbers, since their last
bits depend on the processor.
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import load_file

from tasks.batches.bucket_corpus import bucket_corpus
from tasks.corpus.ingest_corpus import ingest_corpus
from tasks.embeddings.align_embeddings import align_embeddings
from tasks.evaluation.evaluate_classifier import evaluate_classifier
from tasks.store.artifacts import MANIFEST
from tasks.tokens.build_vocabulary import build_vocabulary
from tasks.tokens.tokenize_corpus import tokenize_corpus
from tasks.training.train_baseline import train_baseline
from tasks.training.train_classifier import train_classifier
from tasks.vectors.download_glove import download_glove

RECORD = Path(__file__).with_name("stage_outputs.json")
RENEW = "GLOVEFLOW_RENEW_STAGE_OUTPUTS"
STAGES = {
    task.name: task
    for task in (
        download_glove,
        ingest_corpus,
        tokenize_corpus,
        build_vocabulary,
        align_embeddings,
        bucket_corpus,
        train_baseline,
        train_classifier,
        evaluate_classifier,
    )
}


@pytest.mark.parametrize("stage", STAGES)
def test_an_output_changes_with_its_version_alone(stage: str, toy_root: tuple[Path, Any]) -> None:
    (directory,) = (path for path in (toy_root[0] / "store" / stage).iterdir() if path.is_dir())
    found = {"version": int(STAGES[stage].version), "files": describe_files(directory)}
    record = json.loads(RECORD.read_text("utf-8")) if RECORD.exists() else {}
    written = record.get(stage, {"version": None, "files": {}})
    differences = find_differences(written["files"], found["files"])
    if os.environ.get(RENEW) and (found["version"] != written["version"]):
        record[stage] = found
        RECORD.write_text(json.dumps(record, indent=1, sort_keys=True, ensure_ascii=False) + "\n", "utf-8")
        return
    assert found["version"] == written["version"], (
        f"{stage} has version {found['version']}, {RECORD.name} has {written['version']}: run this file once with {RENEW}=1"
    )
    assert not differences, (
        f"the output of {stage} changed, its version did not. If the change is meant, raise the version in "
        f"@stage(version={found['version']}) and run this file once with {RENEW}=1. Changed: {', '.join(differences)}"
    )


def test_a_changed_number_and_a_changed_text_are_seen(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"share": 0.5, "label": "x", "counts": [1, 2]}')
    before = describe_files(tmp_path)
    assert find_differences(before, before) == []
    (tmp_path / "a.json").write_text('{"share": 0.50001, "label": "x", "counts": [1, 2]}')
    assert find_differences(before, describe_files(tmp_path)) == []
    for text in (
        '{"share": 0.6, "label": "x", "counts": [1, 2]}',
        '{"share": 0.5, "label": "y", "counts": [1, 2]}',
        '{"share": 0.5, "label": "x", "counts": [1, 3]}',
        '{"share": 0.5, "label": "x"}',
    ):
        (tmp_path / "a.json").write_text(text)
        assert find_differences(before, describe_files(tmp_path)), text


def describe_files(directory: Path) -> dict[str, Any]:
    """Return what is compared of each file of an output, by `file: part`."""
    parts: dict[str, Any] = {}
    for path in sorted(directory.iterdir()):
        if path.name == MANIFEST:
            continue
        for name, values in read_parts(path).items():
            parts[f"{path.name}: {name}"] = summarize(values)
    return parts


def read_parts(path: Path) -> dict[str, Any]:
    """Return a file's columns, tensors or JSON values by name; of pages and pictures only that they are there."""
    if path.suffix == ".json":
        return flatten(json.loads(path.read_text("utf-8")))
    if path.suffix == ".safetensors":
        return dict(load_file(path))
    if path.suffix in (".parquet", ".arrow"):
        table = pa.parquet.read_table(path) if path.suffix == ".parquet" else pa.ipc.open_file(path).read_all()
        return {f"{field.name} {field.type}": table[field.name] for field in table.schema}
    return {"exists": True}


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of a JSON value by their path; `*` stands for all members of a list, whose leaves are joined."""
    if isinstance(value, dict) and value:
        return {k: v for key, inner in value.items() for k, v in flatten(inner, f"{name}/{key}").items()}
    if isinstance(value, list) and any(isinstance(inner, dict | list) for inner in value):
        joined: dict[str, Any] = {}
        for inner in value:
            for key, leaf in flatten(inner, f"{name}/*").items():
                joined.setdefault(key, []).extend(leaf if isinstance(leaf, list) else [leaf])
        return joined
    return {name: value}


def summarize(values: Any) -> Any:
    """Return a digest of whole numbers and texts, and [count, mean, mean size] of other numbers."""
    if isinstance(values, pa.ChunkedArray):
        array = values.combine_chunks()
        while (
            pa.types.is_list(array.type)
            or pa.types.is_large_list(array.type)
            or pa.types.is_fixed_size_list(array.type)
        ):
            array = array.flatten()
        values = array.to_numpy(zero_copy_only=False) if pa.types.is_floating(array.type) else array.to_pylist()
    numbers = np.asarray(values) if isinstance(values, np.ndarray | float) else None
    if numbers is not None and numbers.dtype.kind == "f":
        return (
            [int(numbers.size), float(numbers.mean()), float(np.abs(numbers).mean())] if numbers.size else [0, 0.0, 0.0]
        )
    plain = values.tolist() if isinstance(values, np.ndarray) else values
    if isinstance(plain, list) and any(isinstance(value, float) for value in plain):
        return summarize(np.array([-1.0 if value is None else value for value in plain], float))
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False, sort_keys=True).encode()).hexdigest()[:16]


def find_differences(written: dict[str, Any], found: dict[str, Any]) -> list[str]:
    """Return the names of parts that are new, gone or different; numbers may differ by a thousandth."""
    names = sorted(written.keys() | found.keys())
    return [name for name in names if not is_same(written.get(name), found.get(name))]


def is_same(written: Any, found: Any) -> bool:
    """Compare two summaries."""
    if isinstance(written, list) and isinstance(found, list):
        return found == pytest.approx(written, rel=1e-3, abs=1e-4)
    return bool(written == found)
