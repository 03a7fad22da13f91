"""Registrations of the small pipeline's model with changes, for tests of the registry."""

from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import pyarrow as pa

from pipeline_config.contracts.analysis import Analysis
from pipeline_config.contracts.evaluation import Metrics
from pipeline_config.schemas import DOCUMENTS, DOCUMENTS_FILE, SPLITS
from pipeline_config.settings import PipelineConfig
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


def register(toy, *, classifier=None, macro_f1=None, evaluation=None, documents=None, config=None) -> Registration:
    """Register as the pipeline does, with another classifier, test score, corpus or configuration."""
    if macro_f1 is not None:
        evaluation = change_macro_f1(toy, macro_f1)
    config = config or toy.config
    with track_run(config, name="run", tags={}) as run:
        return register_model.fn(
            run,
            classifier=classifier or toy.classifier,
            vocabulary=toy.vocabulary,
            evaluation=evaluation or toy.evaluation,
            documents=documents or toy.documents,
            config=config,
        )


def change_macro_f1(toy, macro_f1: float) -> ArtifactRef:
    """Commit an evaluation in which the LSTM has another macro F1 on the test split."""
    metrics = toy.evaluation.read_model(Metrics)
    lstm = metrics.test.lstm.model_copy(update={"macro_f1": macro_f1})
    changed = metrics.model_copy(update={"test": metrics.test.model_copy(update={"lstm": lstm})})
    key = f"{round(macro_f1 * 1e6):032x}"
    analysis = toy.evaluation.read_model(Analysis)

    def write(output: StageOutput) -> None:
        output.write_model(changed)
        output.write_model(analysis)

    return commit_output("evaluate_classifier", key, write)[0]


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
    table = pa.Table.from_pylist(rows, schema=DOCUMENTS)
    return commit_output(
        "ingest_corpus", "f" * 32, lambda output: output.write_table(DOCUMENTS_FILE, table, DOCUMENTS)
    )[0]


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
