"""Stage `train_classifier`: train the network on the buckets and keep the best epoch's weights.

Reads the buckets and, when there are pre-trained vectors, the aligned matrix. Writes the weights
(safetensors), a description of the model (JSON) and the history per epoch and per step. Wall-clock figures go
to the facts, so that the same configuration and seed give the same files. The loop is in `tasks.fitting`.
"""

from typing import Any

import pyarrow as pa

from pipeline_config.schemas import (
    EPOCHS,
    EPOCHS_FILE,
    MODEL_FILE,
    PADDING_FILE,
    PADDING_IDX,
    STEPS,
    STEPS_FILE,
    WEIGHTS_FILE,
)
from pipeline_config.settings import ModelConfig, TrainingConfig
from tasks.bucketing import load_split, read_labels
from tasks.embeddings import read_matrix
from tasks.stage import stage
from tasks.store import ArtifactRef, StageOutput
from tasks.tracking import MetricStream
from tasks.vocabulary import Vocabulary, check_vocabulary


@stage(version=2, unkeyed=("run_id",))
def train_classifier(
    output: StageOutput,
    buckets: ArtifactRef,
    vocabulary: ArtifactRef,
    embeddings: ArtifactRef | None,
    embedding_dim: int,
    batch_size: int,
    model: ModelConfig,
    training: TrainingConfig,
    seed: int,
    run_id: str | None = None,
) -> None:
    """Write the best epoch's weights, the model description and the history.

    Without `embeddings` the embedding layer starts fresh and is trained. Metrics go to the MLflow run `run_id`
    while training goes on.

    Raises:
        TrainingError: the loss or a gradient is not finite.
        InputError: buckets, matrix and vocabulary do not belong together.
    """
    import torch  # here, because a run whose stages are all cached needs no torch
    from safetensors.torch import save

    from tasks.fitting import fit, pick_device, seeded
    from tasks.network import TextClassifier

    labels = read_labels(buckets)
    known = Vocabulary.read(vocabulary)
    check_vocabulary(known, buckets.read_json(PADDING_FILE)["vocabulary"], where=str(buckets.directory))
    architecture = describe_architecture(model, len(known), embedding_dim, len(labels))
    matrix = read_matrix(embeddings, known) if embeddings else None
    with seeded(seed, training.threads), MetricStream(run_id) as stream:
        network = TextClassifier(
            **architecture,
            embeddings=None if matrix is None else torch.tensor(matrix),
            freeze_embeddings=model.freeze_embeddings,
        ).to(pick_device(training.device))
        history = fit(
            network, load_split(buckets, "train"), load_split(buckets, "validation"),
            config=training, batch_size=batch_size, seed=seed, on_metrics=stream.log,
        )  # fmt: skip
    weights = {name: weight.contiguous().cpu() for name, weight in network.state_dict().items()}
    output.path(WEIGHTS_FILE).write_bytes(save(weights))  # save_file has an error of its own for a full disk
    output.write_json(MODEL_FILE, {"architecture": architecture, "labels": labels, "best_epoch": history.best_epoch})
    output.write_table(EPOCHS_FILE, _columns(history.epochs, EPOCHS), EPOCHS)
    output.write_table(STEPS_FILE, _columns(history.steps, STEPS), STEPS)
    output.facts.update(
        epochs=len(history.epochs), best_epoch=history.best_epoch, validation_macro_f1=history.best_macro_f1,
        tokens_per_second=history.tokens / max(history.seconds, 1e-9), training_seconds=history.seconds,
        parameters=sum(weight.numel() for weight in network.parameters()),
        device=str(next(network.parameters()).device),
    )  # fmt: skip


def describe_architecture(
    model: ModelConfig, vocabulary_size: int, embedding_dim: int, num_classes: int
) -> dict[str, Any]:
    """Return the arguments that build the network, as JSON values."""
    return {
        "num_embeddings": vocabulary_size, "embedding_dim": embedding_dim, "num_classes": num_classes,
        "padding_idx": PADDING_IDX, **model.model_dump(exclude={"freeze_embeddings"}),
    }  # fmt: skip


def _columns(rows: list[dict[str, float]], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array([row[f.name] for row in rows], f.type) for f in schema], schema=schema)
