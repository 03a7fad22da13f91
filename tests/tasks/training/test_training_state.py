import math

import numpy as np
import pytest
import torch

from pipeline_config.errors import TrainingError
from tasks.training import training_state
from tasks.training.device import has_bfloat16_lstm
from tasks.training.fitting import fit
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


class TestLearningRate:
    def test_constant_schedule_keeps_the_learning_rate(self):
        recorder = Recorder()
        fit(
            make_network(),
            draw_split(24),
            draw_split(8),
            config=configure(schedule="constant"),
            batch_size=8,
            seed=0,
            on_metrics=recorder,
        )
        assert {rate for _, rate in recorder.series("learning_rate")} == {0.02}


class TestWeightUpdates:
    @pytest.mark.parametrize("freeze", [True, False], ids=["frozen", "trained"])
    def test_training_changes_pretrained_vectors_unless_frozen(self, freeze):
        vectors = torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(3))
        vectors[0] = 0.0
        network = make_network(embeddings=vectors.clone(), freeze_embeddings=freeze)
        fit(network, draw_split(), draw_split(8), config=configure(), batch_size=8, seed=0)
        assert torch.equal(network.embedding.weight, vectors) is freeze
        assert torch.equal(network.embedding.weight[0], torch.zeros(4))  # padding stays zero either way

    @pytest.mark.usefixtures("learn_by_sgd")
    @pytest.mark.parametrize("clip_norm", [0.01, None])
    def test_gradient_is_cut_to_the_clip_norm_and_its_own_norm_is_reported(self, clip_norm):
        network = make_network()
        before, recorder = weights_of(network), Recorder()
        fit(
            network,
            draw_split(),
            draw_split(8),
            batch_size=24,
            seed=0,
            on_metrics=recorder,
            config=configure(epochs=1, clip_norm=clip_norm, schedule="constant"),
        )
        change = math.sqrt(
            sum(float((weight - before[name]).square().sum()) for name, weight in weights_of(network).items())
        )
        ((_, norm),) = recorder.series("gradient_norm")
        assert norm > 0.05
        assert change == pytest.approx(norm if clip_norm is None else clip_norm, rel=1e-3)


class TestNonFiniteNumbers:
    def test_a_loss_that_is_not_finite_ends_training_before_the_step_and_names_step_and_documents(self):
        split = poison(draw_split(24), 17)
        network = make_network()
        with torch.no_grad():
            network.embedding.weight[POISON] = float("nan")
        snapshots = [weights_of(network)]
        with pytest.raises(TrainingError) as caught:
            fit(
                network,
                split,
                draw_split(8),
                config=configure(epochs=1),
                batch_size=1,
                seed=0,
                on_metrics=lambda _metrics, _step: snapshots.append(weights_of(network)),
            )
        failed = len(snapshots)
        assert str(caught.value) == (
            f"step {failed}: loss nan, gradient norm nan, expected finite numbers; documents [117] ...; "
            "try a smaller training.learning_rate"
        )
        assert 1 < failed < 24
        torch.testing.assert_close(weights_of(network), snapshots[-1], rtol=0, atol=0, equal_nan=True)

    def test_a_gradient_that_is_not_finite_ends_training_before_the_step(self):
        network = make_network()
        network.linear.bias.register_hook(lambda gradient: gradient * float("inf"))
        before = weights_of(network)
        with pytest.raises(TrainingError, match=r"step 1: loss 0\.\d+, gradient norm (inf|nan), expected finite"):
            fit(network, draw_split(), draw_split(8), config=configure(), batch_size=8, seed=0)
        assert are_equal(weights_of(network), before)


class TestSettings:
    """What single settings do to the steps."""

    @pytest.mark.usefixtures("learn_by_sgd")
    def test_accumulated_batches_take_the_step_of_one_large_batch(self):
        steps = []
        for batch_size, accumulation in ((24, 1), (5, 5)):
            network, recorder = make_network(dropout=0.0), Recorder()
            config = configure(epochs=1, accumulation=accumulation, class_weights="balanced", label_smoothing=0.1)
            history, _ = fit(
                network,
                draw_split(21),
                draw_split(8),
                config=config,
                batch_size=batch_size,
                seed=0,
                on_metrics=recorder,
            )
            assert history.step == 1
            steps.append((weights_of(network), recorder.series("step_loss")[0][1]))
        (one, one_loss), (other, other_loss) = steps
        assert one_loss == pytest.approx(other_loss, abs=1e-6)
        for name, weight in one.items():
            torch.testing.assert_close(weight, other[name], rtol=0, atol=1e-6)

    @pytest.mark.usefixtures("learn_by_sgd")
    def test_loss_is_that_of_weighted_smoothed_cross_entropy(self):
        split, network, recorder = draw_split(21), make_network(dropout=0.0), Recorder()
        input_ids, lengths = split.pad_batch(np.arange(21))
        logits = network(torch.from_numpy(input_ids), torch.from_numpy(lengths))
        expected = torch.nn.functional.cross_entropy(  # 11 documents of class 0, 10 of class 1
            logits,
            torch.from_numpy(split.label_ids.astype(np.int64)),
            label_smoothing=0.2,
            weight=torch.tensor([21 / 22, 21 / 20]),
        )
        config = configure(epochs=1, class_weights="balanced", label_smoothing=0.2)
        fit(network, split, draw_split(8), config=config, batch_size=24, seed=0, on_metrics=recorder)
        assert recorder.series("step_loss")[0][1] == pytest.approx(expected.item(), abs=1e-6)

    def test_pretrained_vectors_stay_in_the_frozen_epochs_and_move_after_them(self, script_macro_f1):
        vectors = torch.randn(VOCABULARY, 4, generator=torch.Generator().manual_seed(3))
        seen = script_macro_f1(0.1, 0.2, 0.3)
        network = make_network(embeddings=vectors.clone())
        fit(network, draw_split(), draw_split(8), config=configure(epochs=3, frozen_epochs=2), batch_size=8, seed=0)
        moved = [not torch.equal(weights["embedding.weight"], vectors) for weights in seen]
        assert moved == [False, False, True]

    def test_a_fresh_embedding_layer_is_never_frozen(self, script_macro_f1):
        seen, network = script_macro_f1(0.1), make_network()
        before = weights_of(network)["embedding.weight"]
        fit(network, draw_split(), draw_split(8), config=configure(epochs=1, frozen_epochs=1), batch_size=8, seed=0)
        assert not torch.equal(seen[0]["embedding.weight"], before)

    def test_the_moving_average_is_validated_and_kept_and_training_continues_with_the_raw_weights(
        self, script_macro_f1, monkeypatch
    ):
        seen, raw = script_macro_f1(0.5, 0.4), []
        step = torch.optim.AdamW.step
        monkeypatch.setattr(torch.optim.AdamW, "step", lambda self: [step(self), raw.append(weights_of(network))])
        network = make_network(dropout=0.0)
        first = weights_of(network)
        config = configure(epochs=2, ema_decay=0.5)
        _, last = fit(network, draw_split(), draw_split(8), config=config, batch_size=12, seed=0)
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
                network, draw_split(60), draw_split(8), config=configure(precision=precision), batch_size=8, seed=0
            )
            assert {weight.dtype for weight in network.parameters()} == {torch.float32}
            losses.append(history.epochs[-1]["train_loss"])
        assert losses[0] != losses[1]
        assert losses[0] == pytest.approx(losses[1], rel=0.03)

    def test_both_layouts_train_to_the_same_numbers(self):
        trained = []
        for layout in ("padded", "packed"):
            network = make_network(**FULL_DROPOUT).double()
            fit(network, draw_split(), draw_split(8), config=configure(layout=layout), batch_size=8, seed=0)
            trained.append(weights_of(network))
        for name, weight in trained[0].items():
            torch.testing.assert_close(weight, trained[1][name], rtol=0, atol=1e-9)

    @pytest.mark.parametrize(("metric", "best"), [("loss", 2), ("accuracy", 3), ("macro_f1", 1)])
    def test_the_named_metric_decides_which_epoch_is_best(self, monkeypatch, metric, best):
        scores = iter([(0.5, 0.1, 0.9), (0.3, 0.2, 0.8), (0.4, 0.3, 0.7)])
        names = [f"validation_{name}" for name in ("loss", "accuracy", "macro_f1")]
        monkeypatch.setattr(training_state, "validate", lambda *_: dict(zip(names, next(scores), strict=True)))
        history, _ = fit(
            make_network(), draw_split(), draw_split(8), config=configure(epochs=3, metric=metric), batch_size=8, seed=0
        )
        assert history.best_epoch == best


def test_only_a_training_on_cuda_silences_cudnns_warning(monkeypatch, device):
    calls = []
    monkeypatch.setattr(training_state, "ignore_weight_copies", lambda: calls.append(True))
    network = make_network().to(device)
    fit(network, draw_split(), draw_split(8), config=configure(epochs=1), batch_size=24, seed=0)
    assert calls == [True] * (device.type == "cuda")
