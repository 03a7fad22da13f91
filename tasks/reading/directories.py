"""The files of a directory, in the forms in which corpora come.

- data files, and when each has a split in its name, these splits: `train-00000-of-00001.parquet`, `test.csv`;
- a folder per split: `train`, `test`, `20news-bydate-train`, with data files or a folder per class inside;
- folders that name a column and its value: `label=pos`, as Hive and Spark write them;
- one folder that holds all data files;
- a folder per class, with a file per document.

Unlabelled texts, in files or folders called `unsupervised` or so, have no label.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from pipeline_config.errors import InputError
from pipeline_config.schemas import Split
from tasks.reading.file_names import SPLIT_NAMES, find_split, is_data, is_unlabelled

_NO_VALUE = "__HIVE_DEFAULT_PARTITION__"


class FoundFile(NamedTuple):
    """A data file, or a folder with a sub-folder per class, and what its place says of its rows.

    Attributes:
        path: the file or folder.
        split: its split, if its name says one.
        constants: columns that have one value in the whole file.
    """

    path: Path
    split: Split | None = None
    constants: Mapping[str, str | None] = {}


def find_files(folder: Path, label_column: str) -> list[FoundFile]:
    """Return the data files of a directory, or the directory itself if it has a sub-folder per class.

    Args:
        folder: the directory.
        label_column: the column that has no value in unlabelled files.

    Raises:
        InputError: some sub-folders are splits and the names of others are not known.
    """
    files = [path for path in sorted(folder.iterdir()) if is_data(path)]
    if files:
        return name_splits(files, label_column)
    folders = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith((".", "__"))]
    if folders and all("=" in path.name for path in folders):
        return [_add_partition(found, path.name) for path in folders for found in find_files(path, label_column)]
    holders = [path for path in folders if has_folders(path) or any(map(is_data, path.iterdir()))]
    if holders and any(find_split(path.name) for path in holders):
        return [found for path in holders for found in _find_in_split(path, label_column)]
    if len(holders) == len(folders) == 1:
        return find_files(folders[0], label_column)
    if any(map(has_folders, folders)):
        raise InputError(
            f"{folder}: expected folders of classes, or of splits with names such as {', '.join(SPLIT_NAMES)}; got "
            f"folders with folders inside: {', '.join(path.name for path in folders[:10])}"
        )
    return [FoundFile(folder)]


def name_splits(files: list[Path], label_column: str) -> list[FoundFile]:
    """Return files with the splits in their names, if each has one; unlabelled files have no label."""
    splits = [find_split(file.name) for file in files]
    if not all(splits):
        return [FoundFile(file) for file in files]
    return [
        FoundFile(file, split, {label_column: None} if is_unlabelled(file.name) else {})
        for file, split in zip(files, splits, strict=True)
    ]


def _find_in_split(folder: Path, label_column: str) -> list[FoundFile]:
    """Return the files of a folder whose name is that of a split."""
    split = find_split(folder.name)
    if split is None:
        raise InputError(
            f"{folder}: expected a folder whose name says its split, as the others do, such as "
            f"{', '.join(SPLIT_NAMES)}, got {folder.name!r}"
        )
    constants = {label_column: None} if is_unlabelled(folder.name) else {}
    return [
        FoundFile(found.path, split, {**found.constants, **constants}) for found in find_files(folder, label_column)
    ]


def _add_partition(found: FoundFile, name: str) -> FoundFile:
    """Return a file with the column and the value that the name of its folder says."""
    column, _, value = name.partition("=")
    value = unquote(value)
    return found._replace(constants={**found.constants, column: None if value == _NO_VALUE else value})


def has_folders(folder: Path) -> bool:
    """Return whether a folder has sub-folders that are not hidden."""
    return any(path.is_dir() and not path.name.startswith((".", "__")) for path in folder.iterdir())
