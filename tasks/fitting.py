"""The training loop: Adam over length buckets, a learning rate schedule, early stopping on macro F1.

Takes a network and encoded splits, changes the network; touches no file. On the CPU the network's padded road
is used (see `tasks.network`), so batches come from length buckets to keep padding rare.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_config.errors import TrainingError
from pipeline_config.settings import TrainingConfig
from tasks.bucketing import EncodedSplit
from tasks.network import TextClassifier
from tasks.progress import track_progress
from tasks.scores import predict_probabilities, score_predictions, to_tensors

logger = logging.getLogger(__name__)


@dataclass
class History:
    """What happened: one entry per logged step and per epoch, the best epoch, and wall-clock figures."""

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_macro_f1: float = -1.0
    tokens: int = 0
    seconds: float = 0.0  # of the training passes alone


def fit(
    network: TextClassifier,
    train: EncodedSplit,
    validation: EncodedSplit,
    *,
    config: TrainingConfig,
    batch_size: int,
    seed: int,
    on_metrics: Callable[[dict[str, float], int], None] = lambda _metrics, _step: None,
) -> History:
    """Train a network in place and leave the best epoch's weights in it.

    Args:
        network: the network, on the device to train on.
        train: documents to learn from.
        validation: documents that decide which epoch is best, by macro F1.
        config: optimizer, schedule and stopping rule.
        batch_size: documents per step.
        seed: of the order of batches.
        on_metrics: called with metrics and the step they belong to.

    Raises:
        TrainingError: the loss or a gradient is not finite; the step is not taken.
    """
    history = History()
    plans = [train.plan_batches(batch_size=batch_size, seed=seed, epoch=e) for e in range(config.epochs)]
    total = sum(len(plan) for plan in plans)
    optimizer = build_optimizer(network, config)
    scheduler = build_scheduler(optimizer, config, total)
    best: dict[str, Tensor] = {}
    with track_progress("train", total=total, unit="steps", artifact="training-progress") as advance:
        for epoch, plan in enumerate(plans, start=1):
            loss = _train_epoch(network, train, plan, optimizer, scheduler, config, history, on_metrics, advance)
            scores = validate(network, validation)
            step = sum(len(done) for done in plans[:epoch])
            history.epochs.append({"epoch": epoch, "step": step, "train_loss": loss, **scores})
            on_metrics({k: v for k, v in history.epochs[-1].items() if k != "step"}, step)
            _log_epoch(history, config.epochs)
            if scores["validation_macro_f1"] > history.best_macro_f1:
                history.best_epoch, history.best_macro_f1 = epoch, scores["validation_macro_f1"]
                best = {name: weight.detach().clone() for name, weight in network.state_dict().items()}
            elif config.patience and epoch - history.best_epoch >= config.patience:
                logger.info("no better validation macro F1 for %d epochs: training ends", config.patience)
                break
    network.load_state_dict(best)
    return history


def validate(network: TextClassifier, split: EncodedSplit) -> dict[str, float]:
    """Return loss, accuracy and macro F1 of a network on a split, with keys `validation_*`."""
    scores = score_predictions(split.label_ids, predict_probabilities(network, split))
    return {f"validation_{name}": scores[key] for name, key in (
        ("loss", "log_loss"), ("accuracy", "accuracy"), ("macro_f1", "macro_f1"))}  # fmt: skip


def build_optimizer(network: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """Return Adam (Kingma & Ba 2015) or AdamW (Loshchilov & Hutter 2019) over the trainable weights."""
    kind = torch.optim.AdamW if config.optimizer == "adamw" else torch.optim.Adam
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    return kind(weights, lr=config.learning_rate, weight_decay=config.weight_decay, fused=True)


def build_scheduler(
    optimizer: torch.optim.Optimizer, config: TrainingConfig, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Return the learning rate schedule over `steps` optimizer steps; one_cycle is Smith & Topin's (2018)."""
    if config.schedule == "constant":
        return torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=config.learning_rate, total_steps=steps, cycle_momentum=False
    )


def pick_device(name: str) -> torch.device:
    """Return the device to train on; `auto` is CUDA when there is one.

    Raises:
        TrainingError: CUDA is asked for and not there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise TrainingError("training.device: got cuda, but torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


@contextlib.contextmanager
def seeded(seed: int, threads: int | None = None) -> Iterator[None]:
    """Seed torch for the body and put its generators and thread count back afterwards."""
    before = torch.get_num_threads()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        torch.set_num_threads(threads or before)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _train_epoch(
    network: TextClassifier,
    split: EncodedSplit,
    plan: list[np.ndarray],
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    config: TrainingConfig,
    history: History,
    on_metrics: Callable[[dict[str, float], int], None],
    advance: Callable[..., None],
) -> float:
    device = next(network.parameters()).device
    label_ids = torch.as_tensor(split.label_ids.astype(np.int64), device=device)
    network.train()
    started, total_loss = time.perf_counter(), 0.0
    first = history.epochs[-1]["step"] if history.epochs else 0
    for step, documents in enumerate(plan, start=int(first) + 1):
        input_ids, lengths = to_tensors(split, documents, device)
        loss = nn.functional.cross_entropy(network(input_ids, lengths), label_ids[documents])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(network.parameters(), config.clip_norm or math.inf)
        value, size = loss.item(), norm.item()
        if not (math.isfinite(value) and math.isfinite(size)):
            raise TrainingError(
                f"step {step}: loss {value}, gradient norm {size}, expected finite numbers; documents "
                f"{split.doc_ids[documents][:10].tolist()} ...; a smaller training.learning_rate may help"
            )
        optimizer.step()
        metrics: dict[str, float] = {
            "step_loss": value, "learning_rate": float(scheduler.get_last_lr()[0]), "gradient_norm": size,
            "batch_padding_efficiency": float(lengths.sum()) / input_ids.numel(),
        }  # fmt: skip
        scheduler.step()
        total_loss += value * len(documents)
        history.tokens += int(lengths.sum())
        if step % config.log_every_steps == 0:
            history.steps.append({"step": step, **metrics})
            on_metrics(metrics, step)
        advance(1, loss=f"{value:.3f}")
    history.seconds += time.perf_counter() - started
    return total_loss / len(split)


def _log_epoch(history: History, epochs: int) -> None:
    last = history.epochs[-1]
    logger.info(
        "epoch %d of %d: train loss %.3f, validation loss %.3f, accuracy %.3f, macro F1 %.3f, %s tokens/s",
        last["epoch"], epochs, last["train_loss"], last["validation_loss"], last["validation_accuracy"],
        last["validation_macro_f1"], f"{history.tokens / max(history.seconds, 1e-9):,.0f}",
    )  # fmt: skip
