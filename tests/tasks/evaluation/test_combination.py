from typing import get_args

import numpy as np
import pytest

from pipeline_config.contracts.evaluation import Candidate
from tasks.evaluation.calibration import fit_temperature, log_losses, soften
from tasks.evaluation.combination import choose_share, combine, logarithms

N, C = 600, 3


def make_logits(seed: int, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Return logits of a model that knows something about the classes, which are drawn with another seed, and these."""
    label_ids = np.random.default_rng(99).integers(0, C, N)
    return np.random.default_rng(seed).normal(size=(N, C)) + strength * np.eye(C)[label_ids], label_ids


def test_two_models_that_know_as_much_share_equally() -> None:
    (a, label_ids), (b, _) = make_logits(1, 1.0), make_logits(2, 1.0)
    assert choose_share(a, b, label_ids) == 0.5


@pytest.mark.parametrize(("network", "linear", "share"), [(2.0, 0.0, 1.0), (0.0, 2.0, 0.0)])
def test_a_model_that_knows_nothing_has_no_share(network: float, linear: float, share: float) -> None:
    # the one that knows nothing is sure of itself, so that any share of it costs much
    (a, label_ids), (b, _) = make_logits(1, network), make_logits(2, linear)
    factors = (6.0 if network == 0 else 1.0, 6.0 if linear == 0 else 1.0)
    assert choose_share(a * factors[0], b * factors[1], label_ids) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize("count", [12, N])
def test_few_documents_move_the_share_less_than_chance_would(count: int) -> None:
    (a, label_ids), (b, _) = make_logits(1, 0.5), make_logits(2, 1.6)
    a, b, label_ids = a[:count], b[:count], label_ids[:count]
    shares = np.arange(21) / 20
    mixed = [share * a + (1 - share) * b for share in shares]
    losses = np.array([log_losses(one, label_ids, fit_temperature(one, label_ids)) for one in mixed])
    best = int(losses.mean(axis=1).argmin())
    found = choose_share(a, b, label_ids)
    excess = losses[round(found * 20)] - losses[best]
    assert excess.mean() <= excess.std() / np.sqrt(count)
    assert shares[best] <= found < 0.5
    assert (found - shares[best] > 0.1) == (count == 12)


def test_both_together_are_better_than_each_and_what_is_registered_gives_their_answers() -> None:
    (a, label_ids), (b, _) = make_logits(1, 1.0), make_logits(2, 1.0)
    linear_temperature = 0.4  # what a linear model divided its logits by
    network, linear = (
        {"validation": a, "test": a * 1.0},
        {split: logarithms(soften(b, 1.0)) for split in ("validation", "test")},
    )
    combined = combine(network, linear, label_ids, wanted="best", linear_temperature=linear_temperature)
    losses = {
        name: log_losses(combined.logits[name]["test"], label_ids, combined.temperatures[name]).mean()
        for name in get_args(Candidate)
    }
    assert losses["hybrid"] < min(losses["lstm"], losses["linear"]) - 0.02
    found = combined.combination
    assert (found.candidate, found.share) == ("hybrid", 0.5)
    raw_linear = b * linear_temperature  # its logits, before its temperature
    served = soften(a / found.network_temperature + raw_linear / found.linear_temperature, 1.0)
    np.testing.assert_allclose(
        served, soften(combined.logits["hybrid"]["test"], combined.temperatures["hybrid"]), atol=1e-12
    )


@pytest.mark.parametrize("wanted", get_args(Candidate))
def test_what_is_asked_for_is_registered(wanted: Candidate) -> None:
    (a, label_ids), (b, _) = make_logits(1, 1.0), make_logits(2, 1.0)
    linear = {"validation": logarithms(soften(b, 1.0)), "test": logarithms(soften(b, 1.0))}
    found = combine({"validation": a, "test": a}, linear, label_ids, wanted=wanted, linear_temperature=2.0).combination
    assert found.candidate == wanted
    assert (found.network_temperature is None) == (wanted == "linear")
    assert (found.linear_temperature is None) == (wanted == "lstm")


def test_a_probability_of_zero_has_a_logarithm() -> None:
    assert np.isfinite(logarithms(np.array([[1.0, 0.0]]))).all()
