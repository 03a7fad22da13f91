"""The state of a training between two steps: what a step does to it, and what a checkpoint holds of it.

A step is a function of weights, optimizer state, seed and step number: the order of batches is drawn from (seed,
epoch), and all dropout from (seed, step). So a checkpoint needs no state of a random generator, and nothing else that
runs in the process changes the numbers.
"""

import contextlib
import functools
import math
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_config.errors import TrainingError
from pipeline_config.settings import TrainingConfig
from tasks.batches.encoded_split import EncodedSplit
from tasks.evaluation.prediction import to_tensors, validate
from tasks.runtime.cancellation import raise_if_stopped
from tasks.served.network import TextClassifier
from tasks.training.device import ignore_weight_copies, set_precision
from tasks.training.history import History
from tasks.training.optimization import (
    average_weights,
    backpropagate,
    balance_classes,
    build_optimizers,
    clip_gradients,
    learning_rate_factor,
    set_learning_rates,
    sparse_weight,
    take_trained_rows,
)


class Training:
    """A training between two steps; it can be saved there and resumed."""

    def __init__(
        self,
        network: TextClassifier,
        train: EncodedSplit,
        validation: EncodedSplit,
        *,
        config: TrainingConfig,
        batch_size: int,
        seed: int,
    ) -> None:
        self.network, self.train, self.validation, self.config, self.seed = network, train, validation, config, seed
        self.device = next(network.parameters()).device
        self.generator = torch.Generator(self.device)
        self.matrix = network.embedding.weight
        network.embedding.weight = take_trained_rows(self.matrix, train.input_ids)
        self.weights: dict[str, Tensor] = {
            n: weight for n, weight in network.named_parameters() if weight.requires_grad
        }
        averaged = {} if config.ema_decay is None else self.weights
        table = sparse_weight(network)  # an average of all its rows would cost more than the rest of a step
        self.average = {name: weight.detach().clone() for name, weight in averaged.items() if weight is not table}
        self.best: dict[str, Tensor] = {}
        self.optimizers = build_optimizers(network, config)
        self.history = History()
        self.plans = [
            plan_steps(train, batch_size=batch_size, accumulation=config.accumulation, seed=seed, epoch=epoch)
            for epoch in range(config.epochs)
        ]
        self.total_steps = sum(len(plan) for plan in self.plans)
        self.label_ids = torch.from_numpy(train.label_ids.astype(np.int64))
        classes = network.linear.out_features
        shares = balance_classes(train.label_ids, classes) if config.class_weights else np.ones(classes, np.float32)
        self.class_weights = torch.from_numpy(shares)
        self.autocast_type = set_precision(config.precision, self.device)
        network.lstm.layout = config.layout
        if self.device.type == "cuda":
            ignore_weight_copies()

    def is_finished(self) -> bool:
        """Return whether all epochs are done, or `patience` epochs have passed since the best one."""
        done, patience = len(self.history.epochs), self.config.patience
        return done >= len(self.plans) or (patience is not None and done - self.history.best_epoch >= patience)

    def run_epoch(self) -> Iterator[dict[str, float]]:
        """Take the remaining steps of the epoch and yield the metrics of each."""
        epoch = len(self.history.epochs)
        if self.network.pretrained and "embedding.weight" in self.weights:
            self.network.embedding.weight.requires_grad_(epoch >= self.config.frozen_epochs)
        self.network.train()
        first = self.history.step - sum(len(plan) for plan in self.plans[:epoch])
        for batches in self.plans[epoch][first:]:
            yield self.take_step(batches)

    def take_step(self, batches: list[np.ndarray]) -> dict[str, float]:
        """Update the weights by the gradient over some batches, and return the metrics of the step (`STEPS`).

        Raises:
            TrainingError: the loss or the gradient is not finite; the weights are not changed.
        """
        started, history = time.perf_counter(), self.history
        self.generator.manual_seed(draw_seed(self.seed, history.step))
        loss, tokens, positions = self._accumulate(batches)
        norm = clip_gradients(self.network.parameters(), self.config.clip_norm)
        documents = np.concatenate(batches)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.network.zero_grad()
            raise TrainingError(
                f"step {history.step + 1}: loss {loss}, gradient norm {norm}, expected finite numbers; documents "
                f"{self.train.doc_ids[documents][:10].tolist()} ...; try a smaller training.learning_rate"
            )
        scores = [self._score(epoch) for epoch in history.epochs]
        factor = learning_rate_factor(self.config, step=history.step, steps=self.total_steps, scores=scores)
        rate = set_learning_rates(self.optimizers, factor)
        for optimizer in self.optimizers:
            optimizer.step()
        self.network.zero_grad()
        if self.config.ema_decay is not None:
            average_weights(self.average, self.weights, decay=self.config.ema_decay, step=history.step)
        history.step += 1
        history.epoch_loss += loss * len(documents)
        history.tokens += tokens
        history.seconds += time.perf_counter() - started
        return {
            "step_loss": loss,
            "learning_rate": rate,
            "gradient_norm": norm,
            "batch_padding_efficiency": tokens / positions,
        }

    def close_epoch(self) -> None:
        """Validate the network, record the epoch, and keep its weights if they are the best so far."""
        history = self.history
        with self._averaged(), self._whole_matrix():
            scores = validate(self.network, self.validation)
            epoch = len(history.epochs) + 1
            history.epochs.append(
                {"epoch": epoch, "step": history.step, "train_loss": history.epoch_loss / len(self.train), **scores}
            )
            history.epoch_loss = 0.0
            if not history.best_epoch or self._score(scores) > history.best_score:
                history.best_epoch, history.best_score = epoch, self._score(scores)
                self.best = {name: weight.detach().clone() for name, weight in self.weights.items()}

    def finish(self) -> dict[str, Tensor]:
        """Put the best weights into the network and return the last ones."""
        with self._averaged(), self._whole_matrix():
            last = {name: weight.detach().clone() for name, weight in self.network.state_dict().items()}
        self._put(self.best)
        return last

    def release(self) -> None:
        """Give its whole embedding matrix back to the network."""
        self.network.embedding.weight = self.matrix

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint holds: tensors, and the history as JSON values."""
        groups: dict[str, dict[str, Tensor]] = {"weights": self.weights, "average": self.average, "best": self.best}
        for kind, optimizer in enumerate(self.optimizers):
            states = optimizer.state_dict()["state"]
            groups |= {f"optimizer/{kind}/{number}": state for number, state in states.items()}
        tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
        return tensors, asdict(self.history)

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Resume from a snapshot."""
        groups: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            group, _, name = path.rpartition("/")
            groups.setdefault(group, {})[name] = tensor.to(self.device)
        self._put(groups["weights"])
        self.average, self.best = groups.get("average", {}), groups.get("best", {})
        for kind, optimizer in enumerate(self.optimizers):
            start = f"optimizer/{kind}/"
            states = {int(g.removeprefix(start)): value for g, value in groups.items() if g.startswith(start)}
            optimizer.load_state_dict({**optimizer.state_dict(), "state": states})
        self.history = History(**state)

    def _accumulate(self, batches: list[np.ndarray]) -> tuple[float, int, int]:
        """Add up the gradient over batches; return the mean loss of a document, the real tokens, and all positions."""
        total = float(self.class_weights[self.label_ids[np.concatenate(batches)]].sum())
        loss, tokens, positions = 0.0, 0, 0
        for documents in batches:
            raise_if_stopped()
            input_ids, lengths = to_tensors(self.train, documents, self.device)
            embedded = self.network.embed(input_ids, self.generator)
            loss_of = functools.partial(self._loss, input_ids, lengths, documents=documents, divisor=total)
            loss += backpropagate(loss_of, embedded, adversarial=self.config.adversarial)
            tokens += int(self.train.lengths[documents].sum())
            positions += input_ids.numel()
        return loss, tokens, positions

    def _loss(
        self, input_ids: Tensor, lengths: Tensor, embedded: Tensor, *, documents: np.ndarray, divisor: float
    ) -> Tensor:
        """Return the summed loss of embedded documents, divided by `divisor`."""
        with torch.autocast(self.device.type, self.autocast_type, enabled=self.autocast_type is not None):
            logits = self.network(input_ids, lengths, self.generator, embedded)
        return (
            nn.functional.cross_entropy(
                logits.float(),
                self.label_ids[documents].to(self.device),
                weight=self.class_weights.to(self.device),
                reduction="sum",
                label_smoothing=self.config.label_smoothing,
            )
            / divisor
        )

    def _score(self, scores: dict[str, float]) -> float:
        value = scores[f"validation_{self.config.metric}"]
        return -value if self.config.metric == "loss" else value

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Use the averaged weights inside the body, if an average is kept."""
        raw = {name: self.weights[name].detach().clone() for name in self.average}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(raw)

    @contextlib.contextmanager
    def _whole_matrix(self) -> Iterator[None]:
        """Use the whole embedding matrix inside the body, with the rows that are not trained."""
        rows = self.network.embedding.weight
        self.network.embedding.weight = self.matrix
        try:
            yield
        finally:
            self.network.embedding.weight = rows

    def _put(self, values: dict[str, Tensor]) -> None:
        with torch.no_grad():
            for name, value in values.items():
                self.weights[name].copy_(value)


def plan_steps(
    split: EncodedSplit, *, batch_size: int, accumulation: int, seed: int, epoch: int
) -> list[list[np.ndarray]]:
    """Return the batches of each step of an epoch."""
    batches = split.plan_batches(batch_size=batch_size, seed=seed, epoch=epoch)
    return [batches[start : start + accumulation] for start in range(0, len(batches), accumulation)]


def draw_seed(seed: int, step: int) -> int:
    """Return the seed, 32 bits, of the random numbers of a step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
