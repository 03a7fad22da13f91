"""The device to train on, and the number format of its products.

Asks torch what this machine can do; changes torch's settings for CUDA.
"""

import functools
import warnings

import torch

from pipeline_config.errors import ConfigError


@functools.cache
def has_bfloat16_lstm() -> bool:
    """Return whether oneDNN's LSTM works in bfloat16 on this processor, forward and backward.

    It is tried once per process, because no flag of torch says so: on x86-64 oneDNN needs AVX-512 for it, and
    `ONEDNN_MAX_CPU_ISA` can disable that.
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
    """Set how CUDA multiplies float32 numbers, and return the type of the forward pass, or None for float32.

    Args:
        precision: `auto`, `fp32`, `tf32` or `bf16`. `auto` is bfloat16 on processors with AMX tiles and float32
            elsewhere, because other processors are no faster in bfloat16. torch's own default for cuDNN's LSTM is tf32.
        device: the device to train on.

    Raises:
        ConfigError: tf32 without CUDA, or bfloat16 on a processor that cannot run the LSTM in it.
    """
    if device.type == "cuda":
        products = "tf32" if precision == "tf32" else "ieee"
        torch.backends.cuda.matmul.fp32_precision = products
        torch.backends.cudnn.rnn.fp32_precision = products  # type: ignore[attr-defined]
        return torch.bfloat16 if precision == "bf16" else None
    if precision == "tf32":
        raise ConfigError("training.precision: got tf32, which only CUDA devices support; use auto or fp32")
    if precision == "bf16" and not has_bfloat16_lstm():
        raise ConfigError(
            "training.precision: got bf16, but this processor cannot run an LSTM in bfloat16 (on x86-64 that needs "
            f"AVX-512; torch found {torch.backends.cpu.get_cpu_capability()}); use auto or fp32"
        )
    tiles = bool(torch.cpu.get_capabilities().get("amx_bf16"))
    automatic = precision == "auto" and tiles and has_bfloat16_lstm()
    return torch.bfloat16 if precision == "bf16" or automatic else None


def pick_device(name: str) -> torch.device:
    """Return the device to train on; `auto` is CUDA where there is one.

    Raises:
        ConfigError: CUDA is requested but not available.
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("training.device: got cuda, but torch sees no CUDA device; use auto or cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def ignore_weight_copies() -> None:
    """Silence cuDNN's warning that it copies weights that belong to no module.

    Recurrent dropout creates such weights at each step; they are small. The filter stays for the whole process, because
    `warnings.catch_warnings` is not thread-safe.
    """
    warnings.filterwarnings("ignore", "RNN module weights are not part of", UserWarning)
