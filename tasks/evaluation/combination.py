"""Puts the network and the linear model together, and chooses which of the three is registered. Touches no file.

Both take part with the logarithms of their calibrated probabilities: a weighted mean of these, and the softmax of it.
The weight is fitted on validation documents. As long as these do not tell otherwise, both weigh the same.
"""

from typing import Literal, NamedTuple

import numpy as np

from pipeline_config.contracts.evaluation import Candidate, Combination
from pipeline_config.schemas import Split
from tasks.evaluation.calibration import choose_temperature, fit_temperature, log_losses

_STEPS = 20  # of the share of the network
_LEAST_PROBABILITY = 1e-300
Logits = dict[Split, np.ndarray]  # float64[N, C] of the validation and the test split


class Combined(NamedTuple):
    """What came of it.

    Attributes:
        combination: which is registered, and the numbers that it is put together by.
        logits: of each model by split, before the temperature.
        temperatures: of each model.
    """

    combination: Combination
    logits: dict[Candidate, Logits]
    temperatures: dict[Candidate, float]


def combine(
    network: Logits,
    linear: Logits,
    label_ids: np.ndarray,
    *,
    wanted: Candidate | Literal["best"],
    linear_temperature: float,
) -> Combined:
    """Return the network, the linear model and both together.

    Args:
        network: its logits.
        linear: the logarithms of the probabilities of the linear model, which is calibrated.
        label_ids: int[N], the classes of the validation documents.
        wanted: which is to be registered; `best` leaves it to the validation documents.
        linear_temperature: what the linear model divided its logits by.
    """
    temperature = choose_temperature(network["validation"], label_ids)
    calibrated = {split: logits / temperature for split, logits in network.items()}
    share = choose_share(calibrated["validation"], linear["validation"], label_ids)
    inner = min(max(share, 1 / _STEPS), 1 - 1 / _STEPS)
    hybrid = {split: inner * calibrated[split] + (1 - inner) * linear[split] for split in network}
    temperatures: dict[Candidate, float] = {
        "lstm": temperature,
        "linear": 1.0,
        "hybrid": choose_temperature(hybrid["validation"], label_ids, sure=0.0),  # such means are often too cautious
    }
    candidate = _name_best(share) if wanted == "best" else wanted
    both = temperatures["hybrid"]
    parts: dict[Candidate, tuple[float | None, float | None]] = {
        "lstm": (temperature, None),
        "linear": (None, linear_temperature),
        "hybrid": (temperature * both / inner, linear_temperature * both / (1 - inner)),
    }
    combination = Combination(
        candidate=candidate,
        share=share,
        network_temperature=parts[candidate][0],
        linear_temperature=parts[candidate][1],
    )
    return Combined(combination, {"lstm": network, "linear": linear, "hybrid": hybrid}, temperatures)


def choose_share(network: np.ndarray, linear: np.ndarray, label_ids: np.ndarray) -> float:
    """Return the share of the network, from 0 to 1, that is nearest to a half among the good ones.

    A share is good if its log-loss on these documents is not above the smallest by more than a standard error, so that
    few documents do not decide by chance.

    Args:
        network: calibrated logits float64[N, C].
        linear: the same of the linear model.
        label_ids: int[N].
    """
    shares = [step / _STEPS for step in range(_STEPS + 1)]
    losses = np.array([_measure_losses(s * network + (1 - s) * linear, label_ids) for s in shares])
    best = losses[int(losses.mean(axis=1).argmin())]
    excess = losses - best
    errors = excess.std(axis=1) / np.sqrt(len(label_ids))
    good = [share for share, more, error in zip(shares, excess.mean(axis=1), errors, strict=True) if more <= error]
    return min(good, key=lambda share: abs(share - 0.5))


def logarithms(probabilities: np.ndarray) -> np.ndarray:
    """Return float64[N, C]: logits with which the softmax gives probabilities."""
    found: np.ndarray = np.log(np.maximum(probabilities, _LEAST_PROBABILITY))
    return found


def _measure_losses(logits: np.ndarray, label_ids: np.ndarray) -> np.ndarray:
    return log_losses(logits, label_ids, fit_temperature(logits, label_ids))


def _name_best(share: float) -> Candidate:
    if share in (0.0, 1.0):
        return "lstm" if share else "linear"
    return "hybrid"
