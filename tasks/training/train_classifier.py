"""Stage `train_classifier`: train the network on the buckets and keep the best epoch's weights.

Reads the buckets and, if there are pre-trained vectors, the aligned matrix. Writes the weights (safetensors), a
description of the model (JSON) and the history per epoch and per step. Times and speeds are facts, not in a file, so
that the same configuration and seed give the same files. The loop is in `tasks.training.fitting`.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task

from pipeline_config.contracts.batches import BucketsDescription
from pipeline_config.contracts.training import Architecture, ModelDescription
from pipeline_config.errors import GloveflowError
from pipeline_config.schemas import (
    EPOCHS,
    EPOCHS_FILE,
    LAST_WEIGHTS_FILE,
    PADDING_IDX,
    STEPS,
    STEPS_FILE,
    UNK_IDX,
    WEIGHTS_FILE,
)
from pipeline_config.settings import ModelConfig, TrainingConfig
from tasks.batches.bucket_corpus import read_labels
from tasks.batches.encoded_split import load_split
from tasks.embeddings.align_embeddings import read_matrix
from tasks.store.artifacts import ArtifactRef
from tasks.store.output import StageOutput
from tasks.store.stage import stage
from tasks.tokens.vocabulary import Vocabulary, check_vocabulary
from tasks.tracking.metrics import MetricStream
from tasks.tracking.runs import log_tags_if_possible

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from tasks.served.network import TextClassifier
    from tasks.training.checkpoints import Checkpoints
    from tasks.training.history import History

_HEADLINES = ("validation_macro_f1", "validation_accuracy")


def is_worth_a_retry(_task: Task[..., Any], _run: TaskRun, state: State[Any]) -> bool:
    """Return whether a failed training may succeed if it resumes from its checkpoint: not after an error of ours."""
    return not isinstance(state.result(raise_on_failure=False), GloveflowError)


def check_machine(training: TrainingConfig) -> None:
    """Check that this machine has the device and the precision that a configuration requires.

    Called before anything is computed. It imports torch only if the answer depends on the machine.

    Raises:
        ConfigError: the machine lacks one of them.
    """
    if training.device == "cuda" or training.precision in ("tf32", "bf16"):
        from tasks.training.device import pick_device, set_precision

        set_precision(training.precision, pick_device(training.device))


@stage(version=7, unkeyed=("run_id",), retries=1, retry_delay_seconds=5, retry_condition_fn=is_worth_a_retry)
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
    """Write the best epoch's weights, the last weights, the model description and the history.

    Without `embeddings` the embedding layer starts with random weights and is trained. Metrics are logged to the MLflow
    run `run_id` during training. A training that was killed or stopped resumes from its last checkpoint.

    Raises:
        TrainingError: the loss or a gradient is not finite, or there is a checkpoint of another machine.
        ConfigError: this machine lacks the device or the precision.
        InputError: buckets, matrix and vocabulary do not belong together.
    """
    from tasks.runtime.torch_thread import run_in_torch_thread  # not at the top: cached stages need no torch
    from tasks.training.device import pick_device
    from tasks.training.fitting import fit

    labels, tokens = read_labels(buckets), Vocabulary.read(vocabulary)
    check_vocabulary(tokens, buckets.read_model(BucketsDescription).vocabulary_digest, where=str(buckets.directory))
    architecture = describe_architecture(
        model, num_embeddings=len(tokens), embedding_dim=embedding_dim, num_classes=len(labels)
    )
    matrix = read_matrix(embeddings, tokens) if embeddings else None
    device = pick_device(training.device)

    def train() -> "tuple[TextClassifier, History, dict[str, Tensor], Checkpoints]":
        network = make_network(architecture, matrix, freeze=model.freeze_embeddings, seed=seed).to(device)
        checkpoints = _open_checkpoints(output, training, device)
        splits = load_split(buckets, "train"), load_split(buckets, "validation")
        history, last = fit(
            network, *splits, config=training, batch_size=batch_size, seed=seed, on_metrics=stream.log,
            checkpoints=checkpoints,
        )  # fmt: skip
        return network, history, last, checkpoints

    with MetricStream(run_id) as stream:
        network, history, last, checkpoints = run_in_torch_thread(train, threads=training.threads)
    output.write_model(ModelDescription(architecture=architecture, labels=tuple(labels), best_epoch=history.best_epoch))
    _write_training(output, history, {WEIGHTS_FILE: network.state_dict(), LAST_WEIGHTS_FILE: last})
    output.facts.update(parameters=sum(weight.numel() for weight in network.parameters()), device=str(device))
    _record_machines(output, checkpoints, run_id)


def make_network(architecture: Architecture, matrix: np.ndarray | None, *, freeze: bool, seed: int) -> "TextClassifier":
    """Return a network with random weights drawn from a seed, and the vectors float32[V, E] of a matrix, if given."""
    import torch

    from tasks.served.network import TextClassifier

    with torch.random.fork_rng():
        vectors = None if matrix is None else torch.tensor(matrix)
        network = TextClassifier(**architecture.model_dump(), embeddings=vectors, freeze_embeddings=freeze)
    network.reset_weights(torch.Generator().manual_seed(seed))
    return network


def describe_architecture(
    model: ModelConfig, *, num_embeddings: int, embedding_dim: int, num_classes: int
) -> Architecture:
    """Return the arguments that build the network."""
    return Architecture(
        num_embeddings=num_embeddings,
        embedding_dim=embedding_dim,
        num_classes=num_classes,
        padding_idx=PADDING_IDX,
        unk_idx=UNK_IDX,
        **model.model_dump(exclude={"freeze_embeddings"}),
    )


def _open_checkpoints(output: StageOutput, training: TrainingConfig, device: "torch.device") -> "Checkpoints":
    """Return the checkpoints of this output. Called in the torch thread, whose number of threads they record."""
    from tasks.training.checkpoints import Checkpoints
    from tasks.training.reproducibility import describe_machine

    return Checkpoints(
        output.scratch,
        describe_machine(device),
        every_steps=training.checkpoint_steps,
        every_minutes=training.checkpoint_minutes,
        accept_others=training.resume_elsewhere,
    )


def _record_machines(output: StageOutput, checkpoints: "Checkpoints", run_id: str | None) -> None:
    """Write the machine and any earlier ones to the facts; tag the MLflow run if there were earlier ones."""
    output.facts.update(machine=checkpoints.machine, resumed_from_machines=checkpoints.machines)
    if checkpoints.machines and run_id:
        log_tags_if_possible(run_id, {"gloveflow.resumed_elsewhere": json.dumps(checkpoints.machines)[:4000]})


def _write_training(output: StageOutput, history: "History", weights: "Mapping[str, Mapping[str, Tensor]]") -> None:
    """Write weights by file name, the history, and the facts about both."""
    from safetensors.torch import save

    for name, tensors in weights.items():
        contiguous = {key: tensor.contiguous().cpu() for key, tensor in tensors.items()}
        output.path(name).write_bytes(save(contiguous))  # save_file does not raise OSError when the disk is full
    output.write_table(EPOCHS_FILE, _columns(history.epochs, EPOCHS), EPOCHS)
    output.write_table(STEPS_FILE, _columns(history.steps, STEPS), STEPS)
    output.facts.update(
        epochs=len(history.epochs),
        best_epoch=history.best_epoch,
        **{key: value for key, value in history.epochs[history.best_epoch - 1].items() if key in _HEADLINES},
        tokens_per_second=history.tokens_per_second,
        training_seconds=history.seconds,
    )


def _columns(rows: list[dict[str, float]], schema: pa.Schema) -> pa.Table:
    return pa.table([pa.array([row[f.name] for row in rows], f.type) for f in schema], schema=schema)
