"""The training loop: length buckets in, a trained network and its history out, resumable at every step.

Changes the network; touches no file but through `checkpoints`. A step is a function of weights, optimizer
state, seed and step number: the order of batches and all dropout are drawn anew from (seed, epoch) and (seed,
step). So a checkpoint needs no state of a random generator, and what else runs in the process changes nothing.
"""

import contextlib
import functools
import logging
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
from tasks.runtime.cancellation import WorkStopped, raise_if_stopped
from tasks.runtime.progress import track_progress
from tasks.served.network import TextClassifier
from tasks.training.checkpoints import Checkpoints
from tasks.training.device import set_precision
from tasks.training.history import History, OnMetrics
from tasks.training.optimization import (
    average_weights,
    backpropagate,
    balance_classes,
    build_optimizer,
    learning_rate_factor,
    set_learning_rates,
    trained_rows,
)

logger = logging.getLogger(__name__)


def fit(
    network: TextClassifier,
    train: EncodedSplit,
    validation: EncodedSplit,
    *,
    config: TrainingConfig,
    batch_size: int,
    seed: int,
    on_metrics: OnMetrics = lambda _metrics, _step: None,
    checkpoints: Checkpoints | None = None,
) -> tuple[History, dict[str, Tensor]]:
    """Train a network in place and leave the best epoch's weights in it.

    Args:
        network: the network, on the device to train on.
        train: documents to learn from.
        validation: documents that decide which epoch is best.
        config: optimizer, schedule and stopping rule.
        batch_size: documents per batch.
        seed: of the order of batches and of dropout.
        on_metrics: called with metrics and the step they belong to.
        checkpoints: where to save, and to go on from when there is one; saved too when work is stopped.

    Returns:
        What happened, and the weights after the last step.

    Raises:
        TrainingError: the loss or a gradient is not finite; the step is not taken, the last checkpoint stays.
    """
    training = Training(network, train, validation, config=config, batch_size=batch_size, seed=seed)
    try:
        _run_epochs(training, on_metrics, checkpoints)
    except WorkStopped:
        if checkpoints:
            checkpoints.save(*training.snapshot())
        raise
    finally:
        training.release()
    return training.history, training.finish()


def _run_epochs(training: "Training", on_metrics: OnMetrics, checkpoints: Checkpoints | None) -> None:
    """Take all steps that are left, from the last checkpoint on."""
    restored = checkpoints.load() if checkpoints else None
    if restored:
        training.restore(*restored)
        logger.info("training goes on after step %d of %d", training.history.step, training.total_steps)
    history, every, epochs = training.history, training.config.log_every_steps, len(training.plans)
    with track_progress(
        "train", total=training.total_steps, unit="steps", initial=history.step, artifact="training-progress"
    ) as advance:
        while not training.is_finished():
            for metrics in training.run_epoch():
                history.report_step(metrics, on_metrics, every=every)
                if checkpoints and checkpoints.is_due(history.step):
                    checkpoints.save(*training.snapshot())
                advance(1, **history.describe_step(metrics, epochs=epochs))
            training.close_epoch()
            history.report_epoch(on_metrics, epochs=epochs)


class Training:
    """One training between two steps: what a checkpoint holds, and how it goes on."""

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
        network.embedding.weight = trained_rows(self.matrix, train.input_ids)
        self.weights: dict[str, Tensor] = {
            n: weight for n, weight in network.named_parameters() if weight.requires_grad
        }
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()} if (
            config.ema_decay is not None
        ) else {}  # fmt: skip
        self.best: dict[str, Tensor] = {}
        self.optimizer = build_optimizer(network, config)
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

    def is_finished(self) -> bool:
        """Tell whether all epochs are done or no better one is expected."""
        done, patience = len(self.history.epochs), self.config.patience
        return done >= len(self.plans) or (patience is not None and done - self.history.best_epoch >= patience)

    def run_epoch(self) -> Iterator[dict[str, float]]:
        """Take the steps of the epoch that are left and yield the metrics of each."""
        epoch = len(self.history.epochs)
        if self.network.pretrained and "embedding.weight" in self.weights:
            self.network.embedding.weight.requires_grad_(epoch >= self.config.frozen_epochs)
        self.network.train()
        first = self.history.step - sum(len(plan) for plan in self.plans[:epoch])
        for batches in self.plans[epoch][first:]:
            yield self.take_step(batches)

    def take_step(self, batches: list[np.ndarray]) -> dict[str, float]:
        """Update the weights by the gradient over some batches and return loss, rate, norm and padding.

        Raises:
            TrainingError: loss or gradient is not finite; nothing is changed.
        """
        started, history = time.perf_counter(), self.history
        self.generator.manual_seed(draw_seed(self.seed, history.step))
        loss, tokens, positions = self._accumulate(batches)
        norm = float(nn.utils.clip_grad_norm_(self.network.parameters(), self.config.clip_norm or math.inf))
        documents = np.concatenate(batches)
        if not (math.isfinite(loss) and math.isfinite(norm)):
            self.optimizer.zero_grad()
            raise TrainingError(
                f"step {history.step + 1}: loss {loss}, gradient norm {norm}, expected finite numbers; documents "
                f"{self.train.doc_ids[documents][:10].tolist()} ...; a smaller training.learning_rate may help"
            )
        scores = [self._score(epoch) for epoch in history.epochs]
        factor = learning_rate_factor(self.config, step=history.step, steps=self.total_steps, scores=scores)
        rate = set_learning_rates(self.optimizer, factor)
        self.optimizer.step()
        self.optimizer.zero_grad()
        if self.config.ema_decay is not None:
            average_weights(self.average, self.weights, self.config.ema_decay, history.step)
        history.step += 1
        history.epoch_loss += loss * len(documents)
        history.tokens += tokens
        history.seconds += time.perf_counter() - started
        return {
            "step_loss": loss, "learning_rate": rate, "gradient_norm": norm,
            "batch_padding_efficiency": tokens / positions,
        }  # fmt: skip

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
        """Give the network its whole embedding matrix back."""
        self.network.embedding.weight = self.matrix

    def snapshot(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return what a checkpoint holds: tensors, and the history as JSON values."""
        optimizer = self.optimizer.state_dict()["state"]
        groups: dict[str, dict[str, Tensor]] = {"weights": self.weights, "average": self.average, "best": self.best}
        groups |= {f"optimizer/{number}": state for number, state in optimizer.items()}
        tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
        return tensors, asdict(self.history)

    def restore(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Go on from a snapshot."""
        groups: dict[str, dict[str, Tensor]] = {}
        for path, tensor in tensors.items():
            group, _, name = path.rpartition("/")
            groups.setdefault(group, {})[name] = tensor.to(self.device)
        self._put(groups["weights"])
        self.average, self.best = groups.get("average", {}), groups.get("best", {})
        states = {int(g.partition("/")[2]): value for g, value in groups.items() if g.startswith("optimizer/")}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": states})
        self.history = History(**state)

    def _accumulate(self, batches: list[np.ndarray]) -> tuple[float, int, int]:
        """Sum up the gradient over batches; return the mean loss over their documents, real and all positions."""
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
        """Return the summed loss over embedded documents, divided."""
        with torch.autocast(self.device.type, self.autocast_type, enabled=self.autocast_type is not None):
            logits = self.network(input_ids, lengths, self.generator, embedded)
        return nn.functional.cross_entropy(
            logits.float(), self.label_ids[documents].to(self.device), weight=self.class_weights.to(self.device),
            reduction="sum", label_smoothing=self.config.label_smoothing,
        ) / divisor  # fmt: skip

    def _score(self, scores: dict[str, float]) -> float:
        value = scores[f"validation_{self.config.metric}"]
        return -value if self.config.metric == "loss" else value

    @contextlib.contextmanager
    def _averaged(self) -> Iterator[None]:
        """Let the body see the averaged weights, where an average is kept."""
        raw = {name: weight.detach().clone() for name, weight in self.weights.items()} if self.average else {}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(raw)

    @contextlib.contextmanager
    def _whole_matrix(self) -> Iterator[None]:
        """Let the body see the rows of all tokens, those that are not trained too."""
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
    """Return 32 bits that stand for a step of a training."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])
