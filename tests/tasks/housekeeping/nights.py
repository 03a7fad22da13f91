"""A night of a scheduled pipeline without a training: outputs, an MLflow run with a logged model, a version."""

import tempfile
from pathlib import Path
from typing import NamedTuple

from tasks.housekeeping.files import find_files, find_outputs, find_reports
from tasks.housekeeping.records import search_records
from tasks.housekeeping.selection import Item, Limits, begin
from tasks.store.artifacts import ArtifactRef
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tasks.tracking import models, runs
from tasks.tracking.model_files import write_files_tag
from tasks.tracking.server import open_client
from tasks.tracking.version_list import EVALUATION_TAG, RUN_TAG

MODEL = "gloveflow-tiny"
SIZE = 40_000  # bytes of the documents of a night


class Night(NamedTuple):
    """What a night made."""

    run_id: str
    version: str
    outputs: dict[str, ArtifactRef]


def play_night(number: int) -> Night:
    """Play the run of a night: the same vectors as ever, other documents than the night before."""
    outputs = {
        stage: _commit(stage, key, size)
        for stage, key, size in (
            ("download_glove", "a" * 32, 10),
            ("ingest_corpus", f"{number:032x}", SIZE),
            ("evaluate_classifier", f"{number:032x}", 10),
        )
    }
    with runs.open_run("gloveflow/tiny", name=f"night {number}", tags={"prefect.flow_run_id": str(number)}) as run:
        keys = {stage: output.model_dump(include={"key", "digest"}) for stage, output in outputs.items()}
        runs.log_json(run.run_id, keys, "reports/outputs.json")
        client = open_client()
        logged = client.create_logged_model(
            run.experiment_id, name="classifier", source_run_id=run.run_id, tags={models.DIGEST_TAG: str(number)}
        )
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "weights").write_bytes(bytes([number]) * 1000)
            files = write_files_tag(Path(folder))
            client.log_model_artifacts(logged.model_id, folder)
        client.finalize_logged_model(logged.model_id, "READY")
        evaluation = outputs["evaluate_classifier"]
        tags = {
            models.DIGEST_TAG: str(number),
            RUN_TAG: run.run_id,
            EVALUATION_TAG: f"{evaluation.key} {evaluation.digest}",
        }
        version = models.register_version(
            MODEL, run, models.LoggedFiles(str(logged.model_id), files), tags=tags, description="a night"
        )
    models.set_alias(MODEL, "challenger", str(version.version))
    return Night(run.run_id, str(version.version), outputs)


def _commit(stage: str, key: str, size: int) -> ArtifactRef:
    def write(output: StageOutput) -> None:
        output.path("data").write_bytes(bytes(size))

    return commit_output(stage, key, write)[0]


def search(root: Path, limits: Limits) -> list[Item]:
    """Return what `gloveflow gc` finds, but flow runs."""
    records = search_records(limits, delete=True)
    outputs = find_outputs(root, limits, records.outputs)
    return [*records.items, *outputs, *find_files(root, limits), *find_reports(root, limits, records.versions)]


def collect(root: Path, *, keep: int = 0, seconds: float = 0) -> list[str]:
    """Delete as `gloveflow gc` does, two minutes later; return the kinds of what was deleted."""
    limits = begin(keep, seconds)
    limits = limits._replace(now=limits.now + 120)
    return [item.kind for item in search(root, limits) if item.remove and item.remove()]


def store_keys(root: Path, stage: str) -> list[str]:
    """Return the keys of the outputs of a stage, as numbers of nights."""
    return sorted(path.name.lstrip("0") for path in (root / "store" / stage).glob("[0-9a-f]*"))
