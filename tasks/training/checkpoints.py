"""Checkpoints of a training: all that it takes to go on as if nothing had happened.

Writes one file, safetensors with the rest as JSON in its header, to the side; syncs it and renames it into
place, so that a kill at any moment leaves the checkpoint before or the new one. Nothing in it is a pickle.
"""

import contextlib
import hashlib
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from pipeline_config.errors import TrainingError
from tasks.store.commit import sync

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Checkpoints:
    """The checkpoint of one training, and when the next one is due.

    Args:
        directory: made when the first checkpoint is saved; nobody else writes there.
        machine: what the bits of a result depend on besides configuration and inputs (see `tasks.training.device`).
        every_steps: steps from one to the next; None does not count them.
        every_minutes: minutes from one to the next; None does not look at the clock.
        accept_others: go on from a checkpoint of another machine.
    """

    directory: Path
    machine: dict[str, Any]
    every_steps: int | None = None
    every_minutes: float | None = None
    accept_others: bool = False
    machines: list[dict[str, Any]] = field(default_factory=list)
    _saved: float = field(default_factory=lambda: time.monotonic())

    def is_due(self, step: int) -> bool:
        """Tell whether a checkpoint is due after a step."""
        by_steps = self.every_steps is not None and step % self.every_steps == 0
        seconds = time.monotonic() - self._saved
        return by_steps or (self.every_minutes is not None and seconds >= 60 * self.every_minutes)

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the checkpoint. One that cannot be written is told, and the one before stays."""
        temporary = self.directory / f".{CHECKPOINT}.tmp"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({"state": state, "machines": [*self.machines, self.machine]}, allow_nan=False)
        header = {"content": text, "sha256": _digest(tensors, text)}
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            save_file(tensors, temporary, metadata=header)
            sync(temporary)
            temporary.replace(self.directory / CHECKPOINT)
            sync(self.directory)
        except (OSError, SafetensorError) as error:
            logger.warning("%s: no checkpoint could be saved, training goes on: %s", self.directory, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and the state of the checkpoint, or None when there is none that can be read.

        Raises:
            TrainingError: it was made elsewhere, and that is not accepted.
        """
        path = self.directory / CHECKPOINT
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            logger.warning("%s cannot be read, training starts again: %s", path, error)
            return None
        if header.get("sha256") != _digest(tensors, header.get("content", "")):
            logger.warning("%s is damaged, training starts again: its SHA-256 is not the one in its header", path)
            return None
        content = json.loads(header["content"])
        self._accept(path, content["machines"])
        return tensors, content["state"]

    def _accept(self, path: Path, machines: list[dict[str, Any]]) -> None:
        last = machines[-1]
        others = [f"{k}: {last.get(k)!r}, here {v!r}" for k, v in self.machine.items() if last.get(k) != v]
        if others and not self.accept_others:
            raise TrainingError(
                f"{path}: this checkpoint was made elsewhere ({'; '.join(others)}), so going on would give other "
                "numbers; training.resume_elsewhere=true goes on all the same, deleting the file starts again"
            )
        self.machines = machines if others else machines[:-1]


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().numpy().data)
    return digest.hexdigest()
