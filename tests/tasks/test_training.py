import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file

from pipeline_config.errors import TrainingError
from pipeline_config.schemas import EMBEDDINGS_FILE, EPOCHS, EPOCHS_FILE, MODEL_FILE, STEPS, STEPS_FILE, WEIGHTS_FILE
from tasks.embeddings import as_matrix
from tasks.progress import WorkStopped, allow_work, stop_work
from tasks.store import ArtifactRef, artifacts_root
from tasks.training import train_classifier


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
    def test_same_seed_gives_the_same_files_bit_for_bit_whatever_used_torch_before(self, toy):
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

    def test_generator_and_thread_count_are_put_back(self, toy):
        forget(toy.classifier)
        before, threads = torch.random.get_rng_state(), torch.get_num_threads()
        train(toy, training={"epochs": 1, "threads": threads + 1})
        assert torch.equal(torch.random.get_rng_state(), before)
        assert torch.get_num_threads() == threads

    def test_the_mlflow_run_is_not_part_of_the_key(self, toy):
        assert train(toy, run_id="no such run").key == toy.classifier.key  # found, so nothing is logged


class TestOutput:
    def test_description_rebuilds_the_network(self, toy):
        description = toy.classifier.read_json(MODEL_FILE)
        assert description["labels"] == ["food", "météo", "sport"]
        assert description["architecture"] == {
            "num_embeddings": toy.vocabulary.facts["vocabulary_size"], "embedding_dim": 8, "num_classes": 3,
            "padding_idx": 0, "hidden_size": 6, "num_layers": 1, "bidirectional": True, "pooling": "mean_max",
            "dropout": 0.2, "embedding_dropout": 0.5, "word_dropout": 0.0, "recurrent_dropout": 0.0, "layer_norm": False,
        }  # fmt: skip
        assert 1 <= description["best_epoch"] <= 3

    def test_history_has_a_row_per_epoch_and_per_logged_step(self, toy):
        epochs, steps = (toy.classifier.read_table(name) for name in (EPOCHS_FILE, STEPS_FILE))
        assert (epochs.schema, steps.schema) == (EPOCHS, STEPS)
        assert epochs["step"].to_pylist() == [9, 18, 27]  # 72 documents in batches of 8
        assert steps["step"].to_pylist() == list(range(2, 27, 2))

    def test_best_epoch_is_the_one_with_the_best_macro_f1(self, toy):
        scores = toy.classifier.read_table(EPOCHS_FILE)["validation_macro_f1"].to_pylist()
        assert toy.classifier.read_json(MODEL_FILE)["best_epoch"] == 1 + int(np.argmax(scores))
        assert toy.classifier.facts["validation_macro_f1"] == max(scores)

    def test_wall_clock_figures_are_facts_and_stand_in_no_file(self, toy):
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
        with pytest.raises(TrainingError, match=r"training\.device: got cuda"):
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
        assert train(toy).digest == toy.classifier.digest


def test_metrics_of_steps_and_epochs_go_to_the_mlflow_run(toy, tracked):
    from mlflow import MlflowClient

    from tasks.tracking import track_run, tracking_uri

    forget(toy.classifier)
    with track_run(toy.config, name="training", tags={}) as run:
        output = train(toy, run_id=run.run_id)
    client = MlflowClient(tracking_uri())
    for name, file in (("step_loss", STEPS_FILE), ("validation_macro_f1", EPOCHS_FILE)):
        table = output.read_table(file)
        logged = sorted((m.step, m.value) for m in client.get_metric_history(run.run_id, name))
        assert logged == list(zip(table["step"].to_pylist(), table[name].to_pylist(), strict=True))
