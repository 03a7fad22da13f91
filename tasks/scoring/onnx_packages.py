"""Whether the packages of the extra `onnx` are installed."""

import importlib.util

from pipeline_config.errors import ConfigError

PACKAGES = ("onnx", "onnxruntime")


def require_onnx(what: str) -> None:
    """Find out whether they are installed.

    Args:
        what: needs them, for the message.

    Raises:
        ConfigError: one is not.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(
            f"{what}: {' and '.join(missing)} not installed; `pip install 'gloveflow[onnx]'` installs them"
        )
