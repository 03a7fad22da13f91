"""The part of a test split that a rule of the gate looks at."""

import re

import numpy as np

from tasks.registry.rivals import HeldOut


def find_slice(name: str, split: HeldOut) -> np.ndarray:
    """Return which documents of a test split a slice holds, bool[N]; none for a column or class that is not there.

    Args:
        name: `class=NAME`, `length>=N` or `length<N` in words between white space, or `COLUMN=VALUE` of a kept column.
        split: the test split.
    """
    if found := re.fullmatch(r"length(>=|<)([0-9]+)", name):
        lengths = np.array([len(text.split()) for text in split.texts.to_pylist()])
        return lengths >= int(found[2]) if found[1] == ">=" else lengths < int(found[2])
    feature, _, value = name.partition("=")
    if feature == "class":
        return np.asarray(split.truth == (split.labels.index(value) if value in split.labels else -1))
    if split.columns is None or feature not in split.columns.column_names:
        return np.zeros(len(split.truth), bool)
    values = dict(zip(*(split.columns[column].to_pylist() for column in ("doc_id", feature)), strict=True))
    return np.array([values.get(doc_id) == value for doc_id in split.doc_ids.tolist()])
