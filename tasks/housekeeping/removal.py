"""Removal that a kill cannot turn into damage: a directory loses its name before its files go."""

import shutil
import uuid
from pathlib import Path


def remove_whole(path: Path) -> None:
    """Remove a file, or a directory under a temporary name: after a kill nobody takes what is left for the whole.

    What a kill leaves has a name that begins with `.tmp-<name>-`, which the next writer, `gloveflow gc` and `gloveflow
    doctor --repair` remove.
    """
    if path.is_dir() and not path.is_symlink():
        unnamed = path
        if not path.name.startswith(".tmp-"):
            unnamed = path.with_name(f".tmp-{path.name}-{uuid.uuid4().hex[:8]}")
            path.rename(unnamed)
        shutil.rmtree(unnamed)
    else:
        path.unlink(missing_ok=True)
