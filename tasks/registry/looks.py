"""The ledger of looks: how many decisions a test split has been used for.

Each decision about a pair of versions is a look at the test split, and a rule that asks for a significant gain has a
chance of being wrong at each. It may be wrong once in twenty times over all planned looks, so each look spends its
share. A tag of the registered model holds the looks at a test split: the time of the last one, and a short hash of each
pair. A pair that is decided about again is not a new look. The caller holds the lock of the registry.
"""

import hashlib
import json
from datetime import UTC, datetime

from tasks.tracking import versions

LOOKS_TAG = "gloveflow.looks."  # and the digest of the test split
MAX_SPLITS = 100  # further ones are forgotten, those of the oldest last look first
_MAX_PAIRS = 600  # tags of models hold 5,000 characters
_WIDTH = 8


def count_look(name: str, test_split: str, pair: tuple[str, str]) -> int:
    """Record a decision about two versions on a test split; return which look it is, counted from 1.

    Args:
        name: the registered model.
        test_split: digest of the test split.
        pair: digests of the new version and of the version with the alias.
    """
    tags = versions.read_model_tags(name)
    looks = {tag: _read(value) for tag, value in tags.items() if tag.startswith(LOOKS_TAG)}
    tag = LOOKS_TAG + test_split[:16]
    code = hashlib.sha256("/".join(pair).encode()).hexdigest()[:_WIDTH]
    pairs = looks.pop(tag, ("", ""))[1]
    known = [pairs[i : i + _WIDTH] for i in range(0, len(pairs), _WIDTH)]
    if code in known:
        return known.index(code) + 1
    if len(known) < _MAX_PAIRS:
        last = datetime.now(UTC).isoformat(timespec="seconds")
        versions.set_model_tag(name, tag, json.dumps({"last": last, "pairs": pairs + code}))
    for old in sorted(looks, key=lambda key: looks[key][0])[: max(0, len(looks) + 1 - MAX_SPLITS)]:
        versions.delete_model_tag(name, old)
    return len(known) + 1


def _read(value: str) -> tuple[str, str]:
    """Return the time of the last look and the pairs; a senseless tag counts as none."""
    try:
        found = json.loads(value)
        return str(found["last"]), str(found["pairs"])
    except (ValueError, KeyError, TypeError):
        return "", ""
