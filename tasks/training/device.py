"""The machine that trains: device, threads, number formats, and what the bits of a result depend on.

Reads what torch and the operating system say, and runs trainings so that they depend on nothing else.
"""

import functools

import torch

from pipeline_config.errors import ConfigError


@functools.cache
def has_bfloat16_lstm() -> bool:
    """Return whether oneDNN's LSTM works in bfloat16 on this processor, forward and backward.

    It is tried out, once per process, because no flag of torch says it: on x86-64 oneDNN needs AVX-512 for it, and
    `ONEDNN_MAX_CPU_ISA` can take that away.
    """
    weights = [torch.zeros(shape, requires_grad=True) for shape in ((32, 8), (32, 8), (32,), (32,))]
    state = torch.zeros(1, 2, 8)
    try:
        with torch.autocast("cpu", torch.bfloat16):
            outputs, *_ = torch.lstm(torch.zeros(2, 3, 8), (state, state), weights, True, 1, 0.0, True, False, True)
        outputs.float().sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError:
        return False
    return outputs.dtype == torch.bfloat16


def set_precision(precision: str, device: torch.device) -> torch.dtype | None:
    """Let CUDA multiply float32 numbers as they are or as tf32; return the type to cast a forward pass to, if to any.

    Args:
        precision: `auto`, `fp32`, `tf32` or `bf16`; auto is bfloat16 on processors with tiles (AMX) and float32
            elsewhere, for others are no faster in bfloat16. Of itself torch runs cuDNN's LSTM in tf32.
        device: the device to train on.

    Raises:
        ConfigError: tf32 without CUDA, or bfloat16 on a processor that cannot run the LSTM in it.
    """
    if device.type == "cuda":
        way = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = way
        torch.backends.cudnn.rnn.fp32_precision = way  # type: ignore[attr-defined]
        return torch.bfloat16 if precision == "bf16" else None
    if precision == "tf32":
        raise ConfigError("training.precision: got tf32, which only CUDA devices have; use auto or fp32")
    if precision == "bf16" and not has_bfloat16_lstm():
        raise ConfigError(
            "training.precision: got bf16, but this processor cannot run an LSTM in bfloat16 (on x86-64 that takes "
            f"AVX-512; torch found {torch.backends.cpu.get_cpu_capability()}); use auto or fp32"
        )
    tiles = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    automatic = precision == "auto" and tiles and has_bfloat16_lstm()
    return torch.bfloat16 if precision == "bf16" or automatic else None


def pick_device(name: str) -> torch.device:
    """Return the device to train on; `auto` is CUDA when there is one.

    Raises:
        ConfigError: CUDA is asked for and not there.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("training.device: got cuda, but torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")
