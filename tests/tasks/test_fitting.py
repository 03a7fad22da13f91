import math
import random

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline_config.errors import TrainingError
from pipeline_config.settings import TrainingConfig
from tasks import fitting
from tasks.bucketing import EncodedSplit
from tasks.fitting import build_optimizer, build_scheduler, fit, pick_device, seeded, validate
from tasks.network import TextClassifier
from tasks.progress import WorkStopped, allow_work, stop_work

pytestmark = pytest.mark.usefixtures("one_thread")
CLASSES = 2
VOCABULARY = 12
POISON = VOCABULARY - 1  # a token id of one document only


def make_split(count: int = 24, *, seed: int = 0, first_doc_id: int = 100) -> EncodedSplit:
    """Documents of class 0 have tokens 2 to 5, those of class 1 have 6 to 9, both have 1; lengths 1 to 6."""
    generator = random.Random(seed)
    documents, label_ids = [], []
    for number in range(count):
        label = number % CLASSES
        more = generator.choices([1, 2 + 4 * label], k=generator.randrange(6))
        tokens = [2 + 4 * label + generator.randrange(4), *more]
        documents.append(tokens)
        label_ids.append(label)
    lengths = np.array([len(tokens) for tokens in documents])
    return EncodedSplit(
        input_ids=np.concatenate(documents).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        label_ids=np.array(label_ids, np.int32),
        buckets=(lengths > 3).astype(np.int32),
        doc_ids=np.arange(first_doc_id, first_doc_id + count),
    )


def make_network(seed: int = 0, **changes) -> TextClassifier:
    settings = {
        "num_embeddings": VOCABULARY, "embedding_dim": 4, "num_classes": CLASSES, "padding_idx": 0,
        "hidden_size": 5, "pooling": "mean_max", "dropout": 0.1,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TextClassifier(**{**settings, **changes})


def configure(**changes) -> TrainingConfig:
    return TrainingConfig(**{"epochs": 2, "learning_rate": 0.02, "device": "cpu", "log_every_steps": 1, **changes})


def weights_of(network: TextClassifier) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.state_dict().items()}


def are_equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Recorder:
    """Takes the metrics that `fit` hands out."""

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, float], int]] = []

    def __call__(self, metrics: dict[str, float], step: int) -> None:
        self.calls.append((metrics, step))

    def series(self, name: str) -> list[tuple[int, float]]:
        return [(step, metrics[name]) for metrics, step in self.calls if name in metrics]


@pytest.fixture
def script_macro_f1(monkeypatch):
    """Let validation report given macro F1 values, epoch by epoch; returns the weights seen at each."""

    def script(*values: float) -> list[dict[str, Tensor]]:
        seen: list[dict[str, Tensor]] = []

        def scripted(network: TextClassifier, _split: EncodedSplit) -> dict[str, float]:
            seen.append(weights_of(network))
            scores = {"validation_loss": 1.0, "validation_accuracy": 0.5}
            return {**scores, "validation_macro_f1": values[len(seen) - 1]}

        monkeypatch.setattr(fitting, "validate", scripted)
        return seen

    return script


@pytest.fixture
def learn_by_sgd(monkeypatch):
    """Take plain gradient steps of size 1, so that the change of the weights is the gradient."""
    monkeypatch.setattr(
        fitting, "build_optimizer", lambda network, _config: torch.optim.SGD(network.parameters(), lr=1.0)
    )


class TestLearning:
    def test_loss_falls_and_learnable_documents_are_learned(self):
        network = make_network()
        with seeded(0, 1):
            history = fit(
                network, make_split(60), make_split(20, seed=1), batch_size=8, seed=0,
                config=configure(epochs=8, learning_rate=0.05, patience=None),
            )  # fmt: skip
        losses = [epoch["train_loss"] for epoch in history.epochs]
        assert losses[-1] < 0.5 * losses[0]
        assert history.best_macro_f1 == 1.0

    def test_first_train_loss_is_the_mean_cross_entropy_over_documents(self, monkeypatch):
        network, split = make_network(dropout=0.0), make_split(10)
        input_ids, lengths = split.pad_batch(np.arange(10))
        logits = network(torch.from_numpy(input_ids), torch.from_numpy(lengths))
        rows = logits.double().log_softmax(dim=1)[range(10), split.label_ids.tolist()]
        monkeypatch.setattr(
            fitting, "build_optimizer", lambda network, _config: torch.optim.SGD(network.parameters(), lr=0.0)
        )
        config = configure(epochs=1, schedule="constant")
        history = fit(network, split, split, config=config, batch_size=4, seed=0)  # batches of 4, 4 and 2
        assert history.epochs[0]["train_loss"] == pytest.approx(-rows.mean().item(), abs=1e-6)

    def test_every_token_is_seen_once_per_epoch(self):
        split = make_split()
        history = fit(make_network(), split, split, config=configure(epochs=3), batch_size=7, seed=0)
        assert history.tokens == 3 * len(split.input_ids)
        assert history.seconds > 0

    def test_dropout_acts_again_after_a_validation(self):
        network, training = make_network(), []
        fit(
            network, make_split(), make_split(8), config=configure(epochs=2), batch_size=24, seed=0,
            on_metrics=lambda metrics, _step: training.append(network.training) if "step_loss" in metrics else None,
        )  # fmt: skip
        assert training == [True, True]

    def test_validation_draws_no_random_numbers(self):
        before = torch.random.get_rng_state()
        validate(make_network(dropout=0.5), make_split())
        assert torch.equal(torch.random.get_rng_state(), before)


class TestDeterminism:
    @staticmethod
    def train(seed: int, order_seed: int = 0) -> dict[str, Tensor]:
        with seeded(seed, 1):
            network = make_network(seed, dropout=0.3)
            fit(network, make_split(), make_split(8, seed=1), config=configure(), batch_size=8, seed=order_seed)
        return weights_of(network)

    def test_same_seed_gives_the_same_bits_whatever_used_torch_before(self):
        torch.manual_seed(1)
        one = self.train(5)
        torch.manual_seed(2)
        torch.rand(10)
        assert are_equal(one, self.train(5))

    @pytest.mark.parametrize(("seed", "order_seed"), [(6, 0), (5, 1)], ids=["weights and dropout", "batches"])
    def test_another_seed_gives_other_weights(self, seed, order_seed):
        assert not are_equal(self.train(5), self.train(seed, order_seed))


class TestBestEpoch:
    def test_training_ends_after_patience_epochs_and_the_best_weights_come_back(self, script_macro_f1):
        seen = script_macro_f1(0.5, 0.7, 0.7, 0.6, 0.9)  # an equal score is no better one
        network = make_network()
        history = fit(
            network, make_split(), make_split(8), config=configure(epochs=5, patience=2), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch, history.best_macro_f1) == (4, 2, 0.7)
        assert are_equal(weights_of(network), seen[1])
        assert not are_equal(seen[1], seen[3])

    def test_patience_counts_from_the_best_epoch(self, script_macro_f1):
        script_macro_f1(0.5, 0.4, 0.6, 0.5, 0.7)
        history = fit(
            make_network(), make_split(), make_split(8), config=configure(epochs=5, patience=2), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch) == (5, 5)

    def test_without_patience_every_epoch_runs(self, script_macro_f1):
        seen = script_macro_f1(0.7, 0.1, 0.1, 0.1)
        network = make_network()
        history = fit(
            network, make_split(), make_split(8), config=configure(epochs=4, patience=None), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch) == (4, 1)
        assert are_equal(weights_of(network), seen[0])

    def test_a_macro_f1_of_zero_is_a_best_epoch_too(self, script_macro_f1):
        seen = script_macro_f1(0.0)
        network = make_network()
        history = fit(network, make_split(), make_split(8), config=configure(epochs=1), batch_size=8, seed=0)
        assert history.best_epoch == 1
        assert are_equal(weights_of(network), seen[0])


class TestHistory:
    def test_steps_are_recorded_every_so_often_and_epochs_at_their_last_step(self):
        recorder = Recorder()
        history = fit(
            make_network(), make_split(24), make_split(8), config=configure(epochs=2, log_every_steps=3),
            batch_size=6, seed=0, on_metrics=recorder,
        )  # fmt: skip
        assert [row["step"] for row in history.steps] == [3, 6]  # of 8
        assert [(row["epoch"], row["step"]) for row in history.epochs] == [(1, 4), (2, 8)]
        assert recorder.series("step_loss") == [(row["step"], row["step_loss"]) for row in history.steps]
        assert recorder.series("epoch") == [(4, 1), (8, 2)]
        assert set(recorder.calls[-1][0]) == {
            "epoch", "train_loss", "validation_loss", "validation_accuracy", "validation_macro_f1"
        }  # fmt: skip

    def test_batch_padding_efficiency_is_real_tokens_over_all(self):
        split = make_split(24)
        history = fit(make_network(), split, split, config=configure(epochs=1), batch_size=24, seed=0)
        assert history.steps[0]["batch_padding_efficiency"] == pytest.approx(
            len(split.input_ids) / (24 * split.lengths.max())
        )


class TestLearningRate:
    @staticmethod
    def one_cycle(step: int, total: int, peak: float) -> float:
        """Smith & Topin's cycle with cosines: from peak/25 up over 30 % of the steps, down to peak/25/10000."""
        turn, last = 0.3 * total - 1, total - 1
        start, end, share = (peak / 25, peak, step / turn) if step <= turn else (
            peak, peak / 25e4, (step - turn) / (last - turn)
        )  # fmt: skip
        return end + (start - end) / 2 * (1 + math.cos(math.pi * share))

    def test_one_cycle_follows_its_formula_over_all_steps(self):
        recorder = Recorder()
        fit(
            make_network(), make_split(24), make_split(8), config=configure(epochs=4, patience=None),
            batch_size=5, seed=0, on_metrics=recorder,
        )  # fmt: skip
        rates = recorder.series("learning_rate")
        assert [step for step, _ in rates] == list(range(1, 21))  # 4 epochs of 5 batches
        expected = [self.one_cycle(step, 20, 0.02) for step in range(20)]
        assert [rate for _, rate in rates] == pytest.approx(expected, rel=1e-9)
        assert max(rate for _, rate in rates) == pytest.approx(0.02)

    @pytest.mark.parametrize("steps", [1, 2, 3])
    def test_one_cycle_takes_few_steps(self, steps):
        config = configure(schedule="one_cycle")
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=config.learning_rate)
        scheduler = build_scheduler(optimizer, config, steps)
        for _ in range(steps):
            assert 0 < scheduler.get_last_lr()[0] <= config.learning_rate
            optimizer.step()
            scheduler.step()

    def test_constant_schedule_keeps_the_learning_rate(self):
        recorder = Recorder()
        fit(
            make_network(), make_split(24), make_split(8), config=configure(schedule="constant"),
            batch_size=8, seed=0, on_metrics=recorder,
        )  # fmt: skip
        assert {rate for _, rate in recorder.series("learning_rate")} == {0.02}


class TestOptimizer:
    @pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
    def test_kind_and_settings_are_the_configured_ones(self, name, kind):
        optimizer = build_optimizer(make_network(), configure(optimizer=name, weight_decay=0.25))
        assert type(optimizer) is kind
        assert optimizer.param_groups[0]["weight_decay"] == 0.25
        assert optimizer.param_groups[0]["lr"] == 0.02

    def test_frozen_vectors_are_left_out(self):
        network = make_network(embeddings=torch.ones(VOCABULARY, 4), freeze_embeddings=True)
        weights = {id(weight) for weight in build_optimizer(network, configure()).param_groups[0]["params"]}
        assert id(network.embedding.weight) not in weights
        assert weights == {id(weight) for weight in network.parameters() if weight.requires_grad}

    @pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "trained"])
    def test_training_changes_pretrained_vectors_unless_frozen(self, freeze):
        vectors = torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(3))
        vectors[0] = 0.0
        network = make_network(embeddings=vectors.clone(), freeze_embeddings=freeze)
        fit(network, make_split(), make_split(8), config=configure(), batch_size=8, seed=0)
        assert torch.equal(network.embedding.weight, vectors) is freeze
        assert torch.equal(network.embedding.weight[0], torch.zeros(4))  # padding stays zero either way

    @pytest.mark.usefixtures("learn_by_sgd")
    @pytest.mark.parametrize("clip_norm", [0.01, None])
    def test_gradient_is_cut_to_the_clip_norm_and_its_own_norm_is_reported(self, clip_norm):
        network = make_network()
        before, recorder = weights_of(network), Recorder()
        fit(
            network, make_split(), make_split(8), batch_size=24, seed=0, on_metrics=recorder,
            config=configure(epochs=1, clip_norm=clip_norm, schedule="constant"),
        )  # fmt: skip
        change = math.sqrt(
            sum(float((weight - before[name]).square().sum()) for name, weight in weights_of(network).items())
        )
        ((_, norm),) = recorder.series("gradient_norm")
        assert norm > 0.05
        assert change == pytest.approx(norm if clip_norm is None else clip_norm, rel=1e-3)


class TestNonFiniteNumbers:
    @staticmethod
    def poison(split: EncodedSplit, document: int) -> EncodedSplit:
        split.input_ids[split.offsets[document]] = POISON
        return split

    def test_a_loss_that_is_not_finite_ends_training_before_the_step_and_names_step_and_documents(self):
        split = self.poison(make_split(24), 17)
        network = make_network()
        with torch.no_grad():
            network.embedding.weight[POISON] = float("nan")
        snapshots = [weights_of(network)]
        with pytest.raises(TrainingError) as caught:
            fit(
                network, split, make_split(8), config=configure(epochs=1), batch_size=1, seed=0,
                on_metrics=lambda _metrics, _step: snapshots.append(weights_of(network)),
            )  # fmt: skip
        failed = len(snapshots)
        assert str(caught.value) == (
            f"step {failed}: loss nan, gradient norm nan, expected finite numbers; documents [117] ...; "
            "a smaller training.learning_rate may help"
        )
        assert 1 < failed < 24
        torch.testing.assert_close(weights_of(network), snapshots[-1], rtol=0, atol=0, equal_nan=True)

    def test_a_gradient_that_is_not_finite_ends_training_before_the_step(self):
        network = make_network()
        network.linear.bias.register_hook(lambda gradient: gradient * float("inf"))
        before = weights_of(network)
        with pytest.raises(TrainingError, match=r"step 1: loss 0\.\d+, gradient norm (inf|nan), expected finite"):
            fit(network, make_split(), make_split(8), config=configure(), batch_size=8, seed=0)
        assert are_equal(weights_of(network), before)


class TestDevice:
    @pytest.mark.parametrize("name", ["auto", "cpu"])
    def test_without_cuda_it_is_the_cpu(self, monkeypatch, name):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert pick_device(name) == torch.device("cpu")

    @pytest.mark.parametrize(("name", "kind"), [("auto", "cuda"), ("cuda", "cuda"), ("cpu", "cpu")])
    def test_with_cuda_it_is_cuda_unless_the_cpu_is_asked_for(self, monkeypatch, name, kind):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert pick_device(name).type == kind

    def test_cuda_that_is_not_there_is_an_error_with_advice(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(
            TrainingError, match=r"training\.device: got cuda, but torch sees no CUDA device; use auto or cpu"
        ):
            pick_device("cuda")


class TestSeeded:
    def test_body_starts_from_the_seed(self):
        with seeded(3):
            one = torch.rand(4)
        torch.rand(1)
        with seeded(3):
            assert torch.equal(torch.rand(4), one)

    @pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
    def test_generator_and_thread_count_are_put_back(self, fails):
        state, threads = torch.random.get_rng_state(), torch.get_num_threads()
        try:
            with seeded(3, threads + 1):
                torch.rand(5)
                assert torch.get_num_threads() == threads + 1
                if fails:
                    raise TrainingError("wrong")
        except TrainingError:
            assert fails
        assert torch.equal(torch.random.get_rng_state(), state)
        assert torch.get_num_threads() == threads


def test_stopping_work_ends_training_at_the_next_step():
    recorder = Recorder()

    def stop_at_third(metrics: dict[str, float], step: int) -> None:
        recorder(metrics, step)
        if step == 3:
            stop_work()

    try:
        with pytest.raises(WorkStopped):
            fit(
                make_network(), make_split(), make_split(8), config=configure(), batch_size=4, seed=0,
                on_metrics=stop_at_third,
            )  # fmt: skip
    finally:
        allow_work()
    assert [step for step, _ in recorder.series("step_loss")] == [1, 2, 3]
