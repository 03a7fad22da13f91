"""What the name of a file or folder says: its format, how it is packed, its split, whether it has labels."""

import re
from pathlib import Path

from pipeline_config.schemas import Split

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".xlsx": "xlsx",
}
PACKINGS = (".gz", ".bz2", ".zst", ".zstd", ".zip")
TEXT_FORMATS = ("csv", "tsv", "json", "jsonl")  # only these can be packed
SPLIT_NAMES: dict[str, Split] = {
    "train": "train",
    "training": "train",
    "trn": "train",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
    "devel": "validation",
    "development": "validation",
    "eval": "validation",
    "evaluation": "validation",
    "test": "test",
    "testing": "test",
    "tst": "test",
}
UNLABELLED_NAMES = frozenset({"unsup", "unsupervised", "unlabelled", "unlabeled"})


def find_kind(name: str) -> str | None:
    """Return the format that a file name says, if any; `.gz` and the like do not count."""
    path = Path(name.lower())
    return FORMATS.get(Path(path.stem).suffix if path.suffix in PACKINGS else path.suffix)


def is_packed(name: str) -> bool:
    """Return whether a file name says that the file is packed."""
    return name.lower().endswith(PACKINGS)


def is_data(path: Path) -> bool:
    """Return whether a file's name says that it holds rows."""
    known = find_kind(path.name) is not None or path.suffix.lower() == ".zip"
    return known and not path.name.startswith((".", "_")) and path.is_file()


def find_split(name: str) -> Split | None:
    """Return the split that a file or folder name says, if it says one: `train-00000-of-00001.parquet` is train.

    Unlabelled texts count as train, since only training can use them.
    """
    words = _split_words(name)
    found = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    if not found and is_unlabelled(name):
        return "train"
    return found.pop() if len(found) == 1 else None


def is_unlabelled(name: str) -> bool:
    """Return whether a file or folder name says that its texts have no labels."""
    return not UNLABELLED_NAMES.isdisjoint(_split_words(name))


def _split_words(name: str) -> list[str]:
    return re.split(r"[^a-z0-9]+", name.lower())
