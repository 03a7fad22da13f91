"""The history of a training, and how it is reported: metrics, a log line per epoch, the text of the progress bar.

Holds numbers only; touches no file.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

logger = logging.getLogger(__name__)
OnMetrics = Callable[[dict[str, float], int], None]


@dataclass
class History:
    """What happened so far: one entry per logged step and per epoch, the best epoch, and the position of the training.

    `step` counts the steps taken, `epoch_loss` sums the loss over the documents of the unfinished epoch, `tokens`
    counts real tokens (no padding), and `seconds` is the time spent in steps, without validation.
    """

    steps: list[dict[str, float]] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    best_epoch: int = 0
    best_score: float = 0.0
    step: int = 0
    epoch_loss: float = 0.0
    tokens: int = 0
    seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Real tokens per second of the steps."""
        return self.tokens / max(self.seconds, 1e-9)

    def report_step(self, metrics: dict[str, float], on_metrics: OnMetrics, *, every: int) -> None:
        """Record the metrics of the step just taken and pass them on, if the step is one that is logged."""
        if self.step % every == 0:
            self.steps.append({"step": self.step, **metrics})
            on_metrics({**metrics, "tokens_per_second": self.tokens_per_second}, self.step)

    def report_epoch(self, on_metrics: OnMetrics, *, epochs: int) -> None:
        """Log the epoch just finished and pass its metrics on."""
        last = self.epochs[-1]
        logger.info(
            "epoch %d of %d: train loss %.3f, validation loss %.3f, accuracy %.3f, macro F1 %.3f, %s tokens/s",
            last["epoch"],
            epochs,
            last["train_loss"],
            last["validation_loss"],
            last["validation_accuracy"],
            last["validation_macro_f1"],
            f"{self.tokens_per_second:,.0f}",
        )
        metrics = {key: value for key, value in last.items() if key != "step"}
        on_metrics({**metrics, "tokens_per_second": self.tokens_per_second}, self.step)

    def describe_step(self, metrics: dict[str, float], *, epochs: int) -> dict[str, str]:
        """Return what the progress bar shows besides steps and time left."""
        return {
            "epoch": f"{len(self.epochs) + 1}/{epochs}",
            "loss": f"{metrics['step_loss']:.3f}",
            "rate": f"{metrics['learning_rate']:.2g}",
            "norm": f"{metrics['gradient_norm']:.2g}",
            "padding": f"{1 - metrics['batch_padding_efficiency']:.0%}",
            "tokens/s": f"{self.tokens_per_second:,.0f}",
        }
