import math
import random
import threading

import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline_config.errors import TrainingError
from pipeline_config.settings import TrainingConfig
from tasks.batches.encoded_split import EncodedSplit
from tasks.evaluation.prediction import validate
from tasks.runtime.cancellation import WorkStopped, allow_work, stop_work
from tasks.served.network import TextClassifier
from tasks.training import fitting
from tasks.training.checkpoints import Checkpoints
from tasks.training.device import has_bfloat16_lstm
from tasks.training.fitting import fit

pytestmark = pytest.mark.usefixtures("one_thread")
needs_bfloat16 = pytest.mark.skipif(not has_bfloat16_lstm(), reason="this processor cannot run an LSTM in bfloat16")
CLASSES, CPU = 2, torch.device("cpu")
FULL_DROPOUT = {"dropout": 0.3, "embedding_dropout": 0.2, "word_dropout": 0.1, "recurrent_dropout": 0.2}
VOCABULARY = 12
MACHINE = {"cpu": "a", "threads": 1}
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
        scheme="optimal",
        token_budget=None,
    )


def make_network(seed: int = 0, **changes) -> TextClassifier:
    settings = {
        "num_embeddings": VOCABULARY, "embedding_dim": 4, "num_classes": CLASSES, "padding_idx": 0, "unk_idx": 1,
        "hidden_size": 5, "num_layers": 1, "bidirectional": True, "pooling": "mean_max", "dropout": 0.1,
    }  # fmt: skip
    network = TextClassifier(**{**settings, **changes})
    network.reset_weights(torch.Generator().manual_seed(seed))
    return network


def configure(**changes) -> TrainingConfig:
    fixed = {"epochs": 2, "learning_rate": 0.02, "device": "cpu", "precision": "fp32", "log_every_steps": 1}
    return TrainingConfig(**{**fixed, **changes})


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
        history, _ = fit(
            network, make_split(60), make_split(20, seed=1), batch_size=8, seed=0,
            config=configure(epochs=8, learning_rate=0.05, patience=None),
        )  # fmt: skip
        losses = [epoch["train_loss"] for epoch in history.epochs]
        assert losses[-1] < 0.5 * losses[0]
        assert history.best_score == 1.0

    def test_first_train_loss_is_the_mean_cross_entropy_over_documents(self, monkeypatch):
        network, split = make_network(dropout=0.0), make_split(10)
        input_ids, lengths = split.pad_batch(np.arange(10))
        logits = network(torch.from_numpy(input_ids), torch.from_numpy(lengths))
        rows = logits.double().log_softmax(dim=1)[range(10), split.label_ids.tolist()]
        monkeypatch.setattr(
            fitting, "build_optimizer", lambda network, _config: torch.optim.SGD(network.parameters(), lr=0.0)
        )
        config = configure(epochs=1, schedule="constant")
        history, _ = fit(network, split, split, config=config, batch_size=4, seed=0)  # batches of 4, 4 and 2
        assert history.epochs[0]["train_loss"] == pytest.approx(-rows.mean().item(), abs=1e-6)

    def test_every_token_is_seen_once_per_epoch(self):
        split = make_split()
        history, _ = fit(make_network(), split, split, config=configure(epochs=3), batch_size=7, seed=0)
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
        network, before = make_network(dropout=0.5), torch.random.get_rng_state()
        validate(network, make_split())
        assert torch.equal(torch.random.get_rng_state(), before)


class TestDeterminism:
    @staticmethod
    def train(seed: int = 0, **options) -> dict[str, Tensor]:
        network = make_network(**FULL_DROPOUT)
        fit(network, make_split(), make_split(8, seed=1), config=configure(), batch_size=8, seed=seed, **options)
        return weights_of(network)

    def test_same_seed_gives_the_same_bits_whatever_uses_torch_meanwhile(self):
        one = self.train()
        torch.manual_seed(2)
        assert are_equal(one, self.train(on_metrics=lambda *_: torch.rand(10)))

    def test_torchs_own_generator_is_left_alone(self):
        network, before = make_network(**FULL_DROPOUT), torch.random.get_rng_state()
        fit(network, make_split(), make_split(8, seed=1), config=configure(), batch_size=8, seed=0)
        assert torch.equal(torch.random.get_rng_state(), before)

    def test_same_bits_with_another_training_beside_it(self):
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
            network, make_split(), make_split(8), config=configure(epochs=5, patience=2), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch, history.best_score) == (4, 2, 0.7)
        assert are_equal(weights_of(network), seen[1])
        assert not are_equal(seen[1], seen[3])

    def test_patience_counts_from_the_best_epoch(self, script_macro_f1):
        script_macro_f1(0.5, 0.4, 0.6, 0.5, 0.7)
        history, _ = fit(
            make_network(), make_split(), make_split(8), config=configure(epochs=5, patience=2), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch) == (5, 5)

    def test_without_patience_every_epoch_runs(self, script_macro_f1):
        seen = script_macro_f1(0.7, 0.1, 0.1, 0.1)
        network = make_network()
        history, _ = fit(
            network, make_split(), make_split(8), config=configure(epochs=4, patience=None), batch_size=8, seed=0
        )
        assert (len(history.epochs), history.best_epoch) == (4, 1)
        assert are_equal(weights_of(network), seen[0])

    def test_a_macro_f1_of_zero_is_a_best_epoch_too(self, script_macro_f1):
        seen = script_macro_f1(0.0)
        network = make_network()
        history, _ = fit(network, make_split(), make_split(8), config=configure(epochs=1), batch_size=8, seed=0)
        assert history.best_epoch == 1
        assert are_equal(weights_of(network), seen[0])


class TestHistory:
    def test_steps_are_recorded_every_so_often_and_epochs_at_their_last_step(self):
        recorder = Recorder()
        history, _ = fit(
            make_network(), make_split(24), make_split(8), config=configure(epochs=2, log_every_steps=3),
            batch_size=6, seed=0, on_metrics=recorder,
        )  # fmt: skip
        assert [row["step"] for row in history.steps] == [3, 6]  # of 8
        assert [(row["epoch"], row["step"]) for row in history.epochs] == [(1, 4), (2, 8)]
        assert recorder.series("step_loss") == [(row["step"], row["step_loss"]) for row in history.steps]
        assert recorder.series("epoch") == [(4, 1), (8, 2)]
        assert set(recorder.calls[-1][0]) == {
            "epoch", "train_loss", "validation_loss", "validation_accuracy", "validation_macro_f1",
            "tokens_per_second",
        }  # fmt: skip

    def test_batch_padding_efficiency_is_real_tokens_over_all(self):
        split = make_split(24)
        history, _ = fit(make_network(), split, split, config=configure(epochs=1), batch_size=24, seed=0)
        assert history.steps[0]["batch_padding_efficiency"] == pytest.approx(
            len(split.input_ids) / (24 * split.lengths.max())
        )


class TestLearningRate:
    def test_constant_schedule_keeps_the_learning_rate(self):
        recorder = Recorder()
        fit(
            make_network(), make_split(24), make_split(8), config=configure(schedule="constant"),
            batch_size=8, seed=0, on_metrics=recorder,
        )  # fmt: skip
        assert {rate for _, rate in recorder.series("learning_rate")} == {0.02}


class TestWeightUpdates:
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


class TestSettings:
    """What single settings do to the steps."""

    @pytest.mark.usefixtures("learn_by_sgd")
    def test_accumulated_batches_take_the_step_of_one_large_batch(self):
        steps = []
        for batch_size, accumulation in ((24, 1), (5, 5)):
            network, recorder = make_network(dropout=0.0), Recorder()
            config = configure(epochs=1, accumulation=accumulation, class_weights="balanced", label_smoothing=0.1)
            history, _ = fit(
                network, make_split(21), make_split(8), config=config, batch_size=batch_size, seed=0,
                on_metrics=recorder,
            )  # fmt: skip
            assert history.step == 1
            steps.append((weights_of(network), recorder.series("step_loss")[0][1]))
        (one, one_loss), (other, other_loss) = steps
        assert one_loss == pytest.approx(other_loss, abs=1e-6)
        for name, weight in one.items():
            torch.testing.assert_close(weight, other[name], rtol=0, atol=1e-6)

    @pytest.mark.usefixtures("learn_by_sgd")
    def test_loss_is_that_of_weighted_smoothed_cross_entropy(self):
        split, network, recorder = make_split(21), make_network(dropout=0.0), Recorder()
        input_ids, lengths = split.pad_batch(np.arange(21))
        logits = network(torch.from_numpy(input_ids), torch.from_numpy(lengths))
        expected = torch.nn.functional.cross_entropy(  # 11 documents of class 0, 10 of class 1
            logits, torch.from_numpy(split.label_ids.astype(np.int64)), label_smoothing=0.2,
            weight=torch.tensor([21 / 22, 21 / 20]),
        )  # fmt: skip
        config = configure(epochs=1, class_weights="balanced", label_smoothing=0.2)
        fit(network, split, make_split(8), config=config, batch_size=24, seed=0, on_metrics=recorder)
        assert recorder.series("step_loss")[0][1] == pytest.approx(expected.item(), abs=1e-6)

    def test_pretrained_vectors_stay_in_the_frozen_epochs_and_move_after_them(self, script_macro_f1):
        vectors = torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(3))
        seen = script_macro_f1(0.1, 0.2, 0.3)
        network = make_network(embeddings=vectors.clone())
        fit(network, make_split(), make_split(8), config=configure(epochs=3, frozen_epochs=2), batch_size=8, seed=0)
        moved = [not torch.equal(weights["embedding.weight"], vectors) for weights in seen]
        assert moved == [False, False, True]

    def test_a_fresh_embedding_layer_is_never_frozen(self, script_macro_f1):
        seen, network = script_macro_f1(0.1), make_network()
        before = weights_of(network)["embedding.weight"]
        fit(network, make_split(), make_split(8), config=configure(epochs=1, frozen_epochs=1), batch_size=8, seed=0)
        assert not torch.equal(seen[0]["embedding.weight"], before)

    def test_the_moving_average_is_validated_and_kept_and_the_raw_weights_go_on(self, script_macro_f1, monkeypatch):
        seen, raw = script_macro_f1(0.5, 0.4), []
        step = torch.optim.AdamW.step
        monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: [step(self), raw.append(
            weights_of(network))])  # fmt: skip
        network = make_network(dropout=0.0)
        first = weights_of(network)
        config = configure(epochs=2, ema_decay=0.5)
        _, last = fit(network, make_split(), make_split(8), config=config, batch_size=12, seed=0)
        expected, average = [], {name: value[: len(raw[0][name])] for name, value in first.items()}
        for number, weights in enumerate(raw):
            decay = min(0.5, (1 + number) / (10 + number))
            average = {name: decay * value + (1 - decay) * weights[name] for name, value in average.items()}
            expected.append(average)
        for got, wanted in ((seen[0], expected[1]), (seen[1], expected[3]), (last, expected[3])):
            for name, weight in got.items():
                rows = len(wanted[name])
                torch.testing.assert_close(weight[:rows], wanted[name], rtol=0, atol=1e-6)
                assert torch.equal(weight[rows:], first[name][rows:])
        assert are_equal(weights_of(network), seen[0])

    @needs_bfloat16
    def test_bf16_trains_close_to_fp32_and_keeps_fp32_weights(self):
        losses = []
        for precision in ("fp32", "bf16"):
            network = make_network(dropout=0.0)
            history, _ = fit(
                network, make_split(60), make_split(8), config=configure(precision=precision), batch_size=8, seed=0
            )
            assert {weight.dtype for weight in network.parameters()} == {torch.float32}
            losses.append(history.epochs[-1]["train_loss"])
        assert losses[0] != losses[1]
        assert losses[0] == pytest.approx(losses[1], rel=0.03)

    def test_both_layouts_train_to_the_same_numbers(self):
        trained = []
        for layout in ("padded", "packed"):
            network = make_network(**FULL_DROPOUT).double()
            fit(network, make_split(), make_split(8), config=configure(layout=layout), batch_size=8, seed=0)
            trained.append(weights_of(network))
        for name, weight in trained[0].items():
            torch.testing.assert_close(weight, trained[1][name], rtol=0, atol=1e-9)

    @pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("accuracy", 3), ("macro_f1", 1)])
    def test_the_named_metric_decides_which_epoch_is_best(self, monkeypatch, metric, best):
        scores = iter([(0.5, 0.1, 0.9), (0.3, 0.2, 0.8), (0.4, 0.3, 0.7)])
        names = [f"validation_{name}" for name in ("loss", "accuracy", "macro_f1")]
        monkeypatch.setattr(fitting, "validate", lambda *_: dict(zip(names, next(scores), strict=True)))
        history, _ = fit(
            make_network(), make_split(), make_split(8), config=configure(epochs=3, metric=metric), batch_size=8, seed=0
        )
        assert history.best_epoch == best


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
        {"bidirectional": False, "pooling": "attention", "layer_norm": True}, {"optimizer": "adam"}
    ),
    "average, accumulation": (FULL_DROPOUT, {"ema_decay": 0.9, "accumulation": 2}),
    "average, accumulation, bf16": (FULL_DROPOUT, {"ema_decay": 0.9, "accumulation": 2, "precision": "bf16"}),
    "frozen at first, plateau, balanced": (
        {"embeddings": torch.ones(VOCABULARY, 4)},
        {"frozen_epochs": 2, "schedule": "plateau", "class_weights": "balanced", "embedding_learning_rate": 0.001},
    ),
    "frozen throughout, early stop": (
        {"embeddings": torch.ones(VOCABULARY, 4), "freeze_embeddings": True}, {"patience": 1, "metric": "loss"}
    ),
}  # fmt: skip


class TestResume:
    @staticmethod
    def train(variant: str, checkpoints: Checkpoints | None = None, device: torch.device = CPU):
        model, training = VARIANTS[variant]
        network = make_network(
            **{**model, **({"embeddings": model["embeddings"].clone()} if "embeddings" in model else {})}
        ).to(device)
        config = configure(**{"epochs": 4, "patience": None, "log_every_steps": 2, **training})
        history, last = fit(
            network, make_split(22), make_split(8, seed=1), config=config, batch_size=5, seed=3,
            checkpoints=checkpoints,
        )  # fmt: skip
        return weights_of(network), last, {k: v for k, v in vars(history).items() if k != "seconds"}

    @pytest.mark.parametrize(
        "variant", [pytest.param(name, marks=[needs_bfloat16] if "bf16" in name else []) for name in VARIANTS]
    )
    def test_killed_anywhere_it_ends_like_an_unbroken_run(self, variant, tmp_path, device):
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

    def test_stopped_work_is_saved_at_once_and_goes_on(self, tmp_path):
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

    def test_stopped_in_a_validation_the_epoch_is_validated_again(self, tmp_path, monkeypatch):
        unbroken, stopped = self.train("average, accumulation"), []

        def stop_once(network, split):
            if not stopped:
                stopped.append(True)
                stop_work()
            return validate(network, split)

        monkeypatch.setattr(fitting, "validate", stop_once)
        try:
            with pytest.raises(WorkStopped):
                self.train("average, accumulation", Checkpoints(tmp_path, MACHINE))
        finally:
            allow_work()
        again = self.train("average, accumulation", Checkpoints(tmp_path, MACHINE))
        assert are_equal(again[0], unbroken[0])
        assert again[2] == unbroken[2]

    def test_a_step_that_is_not_finite_leaves_the_checkpoint_before_it(self, tmp_path):
        split, network = TestNonFiniteNumbers.poison(make_split(24), 17), make_network()
        with torch.no_grad():
            network.embedding.weight[POISON] = float("nan")
        checkpoints = Checkpoints(tmp_path, MACHINE, every_steps=1)
        with pytest.raises(TrainingError) as caught:
            fit(
                network, split, make_split(8), config=configure(epochs=1), batch_size=1, seed=0,
                checkpoints=checkpoints,
            )  # fmt: skip
        tensors, state = checkpoints.load()
        assert f"step {state['step'] + 1}:" in str(caught.value)
        assert torch.isfinite(tensors["weights/linear.weight"]).all()
