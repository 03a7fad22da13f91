import logging
import os
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline_config.errors import TrainingError
from tasks.evaluation.prediction import validate
from tasks.runtime.cancellation import WorkStopped, allow_work, stop_work
from tasks.training import training_state
from tasks.training.checkpoints import Checkpoints
from tasks.training.device import has_bfloat16_lstm
from tasks.training.fitting import fit, warn_of_other_work
from tests.small_training import (
    FULL_DROPOUT,
    POISON,
    VOCABULARY,
    Recorder,
    are_equal,
    configure,
    draw_split,
    make_network,
    poison,
    weights_of,
)

pytestmark = pytest.mark.usefixtures("one_thread")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16_lstm(), reason="this processor cannot run an LSTM in bfloat16")
CPU = torch.device("cpu")
MACHINE = {"cpu": "a", "threads": 1}


class TestLearning:
    def test_loss_falls_and_learnable_documents_are_learned(self):
        network = make_network()
        history, _ = fit(
            network,
            draw_split(60),
            draw_split(20, seed=1),
            batch_size=8,
            seed=0,
            config=configure(epochs=8, learning_rate=0.05, patience=None),
        )
        losses = [epoch["train_loss"] for epoch in history.epochs]
        assert losses[-1] < 0.5 * losses[0]
        assert history.best_score == 1.0

    def test_first_train_loss_is_the_mean_cross_entropy_over_documents(self, monkeypatch):
        network, split = make_network(dropout=0.0), draw_split(10)
        input_ids, lengths = split.pad_batch(np.arange(10))
        logits = network(torch.from_numpy(input_ids), torch.from_numpy(lengths))
        rows = logits.double().log_softmax(dim=1)[range(10), split.label_ids.tolist()]
        monkeypatch.setattr(
            training_state, "build_optimizers", lambda network, _config: [torch.optim.SGD(network.parameters(), lr=0.0)]
        )
        config = configure(epochs=1, schedule="constant")
        history, _ = fit(network, split, split, config=config, batch_size=4, seed=0)  # batches of 4, 4 and 2
        assert history.epochs[0]["train_loss"] == pytest.approx(-rows.mean().item(), abs=1e-6)

    def test_every_token_is_seen_once_per_epoch(self):
        split = draw_split()
        history, _ = fit(make_network(), split, split, config=configure(epochs=3), batch_size=7, seed=0)
        assert history.tokens == 3 * len(split.input_ids)
        assert history.seconds > 0

    def test_dropout_acts_again_after_a_validation(self):
        network, training = make_network(), []
        fit(
            network,
            draw_split(),
            draw_split(8),
            config=configure(epochs=2),
            batch_size=24,
            seed=0,
            on_metrics=lambda metrics, _step: training.append(network.training) if "step_loss" in metrics else None,
        )
        assert training == [True, True]

    def test_validation_draws_no_random_numbers(self):
        network, before = make_network(dropout=0.5), torch.random.get_rng_state()
        validate(network, draw_split())
        assert torch.equal(torch.random.get_rng_state(), before)


class TestDeterminism:
    @staticmethod
    def train(seed: int = 0, **options) -> dict[str, Tensor]:
        network = make_network(**FULL_DROPOUT)
        fit(network, draw_split(), draw_split(8, seed=1), config=configure(), batch_size=8, seed=seed, **options)
        return weights_of(network)

    def test_same_seed_gives_the_same_bits_whatever_uses_torch_meanwhile(self):
        one = self.train()
        torch.manual_seed(2)
        assert are_equal(one, self.train(on_metrics=lambda *_: torch.rand(10)))

    def test_torchs_own_generator_is_not_used(self):
        network, before = make_network(**FULL_DROPOUT), torch.random.get_rng_state()
        fit(network, draw_split(), draw_split(8, seed=1), config=configure(), batch_size=8, seed=0)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_another_training_at_the_same_time_does_not_change_the_bits(self):
        one, stop = self.train(), threading.Event()

        def disturb():
            while not stop.is_set():
                torch.rand(10)
                self.train(1)

        other = threading.Thread(target=disturb)
        other.start()
        try:
            assert all(are_equal(one, self.train()) for _ in range(3))
        finally:
            stop.set()
            other.join()

    def test_another_seed_gives_other_weights(self):
        assert not are_equal(self.train(0), self.train(1))


class TestBestEpoch:
    def test_training_ends_after_patience_epochs_and_the_best_weights_come_back(self, script_macro_f1):
        seen = script_macro_f1(0.5, 0.7, 0.7, 0.6, 0.9)  # an equal score is no better one
        network = make_network()
        history, _ = fit(
            network, draw_split(), draw_split(8), config=configure(epochs=5, patience=2), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch, history.best_score) == (4, 2, 0.7)
        assert are_equal(weights_of(network), seen[1])
        assert not are_equal(seen[1], seen[3])

    def test_patience_counts_from_the_best_epoch(self, script_macro_f1):
        script_macro_f1(0.5, 0.4, 0.6, 0.5, 0.7)
        history, _ = fit(
            make_network(), draw_split(), draw_split(8), config=configure(epochs=5, patience=2), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch) == (5, 5)

    def test_without_patience_every_epoch_runs(self, script_macro_f1):
        seen = script_macro_f1(0.7, 0.1, 0.1, 0.1)
        network = make_network()
        history, _ = fit(
            network, draw_split(), draw_split(8), config=configure(epochs=4, patience=None), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch) == (4, 1)
        assert are_equal(weights_of(network), seen[0])

    def test_a_macro_f1_of_zero_is_a_best_epoch_too(self, script_macro_f1):
        seen = script_macro_f1(0.0)
        network = make_network()
        history, _ = fit(network, draw_split(), draw_split(8), config=configure(epochs=1), batch_size=8, seed=0)
        assert history.best_epoch == 1
        assert are_equal(weights_of(network), seen[0])


class TestHistory:
    def test_steps_are_recorded_every_so_often_and_epochs_at_their_last_step(self):
        recorder = Recorder()
        history, _ = fit(
            make_network(),
            draw_split(24),
            draw_split(8),
            config=configure(epochs=2, log_every_steps=3),
            batch_size=6,
            seed=0,
            on_metrics=recorder,
        )
        assert [row["step"] for row in history.steps] == [3, 6]  # of 8
        assert [(row["epoch"], row["step"]) for row in history.epochs] == [(1, 4), (2, 8)]
        assert recorder.series("step_loss") == [(row["step"], row["step_loss"]) for row in history.steps]
        assert recorder.series("epoch") == [(4, 1), (8, 2)]
        assert set(recorder.calls[-1][0]) == {
            "epoch",
            "train_loss",
            "validation_loss",
            "validation_accuracy",
            "validation_macro_f1",
            "tokens_per_second",
        }

    def test_batch_padding_efficiency_is_real_tokens_over_all(self):
        split = draw_split(24)
        history, _ = fit(make_network(), split, split, config=configure(epochs=1), batch_size=24, seed=0)
        assert history.steps[0]["batch_padding_efficiency"] == pytest.approx(
            len(split.input_ids) / (24 * split.lengths.max())
        )


def test_stopping_work_ends_training_at_the_next_step():
    recorder = Recorder()

    def stop_at_third(metrics: dict[str, float], step: int) -> None:
        recorder(metrics, step)
        if step == 3:
            stop_work()

    try:
        with pytest.raises(WorkStopped):
            fit(
                make_network(),
                draw_split(),
                draw_split(8),
                config=configure(),
                batch_size=4,
                seed=0,
                on_metrics=stop_at_third,
            )
    finally:
        allow_work()
    assert [step for step, _ in recorder.series("step_loss")] == [1, 2, 3]


class Killed(BaseException):
    """Stands for a kill: nothing is saved on its way out."""


class MortalCheckpoints(Checkpoints):
    """Die once after a step, before its checkpoint or after it."""

    dies_at: int | None = None
    saves_first: bool = False

    def is_due(self, step: int) -> bool:
        if step == self.dies_at and not self.saves_first:
            raise Killed
        return step == self.dies_at or super().is_due(step)

    def save(self, tensors, state) -> None:
        super().save(tensors, state)
        if state["step"] == self.dies_at:
            raise Killed


VARIANTS = {
    "plain": ({}, {}),
    "two-way, two layers, all dropout": ({**FULL_DROPOUT, "num_layers": 2}, {}),
    "one way, attention, adam": (
        {"bidirectional": False, "pooling": "attention", "layer_norm": True},
        {"optimizer": "adam"},
    ),
    "average, accumulation": (FULL_DROPOUT, {"ema_decay": 0.9, "accumulation": 2}),
    "average, accumulation, bf16": (FULL_DROPOUT, {"ema_decay": 0.9, "accumulation": 2, "precision": "bf16"}),
    "frozen at first, plateau, balanced": (
        {"embeddings": torch.ones(VOCABULARY, 4)},
        {"frozen_epochs": 2, "schedule": "plateau", "class_weights": "balanced", "embedding_learning_rate": 0.001},
    ),
    "bigrams, average": ({**FULL_DROPOUT, "bigram_buckets": 20}, {"ema_decay": 0.9, "accumulation": 2}),
    "frozen throughout, early stop": (
        {"embeddings": torch.ones(VOCABULARY, 4), "freeze_embeddings": True},
        {"patience": 1, "metric": "loss"},
    ),
}


class TestResume:
    @staticmethod
    def train(variant: str, checkpoints: Checkpoints | None = None, device: torch.device = CPU):
        model, training = VARIANTS[variant]
        network = make_network(
            **{**model, **({"embeddings": model["embeddings"].clone()} if "embeddings" in model else {})}
        ).to(device)
        config = configure(**{"epochs": 4, "patience": None, "log_every_steps": 2, **training})
        history, last = fit(
            network, draw_split(22), draw_split(8, seed=1), config=config, batch_size=5, seed=3, checkpoints=checkpoints
        )
        return weights_of(network), last, {k: v for k, v in vars(history).items() if k != "seconds"}

    @pytest.mark.parametrize(
        "variant", [pytest.param(name, marks=[needs_bfloat16] if "bf16" in name else []) for name in VARIANTS]
    )
    def test_a_training_killed_at_any_step_ends_with_the_bits_of_an_unbroken_one(self, variant, tmp_path, device):
        best, last, history = self.train(variant, device=device)
        ends = [int(row["step"]) for row in history["epochs"]]
        for step in sorted({1, 2, 4, ends[0], ends[0] + 1, ends[1] - 2, history["step"] - 1, history["step"]}):
            checkpoints = MortalCheckpoints(tmp_path / str(step), MACHINE, every_steps=1 + step % 3)
            checkpoints.dies_at, checkpoints.saves_first = step, step % 2 == 0
            with pytest.raises(Killed):
                self.train(variant, checkpoints, device)
            again = self.train(variant, Checkpoints(tmp_path / str(step), MACHINE, every_steps=4), device)
            assert are_equal(again[0], best), step
            assert are_equal(again[1], last), step
            assert again[2] == history, step

    def test_a_stopped_training_is_saved_at_once_and_resumes(self, tmp_path):
        variant = "two-way, two layers, all dropout"
        unbroken, steps = self.train(variant), []
        checkpoints = Checkpoints(tmp_path, MACHINE)
        checkpoints.is_due = lambda step: steps.append(step) or (stop_work() if step == 7 else None)
        try:
            with pytest.raises(WorkStopped):
                self.train(variant, checkpoints)
        finally:
            allow_work()
        assert checkpoints.load()[1]["step"] == 7
        again = self.train(variant, checkpoints)
        assert steps == list(range(1, 21))  # no step was taken twice
        assert are_equal(again[0], unbroken[0])
        assert again[2] == unbroken[2]

    def test_a_training_stopped_in_a_validation_validates_that_epoch_again(self, tmp_path, monkeypatch):
        unbroken, stopped = self.train("average, accumulation"), []

        def stop_once(network, split):
            if not stopped:
                stopped.append(True)
                stop_work()
            return validate(network, split)

        monkeypatch.setattr(training_state, "validate", stop_once)
        try:
            with pytest.raises(WorkStopped):
                self.train("average, accumulation", Checkpoints(tmp_path, MACHINE))
        finally:
            allow_work()
        again = self.train("average, accumulation", Checkpoints(tmp_path, MACHINE))
        assert are_equal(again[0], unbroken[0])
        assert again[2] == unbroken[2]

    def test_a_step_that_is_not_finite_leaves_the_checkpoint_before_it(self, tmp_path):
        split, network = poison(draw_split(24), 17), make_network()
        with torch.no_grad():
            network.embedding.weight[POISON] = float("nan")
        checkpoints = Checkpoints(tmp_path, MACHINE, every_steps=1)
        with pytest.raises(TrainingError) as caught:
            fit(
                network, split, draw_split(8), config=configure(epochs=1), batch_size=1, seed=0, checkpoints=checkpoints
            )
        tensors, state = checkpoints.load()
        assert f"step {state['step'] + 1}:" in str(caught.value)
        assert torch.isfinite(tensors["weights/linear.weight"]).all()


@pytest.mark.parametrize(("threads", "load", "warned"), [(2, 9.0, True), (1, 9.0, False), (2, 3.9, False)])
def test_other_work_is_told_with_the_setting_that_helps(monkeypatch, caplog, threads, load, warned):
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    with caplog.at_level(logging.WARNING, "tasks.training.fitting"):
        assert warn_of_other_work(threads) is warned
    assert ("training.threads=1" in caplog.text) is warned
