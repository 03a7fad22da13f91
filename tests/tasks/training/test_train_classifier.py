import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from prefect.states import Failed
from prefect.testing.utilities import prefect_test_harness
from safetensors.torch import load_file

from pipeline_config.contracts.training import ModelDescription
from pipeline_config.errors import ConfigError, TrainingError
from pipeline_config.schemas import (
    EMBEDDINGS_FILE,
    EPOCHS,
    EPOCHS_FILE,
    LAST_WEIGHTS_FILE,
    STEPS,
    STEPS_FILE,
    WEIGHTS_FILE,
)
from tasks.runtime.arrow import as_matrix
from tasks.runtime.cancellation import WorkStopped, allow_work, stop_work
from tasks.store.artifacts import ArtifactRef, artifacts_root
from tasks.training import reproducibility
from tasks.training.checkpoints import CHECKPOINT, Checkpoints
from tasks.training.train_classifier import is_worth_a_retry, train_classifier


def train(toy, *, model=None, training=None, seed=None, embeddings="as in the run", run_id=None) -> ArtifactRef:
    """Train on the small corpus as its run did, with changes."""
    config = toy.config
    return train_classifier.fn(
        toy.buckets,
        toy.vocabulary,
        toy.embeddings if embeddings == "as in the run" else embeddings,
        config.embeddings.dim,
        config.bucketing.batch_size,
        config.model.model_copy(update=model or {}),
        config.training.model_copy(update=training or {}),
        config.seed if seed is None else seed,
        run_id=run_id,
    )


def forget(output: ArtifactRef) -> None:
    """Remove an output from the test's own store, so that it is computed again."""
    shutil.rmtree(output.directory)


def weights(output: ArtifactRef) -> dict[str, torch.Tensor]:
    return load_file(output.path(WEIGHTS_FILE))


def vectors(toy) -> torch.Tensor:
    return torch.tensor(as_matrix(toy.embeddings.read_table(EMBEDDINGS_FILE)["vector"]))


class TestReproducibility:
    def test_the_same_seed_gives_the_same_files_whatever_used_torch_before(self, toy):
        first = toy.classifier.path(WEIGHTS_FILE).read_bytes()
        forget(toy.classifier)
        torch.manual_seed(999)
        torch.rand(100)
        again = train(toy)
        assert again.key == toy.classifier.key
        assert again.path(WEIGHTS_FILE).read_bytes() == first
        assert again.digest == toy.classifier.digest  # of all files: history and description too

    def test_another_seed_gives_other_weights(self, toy):
        other = train(toy, seed=toy.config.seed + 1)
        assert other.digest != toy.classifier.digest
        assert not torch.equal(weights(other)["linear.weight"], weights(toy.classifier)["linear.weight"])

    def test_generator_and_thread_count_are_restored(self, toy):
        forget(toy.classifier)
        before, threads = torch.random.get_rng_state(), torch.get_num_threads()
        train(toy, training={"epochs": 1, "threads": threads + 1})
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.get_num_threads() == threads

    def test_the_mlflow_run_is_not_part_of_the_key(self, toy):
        assert train(toy, run_id="no such run").key == toy.classifier.key  # found, so nothing is logged


class TestOutput:
    def test_description_rebuilds_the_network(self, toy):
        description = toy.classifier.read_model(ModelDescription)
        assert description.labels == ("food", "météo", "sport")
        assert description.architecture.model_dump() == {
            "num_embeddings": toy.vocabulary.facts["vocabulary_size"], "embedding_dim": 8, "num_classes": 3,
            "padding_idx": 0, "hidden_size": 6, "num_layers": 1, "bidirectional": True, "pooling": "mean_max",
            "dropout": 0.2, "embedding_dropout": 0.5, "word_dropout": 0.0, "recurrent_dropout": 0.0, "layer_norm": False,
            "pool_embeddings": False, "bigram_buckets": 0, "unk_idx": 1,
        }  # fmt: skip
        assert 1 <= description.best_epoch <= 3

    def test_history_has_a_row_per_epoch_and_per_logged_step(self, toy):
        epochs, steps = (toy.classifier.read_table(name) for name in (EPOCHS_FILE, STEPS_FILE))
        assert (epochs.schema, steps.schema) == (EPOCHS, STEPS)
        assert epochs["step"].to_pylist() == [9, 18, 27]  # 72 documents in batches of 8
        assert steps["step"].to_pylist() == list(range(2, 27, 2))

    def test_best_and_last_weights_are_kept(self, toy):
        files = [toy.classifier.path(name).read_bytes() for name in (WEIGHTS_FILE, LAST_WEIGHTS_FILE)]
        best_is_last = toy.classifier.read_model(ModelDescription).best_epoch == 3
        assert (files[0] == files[1]) is best_is_last
        assert load_file(toy.classifier.path(LAST_WEIGHTS_FILE)).keys() == weights(toy.classifier).keys()

    def test_best_epoch_is_the_one_with_the_best_macro_f1(self, toy):
        scores = toy.classifier.read_table(EPOCHS_FILE)["validation_macro_f1"].to_pylist()
        assert toy.classifier.read_model(ModelDescription).best_epoch == 1 + int(np.argmax(scores))
        assert toy.classifier.facts["validation_macro_f1"] == max(scores)

    def test_times_and_speeds_are_facts_and_in_no_file(self, toy):
        assert toy.classifier.facts["training_seconds"] > 0
        assert toy.classifier.facts["tokens_per_second"] > 0
        names = {name for file in (EPOCHS_FILE, STEPS_FILE) for name in pq.read_schema(toy.classifier.path(file)).names}
        assert not {name for name in names if "second" in name or "time" in name}

    def test_number_of_parameters_is_that_of_the_weights(self, toy):
        assert toy.classifier.facts["parameters"] == sum(w.numel() for w in weights(toy.classifier).values())


class TestEmbeddings:
    def test_pretrained_vectors_are_trained_on_and_padding_stays_zero(self, toy):
        trained = weights(toy.classifier)["embedding.weight"]
        assert trained.shape == vectors(toy).shape
        assert not torch.equal(trained, vectors(toy))
        assert torch.equal(trained[0], torch.zeros(8))

    def test_frozen_vectors_stay_as_they_are(self, toy):
        frozen = train(toy, model={"freeze_embeddings": True}, training={"epochs": 1})
        assert torch.equal(weights(frozen)["embedding.weight"], vectors(toy))

    def test_without_vectors_a_fresh_layer_is_trained(self, toy):
        rows = {
            epochs: weights(
                train(toy, embeddings=None, model={"freeze_embeddings": True}, training={"epochs": epochs})
            )["embedding.weight"]
            for epochs in (1, 2)
        }
        assert rows[1].shape == vectors(toy).shape
        assert not torch.allclose(rows[1], vectors(toy), atol=0.1)
        assert not torch.equal(rows[1], rows[2])
        assert torch.equal(rows[1][0], torch.zeros(8))


class TestFailure:
    @pytest.fixture(autouse=True)
    def _untrained(self, toy):
        forget(toy.classifier)

    @staticmethod
    def outputs() -> list[Path]:
        return [path for path in (artifacts_root() / "store" / "train_classifier").iterdir() if path.is_dir()]

    def test_cuda_that_is_not_there_is_an_error_and_leaves_nothing(self, toy, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ConfigError, match=r"training\.device: got cuda"):
            train(toy, training={"device": "cuda"})
        assert self.outputs() == []

    def test_a_stopped_training_leaves_nothing_and_can_be_repeated(self, toy):
        stop_work()
        try:
            with pytest.raises(WorkStopped):
                train(toy)
        finally:
            allow_work()
        assert self.outputs() == []
        assert checkpoint_of(toy.classifier).exists()
        assert train(toy).digest == toy.classifier.digest


def checkpoint_of(output: ArtifactRef) -> Path:
    return artifacts_root() / "checkpoints" / "train_classifier" / output.key / CHECKPOINT


# Python that trains on the store it is pointed to and is killed after the tenth step.
KILLED_TRAINING = """
import os, signal, sys
from pipeline_config.settings import PipelineConfig
from tasks.training.checkpoints import Checkpoints
from tasks.store.artifacts import ArtifactRef
from tasks.training.train_classifier import train_classifier

is_due = Checkpoints.is_due
Checkpoints.is_due = lambda self, step: os.kill(os.getpid(), signal.SIGKILL) if step == 10 else is_due(self, step)
config = PipelineConfig.model_validate_json(sys.argv[1])
references = [ArtifactRef.model_validate_json(text) for text in sys.argv[2:]]
train_classifier.fn(
    *references, config.embeddings.dim, config.bucketing.batch_size, config.model, config.training, config.seed
)
"""


class TestResume:
    @pytest.fixture(autouse=True)
    def _untrained(self, toy):
        forget(toy.classifier)

    @pytest.fixture
    def interrupted(self, toy, monkeypatch) -> Path:
        """The checkpoint of a training that an error ended after step 10."""

        def fail_at_ten(self, step):
            if step == 10:
                raise RuntimeError("a transient error")
            return is_due(self, step)

        is_due = Checkpoints.is_due
        with monkeypatch.context() as patch:
            patch.setattr(Checkpoints, "is_due", fail_at_ten)
            with pytest.raises(RuntimeError, match="a transient error"):
                train(toy, training={"checkpoint_steps": 4})
        return checkpoint_of(toy.classifier)

    def test_a_killed_process_leaves_a_checkpoint_from_which_the_next_one_ends_with_the_same_files(self, toy, caplog):
        config = toy.config.model_copy(
            update={"training": toy.config.training.model_copy(update={"checkpoint_steps": 4})}
        )
        inputs = [config, toy.buckets, toy.vocabulary, toy.embeddings]
        killed = subprocess.run(
            [sys.executable, "-c", KILLED_TRAINING, *(value.model_dump_json() for value in inputs)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            timeout=120,
        )
        assert killed.returncode == -signal.SIGKILL
        assert checkpoint_of(toy.classifier).exists()
        with caplog.at_level(logging.INFO):
            again = train(toy)
        assert "training resumes after step 8 of 27" in caplog.text
        assert again.digest == toy.classifier.digest
        assert not checkpoint_of(toy.classifier).parent.exists()

    @pytest.mark.usefixtures("interrupted")
    def test_settings_of_checkpoints_are_not_part_of_the_key(self, toy):
        other = {"checkpoint_steps": None, "checkpoint_minutes": None, "resume_elsewhere": True}
        assert train(toy, training=other).key == toy.classifier.key

    @pytest.mark.usefixtures("interrupted")
    def test_a_checkpoint_of_another_machine_is_refused_unless_allowed_and_is_then_reported(self, toy, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(reproducibility, "describe_processor", lambda: "another processor")
            with pytest.raises(TrainingError, match=r"made on another machine \(cpu: .*another processor"):
                train(toy)
            output = train(toy, training={"resume_elsewhere": True})
        assert output.digest == toy.classifier.digest  # here the numbers are the same ones
        (first,) = output.facts["resumed_from_machines"]
        assert first["cpu"] != "another processor"
        assert output.facts["machine"]["cpu"] == "another processor"

    def test_an_unbroken_training_names_only_its_own_machine(self, toy):
        facts = train(toy).facts
        assert facts["resumed_from_machines"] == []
        assert facts["machine"]["torch"] == torch.__version__

    def test_prefect_retries_a_transient_failure_and_the_training_resumes(self, toy, monkeypatch, caplog):
        failed = []

        def fail_once(self, step):
            if step == 10 and not failed:
                failed.append(step)
                raise RuntimeError("a transient error")
            return is_due(self, step)

        is_due = Checkpoints.is_due
        monkeypatch.setattr(Checkpoints, "is_due", fail_once)
        config = toy.config
        training = config.training.model_copy(update={"checkpoint_steps": 4})
        task = train_classifier.with_options(retry_delay_seconds=0)
        with caplog.at_level(logging.INFO), prefect_test_harness(server_startup_timeout=120):
            output = task(
                toy.buckets,
                toy.vocabulary,
                toy.embeddings,
                config.embeddings.dim,
                config.bucketing.batch_size,
                config.model,
                training,
                config.seed,
            )
        assert failed == [10]
        assert "training resumes after step 8 of 27" in caplog.text
        assert output.digest == toy.classifier.digest

    @pytest.mark.parametrize(
        ("error", "retried"), [(RuntimeError("transient"), True), (TrainingError("step 3: loss nan"), False)]
    )
    def test_errors_of_the_project_are_not_retried(self, error, retried):
        state = Failed(data=error)
        assert is_worth_a_retry(train_classifier, None, state) is retried


def test_metrics_of_steps_and_epochs_go_to_the_mlflow_run(toy, tracked):
    from mlflow import MlflowClient

    from tasks.tracking.runs import track_run
    from tasks.tracking.server import tracking_uri

    forget(toy.classifier)
    with track_run(toy.config, name="training", tags={}) as run:
        output = train(toy, run_id=run.run_id)
    client = MlflowClient(tracking_uri())
    for name, file in (("step_loss", STEPS_FILE), ("validation_macro_f1", EPOCHS_FILE)):
        table = output.read_table(file)
        logged = sorted((m.step, m.value) for m in client.get_metric_history(run.run_id, name))
        assert logged == list(zip(table["step"].to_pylist(), table[name].to_pylist(), strict=True))
