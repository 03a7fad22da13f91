"""The preset files and the name of the default preset.

Imports only the standard library, because `gloveflow --help` lists the presets.
"""

from pathlib import Path

DEFAULT_PRESET = "sentiment"
_DIRECTORY = Path(__file__).with_name("presets")


def list_presets() -> list[str]:
    """Return the names of the presets, sorted."""
    return sorted(path.stem for path in _DIRECTORY.glob("*.yaml"))


def preset_path(name: str) -> Path:
    """Return the path of a preset's YAML file, which need not exist."""
    return _DIRECTORY / f"{name}.yaml"
