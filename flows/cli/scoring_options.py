"""What the options of `gloveflow score` mean: the sources, the output, and what is read in another way."""

import glob
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import InputError
from pipeline_config.resolve import ResolvedConfig
from tasks.reading.file_names import is_packed


def place_sources(names: Sequence[str]) -> list[str]:
    """Return sources with absolute paths.

    Raises:
        InputError: there is no such file or directory.
    """
    places = []
    for name in names:
        path = Path(name).expanduser().absolute()
        is_path = path.exists() or not ("://" in name or name.startswith("package:") or "${" in name)
        if is_path and not path.exists() and not glob.has_magic(name):
            raise InputError(f"{path}: no such file or directory")
        places.append(str(path) if is_path else name)
    return places


def choose_output(output: str | None, sources: Sequence[str]) -> str:
    """Return what to write: `output`, or a file beside the first source, or here if that is no local path.

    Raises:
        InputError: the first source names no single file or directory.
    """
    if output is not None:
        if "://" in output:
            return output
        return f"{Path(output).expanduser().absolute()}{'/' if output.endswith('/') else ''}"
    path = Path(sources[0])
    name = Path(path.stem if is_packed(path.name) else path.name)
    stem = name.name if path.is_dir() else name.stem
    if not path.exists() and (glob.has_magic(sources[0]) or not stem or ":" in stem):
        raise InputError(f"score: expected --output FILE, since {sources[0]} names no single file")
    folder = path.parent if path.exists() else Path.cwd()
    return str(folder / f"{stem}-scored.parquet")


def changes_of_reading(resolved: ResolvedConfig, text: tuple[str, ...] | None) -> dict[str, Any]:
    """Return the fields of `Reading` that `--set` and `--text` give; a preset or a file describes the training."""
    reading = resolved.config.corpus.reading
    changes = {
        name: getattr(reading, name)
        for name in Reading.model_fields
        if resolved.origins.get(f"corpus.{name}", "").startswith("--set")
    }
    return changes | ({"text_column": text} if text else {})
