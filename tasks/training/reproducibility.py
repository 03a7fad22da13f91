"""What the bits of a training depend on besides configuration and inputs: the machine and torch.

Reads `/proc/cpuinfo` and what torch says about this machine.
"""

import hashlib
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

CPUINFO = Path("/proc/cpuinfo")
_ARM_FIELDS = ("CPU implementer", "CPU variant", "CPU part")


def describe_machine(device: torch.device) -> dict[str, Any]:
    """Return what the bits of a training depend on besides configuration and inputs, as JSON values."""
    return {
        "cpu": describe_processor(),
        "cpu_features": hashlib.sha256(",".join(sorted(_list_features())).encode()).hexdigest()[:12],
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": _describe_gpu(device) if device.type == "cuda" else "cpu",
    }


def describe_processor() -> str:
    """Return the model of the processor.

    On x86-64 that is its name. aarch64 has codes instead of names, and one combination of them for each kind of core.
    """
    try:
        lines = [line.partition(":") for line in CPUINFO.read_text("utf-8").splitlines()]
    except OSError:
        lines = []
    fields = [(name.strip(), value.strip()) for name, _, value in lines]
    names = [value for name, value in fields if name == "model name"]
    columns = [[f"{code} {value}" for name, value in fields if name == code] for code in _ARM_FIELDS]
    cores = sorted({", ".join(core) for core in zip(*columns, strict=False)})
    return (names or ["; ".join(cores)])[0] or platform.processor() or platform.machine()


def _list_features() -> Iterator[str]:
    """Yield the instruction sets, and the lengths of vectors; cache sizes and numbers of cores change no bits."""
    for name, value in torch.cpu.get_capabilities().items():
        if value is True:
            yield name
        elif isinstance(value, int) and name.endswith("_max_length"):  # such as sve_max_length; x86-64 has none
            yield f"{name}={value}"


def _describe_gpu(device: torch.device) -> str:
    return f"{torch.cuda.get_device_name(device)}, cuDNN {torch.backends.cudnn.version()}"  # type: ignore[no-untyped-call]
