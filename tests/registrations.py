"""Registrations of the small pipeline's model with changes, for tests of the registry."""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.analysis import Analysis
from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.contracts.decision import Decision
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.schemas import DOCUMENTS, DOCUMENTS_FILE, PREDICTIONS_FILE, SPLITS
from pipeline_config.settings import PipelineConfig
from tasks.evaluation.metrics import measure
from tasks.evaluation.prediction_table import tabulate_predictions
from tasks.registry.register_model import Registration, register_model
from tasks.store.artifacts import ArtifactRef
from tasks.store.commit import commit_output
from tasks.store.output import StageOutput
from tasks.tracking.models import find_alias
from tasks.tracking.runs import track_run
from tasks.tracking.server import open_client
from tasks.training.train_classifier import train_classifier

MODEL = "gloveflow-toy"


def gated(config: PipelineConfig, **changes) -> PipelineConfig:
    return config.model_copy(update={"registration": config.registration.model_copy(update=changes)})


def register(
    toy, *, classifier=None, answers=None, evaluation=None, documents=None, baseline=None, config=None
) -> Registration:
    """Register as the pipeline does, with another classifier, answers, corpus, baseline or configuration.

    `answers` is the share of the held-out documents that the classifier gets right.
    """
    if answers is not None:
        evaluation = change_answers(toy, answers)
    config = config or toy.config
    with track_run(config, name="run", tags={}) as run:
        return register_model.fn(
            run,
            classifier=classifier or toy.classifier,
            vocabulary=toy.vocabulary,
            evaluation=evaluation or toy.evaluation,
            documents=documents or toy.documents,
            baseline=baseline or toy.baseline,
            config=config,
        )


def change_answers(toy, right: float, documents: ArtifactRef | None = None) -> ArtifactRef:
    """Commit an evaluation whose classifier gets a share of the test documents right, from the first one on."""
    before = toy.evaluation.read_model(Metrics)
    labels = list(before.test.lstm.classes)
    rows = (documents or toy.documents).read_table(DOCUMENTS_FILE).select(["doc_id", "split", "label"])
    rows = rows.filter(pc.not_equal(rows["split"], "train"))
    truth = np.array([labels.index(label) for label in rows["label"].to_pylist()])
    test = np.flatnonzero(rows["split"].to_numpy() == "test")
    wrong = test[round(right * len(test)) :]
    chosen = truth.copy()
    chosen[wrong] = (truth[wrong] + 1) % len(labels)
    predictions = tabulate_predictions(rows, labels, np.eye(len(labels))[chosen] * 0.7 + 0.1)
    lstm = measure(predictions, labels, "test")
    metrics = before.model_copy(update={"test": before.test.model_copy(update={"lstm": lstm, "hybrid": lstm})})

    def write(output: StageOutput) -> None:
        output.write_model(metrics)
        output.write_model(toy.evaluation.read_model(Analysis))
        output.write_table(PREDICTIONS_FILE, predictions, predictions.schema)

    return commit_output("evaluate_classifier", f"{round(right * 1e6):032x}", write)[0]


def train_another(toy) -> ArtifactRef:
    config = toy.config
    return train_classifier.fn(
        toy.buckets,
        toy.vocabulary,
        toy.embeddings,
        config.embeddings.dim,
        config.bucketing.batch_size,
        config.model,
        config.training.model_copy(update={"epochs": 1}),
        config.seed + 1,
    )


def change_documents(toy, change, splits=SPLITS) -> ArtifactRef:
    """Commit documents of which `change` has replaced the labels, in some splits."""
    rows = [
        {**row, "label": change(row["label"])} if row["split"] in splits else row
        for row in toy.documents.read_table(DOCUMENTS_FILE).to_pylist()
    ]
    return commit_documents(toy, rows, "f" * 32)


def commit_documents(toy, rows: list[dict], key: str) -> ArtifactRef:
    """Commit documents, with the profile of the small pipeline's."""

    def write(output: StageOutput) -> None:
        output.write_table(DOCUMENTS_FILE, pa.Table.from_pylist(rows, schema=DOCUMENTS), DOCUMENTS)
        output.write_model(toy.documents.read_model(CorpusProfile))

    return commit_output("ingest_corpus", key, write)[0]


def versions() -> list[int]:
    return sorted(int(v.version) for v in open_client().search_model_versions(f"name = '{MODEL}'"))


def alias(name: str) -> str:
    return str(find_alias(MODEL, name).version)


def add_versions(number: str, *, copies: int) -> None:
    """Register the files of a version again, as further versions with the same tags but the record of changes."""
    client = open_client()
    version = client.get_model_version(MODEL, number)
    tags = {key: value for key, value in version.tags.items() if key != "gloveflow.changes"}
    for _ in range(copies):
        client.create_model_version(
            MODEL, version.source, version.run_id, tags=tags, model_id=str(version.source).rpartition("/")[2]
        )


def model_folder(number: str, name: str = MODEL) -> Path:
    """Return the directory of the files of a version."""
    uri = open_client().get_model_version_download_uri(name, number)
    return Path(url2pathname(urlsplit(uri).path))


def damage(number: str) -> Path:
    """Change a byte of the weights of a version, and return the file."""
    path = model_folder(number) / "artifacts" / "bundle" / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    return path


def made_decision(*, promoted: bool, reason: str) -> Decision:
    """Return a decision without rules."""
    return Decision(
        version="3",
        champion=None,
        promoted=promoted,
        comparable=True,
        outcome=None,
        reason=reason,
        rules=(),
        documents=24,
        seen=0,
        look=1,
        alpha=0.05,
        detectable=None,
    )
