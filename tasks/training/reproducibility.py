"""What the bits of a training depend on besides configuration and inputs: the machine and torch."""

import contextlib
import hashlib
import platform
from pathlib import Path
from typing import Any

import torch


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what the bits of a training depend on besides configuration and inputs, as JSON values."""
    features = ",".join(sorted(name for name, value in torch.cpu.get_capabilities().items() if value is True))
    return {
        "cpu": _processor(),
        "cpu_features": hashlib.sha256(features.encode()).hexdigest()[:12],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": _describe_gpu(device) if device.type == "cuda" else "cpu",
    }


def _describe_gpu(device: torch.device) -> str:
    return f"{torch.cuda.get_device_name(device)}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text("utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
