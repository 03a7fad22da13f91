"""Checkpoints of a training: everything that it needs to resume with the same bits.

A checkpoint is one safetensors file, with the state that is not a tensor as JSON in its header; it contains no pickle.
It is written under a temporary name, synced and renamed, so that a kill at any moment leaves either the previous
checkpoint or the new one.
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
from tasks.store.private_files import make_directory

logger = logging.getLogger(__name__)
CHECKPOINT = "checkpoint.safetensors"


@dataclass
class Checkpoints:
    """The checkpoint of one training, and when the next one is due.

    Args:
        directory: where the checkpoint is kept; created at the first save, and used only by this training.
        machine: what the bits of a result depend on besides configuration and inputs (`describe_machine`).
        every_steps: steps from one checkpoint to the next; None: off.
        every_minutes: minutes from one checkpoint to the next; None: off.
        accept_others: resume from a checkpoint of another machine.
        machines: earlier machines of this training; filled by `load`.
    """

    directory: Path
    machine: dict[str, Any]
    every_steps: int | None = None
    every_minutes: float | None = None
    accept_others: bool = False
    machines: list[dict[str, Any]] = field(default_factory=list)
    _saved: float = field(default_factory=lambda: time.monotonic())

    def is_due(self, step: int) -> bool:
        """Return whether a checkpoint is due after a step."""
        by_steps = self.every_steps is not None and step % self.every_steps == 0
        seconds = time.monotonic() - self._saved
        return by_steps or (self.every_minutes is not None and seconds >= 60 * self.every_minutes)

    def save(self, tensors: dict[str, Tensor], state: dict[str, Any]) -> None:
        """Replace the checkpoint; if the new one cannot be written, log a warning and keep the previous one."""
        temporary = self.directory / f".{CHECKPOINT}.tmp"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps({"state": state, "machines": [*self.machines, self.machine]}, allow_nan=False)
        header = {"content": text, "sha256": _digest(tensors, text)}
        try:
            make_directory(self.directory)
            save_file(tensors, temporary, metadata=header)
            sync(temporary)
            temporary.replace(self.directory / CHECKPOINT)
            sync(self.directory)
        except (OSError, SafetensorError) as error:
            logger.warning("%s: the checkpoint could not be saved, training continues: %s", self.directory, error)
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
        self._saved = time.monotonic()

    def load(self) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return the tensors and the state of the checkpoint, or None if there is no readable one that fits.

        Raises:
            TrainingError: the checkpoint is of another machine, and that is not accepted.
        """
        path = self.directory / CHECKPOINT
        try:
            with safe_open(path, "pt") as file:
                header = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is not a mapping)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as error:
            logger.warning("%s cannot be read, training starts from the beginning: %s", path, error)
            return None
        if header.get("sha256") != _digest(tensors, header.get("content", "")):
            logger.warning(
                "%s is damaged (its SHA-256 is not the one in its header), training starts from the beginning", path
            )
            return None
        content = json.loads(header["content"])
        return (tensors, content["state"]) if self._accept(path, content["machines"]) else None

    def _accept(self, path: Path, machines: list[dict[str, Any]]) -> bool:
        """Return whether a training resumes from a checkpoint of some machines; it starts over if threads differ."""
        last = machines[-1]
        differences = {k: f"{k}: {last.get(k)!r}, here {v!r}" for k, v in self.machine.items() if last.get(k) != v}
        if differences.keys() == {"threads"} and not self.accept_others:
            logger.warning(
                "%s was made with another number of threads (%s), so training starts from the beginning; it resumes "
                "with training.threads=%s",
                path,
                differences["threads"],
                last.get("threads"),
            )
            return False
        if differences and not self.accept_others:
            shown = "; ".join(differences.values())
            raise TrainingError(
                f"{path}: this checkpoint was made on another machine ({shown}), so the numbers would differ "
                "from those of an unbroken training. Set training.resume_elsewhere=true to resume from it, or delete "
                "the file to start from the beginning"
            )
        self.machines = machines if differences else machines[:-1]
        return True


def _digest(tensors: dict[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].flatten().numpy().data)
    return digest.hexdigest()
