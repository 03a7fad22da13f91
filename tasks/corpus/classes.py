"""The classes of a corpus: nearly equal names, unequal sizes, a label map that matches nothing, splits that differ.

Takes names and numbers of documents, touches no file.
"""

import json
import unicodedata
from collections.abc import Collection, Mapping

import numpy as np

from pipeline_config.contracts.corpus import Imbalance
from pipeline_config.errors import InputError
from pipeline_config.schemas import SPLITS, Split
from tasks.corpus.splitting import TRAIN
from tasks.reading.labels import parse_label

IMBALANCED = 10  # times as many documents in the largest class as in the smallest
_MUCH_LARGER = 10  # times as many documents: then a letter may be a slip
_LETTERS = 4  # in the shortest name in which a letter may be a slip
_NAMES_SHOWN = 20


def normalize_label_map(label_map: Mapping[str, str]) -> dict[str, str]:
    """Return a label map whose keys and class names have the form that labels have."""
    return {parse_label(old) or old: parse_label(new) or new for old, new in label_map.items()}


def check_label_map(label_map: Mapping[str, str], found: Collection[str]) -> None:
    """Raise an InputError if a key of a label map is none of the labels that were found."""
    unknown = [label for label in normalize_label_map(label_map) if label not in found]
    if unknown and found:
        raise InputError(
            f"corpus.label_map: expected labels of the corpus, got {show_names(unknown)}; "
            f"the corpus has {show_names(found)}"
        )


def find_near_equal(sizes: Mapping[str, int]) -> dict[str, str]:
    """Return name -> larger class with nearly the same name, for classes by number of documents.

    Names are nearly equal that differ only in case and white space, or in one letter if the other class is at least ten
    times as large.
    """
    by_size = sorted(sizes, key=lambda name: (-sizes[name], name))
    most, fewest = (sizes[by_size[0]], sizes[by_size[-1]]) if by_size else (0, 0)
    folded: dict[str, str] = {}
    kept: dict[str, list[str]] = {}
    found: dict[str, str] = {}
    for name in by_size:
        plain = "".join(unicodedata.normalize("NFKC", name).casefold().split())
        keys = [plain] + [plain[:i] + plain[i + 1 :] for i in range(len(plain))]
        if plain in folded:
            found[name] = folded[plain]
            continue
        small = sizes[name] * _MUCH_LARGER <= most
        others = dict.fromkeys(other for key in keys for other in kept.get(key, ())) if small else {}
        slip = next((other for other in others if _is_slip(name, other, sizes)), None)
        if slip is not None:
            found[name] = slip
        folded[plain] = slip or name
        if slip is None and sizes[name] >= _MUCH_LARGER * fewest:
            for key in keys:
                kept.setdefault(key, []).append(name)
    return found


def _is_slip(name: str, larger: str, sizes: Mapping[str, int]) -> bool:
    """Return whether a name has one letter more, less or other than that of a much larger class."""
    a, b = sorted((name.casefold(), larger.casefold()), key=len)
    if len(a) < _LETTERS or sizes[name] * _MUCH_LARGER > sizes[larger] or len(b) - len(a) > 1:
        return False
    start = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    same_length = len(a) == len(b)
    letters = b[start] + (a[start] if same_length else "")
    return a[start + same_length :] == b[start + 1 :] and letters.isalpha()


def describe_near_equal(names: Mapping[str, str], label_map: Mapping[str, str]) -> str:
    """Return the pairs of nearly equal class names, and the label map that joins them."""
    renamed = {old: names.get(new, new) for old, new in normalize_label_map(label_map).items()}
    joined = renamed | {old: new for old, new in names.items() if old not in label_map.values()}
    pairs = ", ".join(f"{old!r} is nearly {new!r}" for old, new in list(names.items())[:_NAMES_SHOWN])
    return f"{pairs}; to join them, set corpus.label_map={json.dumps(joined, ensure_ascii=False)}"


def find_imbalance(sizes: Mapping[str, int]) -> Imbalance | None:
    """Return the largest and the smallest class, for classes by number of documents, if one is ten times the other."""
    ordered = sorted((count, name) for name, count in sizes.items() if count)
    if not ordered or ordered[-1][0] < IMBALANCED * ordered[0][0]:
        return None
    return Imbalance(
        largest=ordered[-1][1],
        largest_documents=ordered[-1][0],
        smallest=ordered[0][1],
        smallest_documents=ordered[0][0],
    )


def find_strangers(split: np.ndarray, classes: np.ndarray, labels: np.ndarray, *, where: str) -> np.ndarray:
    """Return bool[N], the held-out documents of a class that has none in the train split.

    Args:
        split: int8[N], the splits, negative for what is no document.
        classes: int[N], numbers of the classes.
        labels: names of the classes.
        where: name of the corpus, for messages.

    Raises:
        InputError: a held-out split has documents, but none of a class of the train split.
    """
    known = np.bincount(classes[split == TRAIN], minlength=len(labels)) > 0
    strange: np.ndarray = (split > TRAIN) & ~known[classes]
    for code in range(len(SPLITS)) if known.any() else ():
        mine = split == code
        if mine.any() and strange[mine].all():
            raise InputError(
                f"{where}: expected documents of the classes of the train split in the {SPLITS[code]} split: train has "
                f"{show_names(labels[known])}, {SPLITS[code]} has {show_names(labels[np.unique(classes[mine])])}; "
                "corpus.label_map gives labels the names of classes"
            )
    return strange if known.any() else np.zeros(len(split), bool)


def find_missing(documents: Mapping[Split, Mapping[str, int]]) -> dict[Split, list[str]]:
    """Return, by held-out split, the classes of the train split that have no document in it."""
    train = documents[SPLITS[TRAIN]]
    missing = {split: [label for label in train if label not in documents[split]] for split in SPLITS[1:]}
    return {split: labels for split, labels in missing.items() if labels}


def show_names(names: Collection[str]) -> str:
    """Return names of classes, sorted and quoted, at most twenty."""
    shown = sorted(names)
    more = f" and {len(shown) - _NAMES_SHOWN} more" if len(shown) > _NAMES_SHOWN else ""
    return ", ".join(map(repr, shown[:_NAMES_SHOWN])) + more
