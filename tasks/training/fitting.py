"""The training loop: trains a network on an encoded split, validates after each epoch, and keeps the best weights.

Changes the network in place; touches no file except through `checkpoints`. What a step does is in
`tasks.training.training_state`.
"""

import logging
import os

import torch
from torch import Tensor

from pipeline_config.settings import TrainingConfig
from tasks.batches.encoded_split import EncodedSplit
from tasks.runtime.cancellation import WorkStopped
from tasks.runtime.progress import track_progress
from tasks.served.network import TextClassifier
from tasks.training.checkpoints import Checkpoints
from tasks.training.history import History, OnMetrics
from tasks.training.training_state import Training

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
        seed: seed of the order of batches and of dropout.
        on_metrics: called with metrics and the step they belong to.
        checkpoints: where the training is saved, and from where it resumes if there is a checkpoint. It is also saved
            when work is stopped.

    Returns:
        The history, and the weights after the last step.

    Raises:
        TrainingError: the loss or a gradient is not finite. The step is not taken, and the last checkpoint stays.
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


def _run_epochs(training: Training, on_metrics: OnMetrics, checkpoints: Checkpoints | None) -> None:
    """Take all remaining steps, starting from the last checkpoint."""
    restored = checkpoints.load() if checkpoints else None
    if restored:
        training.restore(*restored)
        logger.info("training resumes after step %d of %d", training.history.step, training.total_steps)
    history, every, epochs = training.history, training.config.log_every_steps, len(training.plans)
    warned = False
    with track_progress(
        "train", total=training.total_steps, unit="steps", initial=history.step, artifact="training-progress"
    ) as advance:
        while not training.is_finished():
            warned = warned or warn_of_other_work(torch.get_num_threads())
            for metrics in training.run_epoch():
                history.report_step(metrics, on_metrics, every=every)
                if checkpoints and checkpoints.is_due(history.step):
                    checkpoints.save(*training.snapshot())
                advance(1, **history.describe_step(metrics, epochs=epochs))
            training.close_epoch()
            history.report_epoch(on_metrics, epochs=epochs)


def warn_of_other_work(threads: int) -> bool:
    """Log a warning if other processes want the processors that several threads of torch need; return whether it did.

    The threads wait for each other some hundred times a step, so one that has no processor holds up all.
    """
    processors, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    if threads < 2 or load <= 2 * processors:
        return False
    logger.warning(
        "other work wants the %d processors (load %.1f), and training with %d threads may fall to a hundredth of its "
        "speed; with training.threads=1 it slows down only in proportion",
        processors,
        load,
        threads,
    )
    return True
