import math

import numpy as np
import pytest
import torch

from pipeline_config.settings import TrainingConfig
from tasks.served.network import TextClassifier
from tasks.training.optimization import (
    WIDE_RATE,
    average_weights,
    backpropagate,
    balance_classes,
    build_optimizers,
    clip_gradients,
    learning_rate_factor,
    set_learning_rates,
)

VOCABULARY = 12


def configure(**changes) -> TrainingConfig:
    return TrainingConfig(**{"learning_rate": 0.02, **changes})


def make_network(**changes) -> TextClassifier:
    return TextClassifier(
        num_embeddings=VOCABULARY,
        embedding_dim=4,
        num_classes=2,
        padding_idx=0,
        unk_idx=1,
        hidden_size=5,
        **{"num_layers": 1, "bidirectional": True, "pooling": "last", **changes},
    )


def factors(steps: int, **changes) -> list[float]:
    config = configure(**changes)
    return [learning_rate_factor(config, step=step, steps=steps) for step in range(steps)]


class TestSchedules:
    @pytest.mark.parametrize("steps", [1, 2, 3, 20, 333])
    @pytest.mark.parametrize("warmup", [0.1, 0.3, 0.7])
    def test_one_cycle_is_that_of_torch(self, steps, warmup):
        optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
        scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=steps, pct_start=warmup)
        expected = []
        for _ in range(steps):
            expected.append(scheduler.get_last_lr()[0])
            optimizer.step()
            if len(expected) < steps:
                scheduler.step()
        assert factors(steps, schedule="one_cycle", warmup=warmup) == pytest.approx(expected, rel=1e-9)

    def test_cosine_rises_on_a_line_and_falls_to_zero(self):
        got = factors(21, schedule="cosine", warmup=5 / 21)
        assert got[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
        assert got[12] == pytest.approx(0.5)  # half way from step 4 to step 20
        assert got[20] == pytest.approx(0.0)
        assert got[4:] == sorted(got[4:], reverse=True)

    def test_cosine_without_warmup_starts_at_the_peak(self):
        assert factors(11, schedule="cosine", warmup=0.0)[0] == pytest.approx(1.0, abs=0.03)

    def test_constant_stays(self):
        assert set(factors(10, schedule="constant")) == {1.0}

    @pytest.mark.parametrize(
        ("scores", "expected"),
        [((), 1.0), ((0.5,), 1.0), ((0.5, 0.6), 1.0), ((0.5, 0.5), 0.5), ((0.5, 0.4, 0.45, 0.6), 0.25)],
    )
    def test_plateau_is_halved_by_each_epoch_that_is_no_better_than_those_before(self, scores, expected):
        config = configure(schedule="plateau", warmup=0.0)
        assert learning_rate_factor(config, step=50, steps=100, scores=scores) == expected

    def test_plateau_warms_up(self):
        assert factors(10, schedule="plateau", warmup=0.4) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 7)

    def test_every_group_gets_its_share_of_its_own_peak(self):
        optimizers = build_optimizers(make_network(bigram_buckets=5), configure(embedding_learning_rate=0.001))
        peaks = [0.02, 0.001, WIDE_RATE]
        for factor in (0.5, 0.1):
            assert set_learning_rates(optimizers, factor) == pytest.approx(0.02 * factor)
            rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
            assert rates == pytest.approx([peak * factor for peak in peaks])


class TestOptimizer:
    @pytest.mark.parametrize(("name", "kind"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
    def test_kind_and_settings_are_the_configured_ones(self, name, kind):
        (optimizer,) = build_optimizers(make_network(), configure(optimizer=name, weight_decay=0.25))
        assert type(optimizer) is kind
        assert optimizer.param_groups[0]["weight_decay"] == 0.25
        assert optimizer.param_groups[0]["lr"] == 0.02

    def test_frozen_vectors_are_left_out(self):
        network = make_network(embeddings=torch.ones(VOCABULARY, 4), freeze_embeddings=True)
        (optimizer,) = build_optimizers(network, configure())
        (group,) = optimizer.param_groups
        weights = {id(weight) for weight in group["params"]}
        assert id(network.embedding.weight) not in weights
        assert weights == {id(weight) for weight in network.parameters() if weight.requires_grad}

    def test_trained_embeddings_are_a_group_of_their_own(self):
        network = make_network()
        (optimizer,) = build_optimizers(network, configure())
        others, (matrix,) = (group["params"] for group in optimizer.param_groups)
        assert matrix is network.embedding.weight
        assert {id(weight) for weight in (*others, matrix)} == {id(weight) for weight in network.parameters()}

    def test_a_step_changes_only_the_bigrams_of_its_texts(self):
        network = make_network(bigram_buckets=50)
        optimizers = build_optimizers(network, configure())
        table = network.bigrams
        input_ids, lengths = torch.tensor([[3, 4, 0], [5, 5, 6]]), torch.tensor([2, 3])
        network(input_ids, lengths)[:, 0].sum().backward()
        assert table.weight.grad.is_sparse
        clip_gradients(network.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
        pairs = table.hash_pairs(input_ids)[[0, 1, 1], [0, 0, 1]].tolist()
        assert set(table.weight.any(dim=1).nonzero().flatten().tolist()) == {3, 4, 5, 6, *pairs}
        # the first step of Adagrad moves each weight by its learning rate
        assert table.weight[table.weight != 0].abs().tolist() == pytest.approx([WIDE_RATE] * (4 + len(set(pairs))))


@pytest.mark.parametrize("largest", [None, 0.1, 1e9])
def test_clipping_is_that_of_torch_for_dense_and_sparse_gradients(largest):
    def gradients(sparse):
        rows = torch.nn.Embedding(7, 3, sparse=sparse, _weight=torch.ones(7, 3))
        other = torch.nn.Parameter(torch.ones(2))
        (rows(torch.tensor([1, 4, 4])).square().sum() + (3 * other).sum()).backward()
        return [rows.weight, other]

    dense, sparse = gradients(sparse=False), gradients(sparse=True)
    expected = torch.nn.utils.clip_grad_norm_(dense, largest or math.inf)
    assert clip_gradients(sparse, largest) == pytest.approx(float(expected))
    assert torch.equal(sparse[0].grad.to_dense(), dense[0].grad)
    assert torch.equal(sparse[1].grad, dense[1].grad)


def test_balanced_classes_weigh_the_same():
    label_ids = np.array([0, 0, 0, 1, 2, 2])
    weights = balance_classes(label_ids, 4)  # the last class has no document
    assert [float(weights[label_ids][label_ids == label].sum()) for label in range(3)] == pytest.approx([1.5, 1.5, 1.5])
    assert np.isfinite(weights).all()


def test_average_weights_by_hand():
    average, weights = {"w": torch.tensor([1.0])}, {"w": torch.tensor([2.0])}
    average_weights(average, weights, decay=0.99, step=0)  # decay 1/10 in the first step
    assert average["w"].item() == pytest.approx(1.9)
    average_weights(average, weights, decay=0.5, step=1000)
    assert average["w"].item() == pytest.approx(1.95)


class TestBackpropagation:
    def passes(self, network, adversarial):
        """Return the loss, the gradients and what a direct computation with autograd gives for both."""
        ids, lengths = torch.tensor([[2, 3, 4, 5], [6, 7, 0, 0]]), torch.tensor([4, 2])

        def loss_of(embedded):
            return torch.nn.functional.cross_entropy(network(ids, lengths, None, embedded), torch.tensor([0, 1]))

        value = backpropagate(loss_of, network.embed(ids), adversarial=adversarial)
        got = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
        network.zero_grad()
        embedded = network.embed(ids)
        inputs = embedded.detach().requires_grad_()
        (slope,) = torch.autograd.grad(loss_of(inputs), inputs)
        moved = embedded + adversarial * slope / slope.flatten(1).norm(dim=1)[:, None, None]
        expected = (loss_of(embedded) + loss_of(moved)) / 2 if adversarial else loss_of(embedded)
        expected.backward()
        return value, got, expected.item(), {n: w.grad for n, w in network.named_parameters() if w.grad is not None}

    @pytest.mark.parametrize("adversarial", [0.0, 0.3])
    @pytest.mark.parametrize("frozen", [False, True])
    def test_loss_and_gradients_are_those_of_the_formula(self, adversarial, frozen):
        torch.manual_seed(0)
        vectors = torch.randn(VOCABULARY, 4)
        network = make_network(
            pooling="mean_max", embeddings=vectors, freeze_embeddings=frozen, bigram_buckets=5
        ).double()
        value, got, expected, gradients = self.passes(network, adversarial)
        assert value == pytest.approx(expected, abs=1e-12)
        assert got.keys() == gradients.keys()
        assert ("embedding.weight" in got) == (not frozen)
        assert got["bigrams.weight"].any()
        for name, gradient in gradients.items():
            torch.testing.assert_close(got[name], gradient, rtol=0, atol=1e-12)

    def test_the_move_raises_the_loss_and_moves_each_document_as_far_as_it_should(self):
        seen = []

        def loss_of(embedded):
            seen.append(embedded.detach())
            return (embedded**2).sum()

        embedded = torch.tensor([[[3.0, 4.0]], [[0.0, 1.0]]], requires_grad=True) * 1
        assert backpropagate(loss_of, embedded, adversarial=0.5) > 26
        distances = (seen[1] - seen[0]).flatten(1).norm(dim=1)
        torch.testing.assert_close(distances, torch.full((2,), 0.5))

    def test_a_document_with_a_gradient_of_zero_is_not_moved(self):
        embedded = torch.zeros(1, 2, 2, requires_grad=True) * 1
        assert backpropagate(lambda e: (e**2).sum(), embedded, adversarial=0.5) == 0.0
