"""Which usable rows become documents, and in which split.

Takes what `tasks.corpus.documents` keeps of a corpus, returns a `Choice`.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from pipeline_config.contracts.corpus import DocumentsProfile
from pipeline_config.errors import InputError
from pipeline_config.schemas import SPLITS
from pipeline_config.settings import CorpusConfig
from tasks.corpus.classes import describe_near_equal, find_near_equal, find_strangers
from tasks.corpus.documents import CorpusReader
from tasks.corpus.profile import profile_documents
from tasks.corpus.splitting import TRAIN, DocumentIndex, draw_splits, find_crossing, find_pairs


class Choice(NamedTuple):
    """Which of the N usable rows are documents.

    Attributes:
        split: int8[N], the split of a document; -1 for a row that is rejected or left out.
        rejected: the reason of each rejected row, by position.
        rejected_by_class: number of rejected rows, by reason and class.
        left_out: number of rows beyond `corpus.max_documents`.
        sizes: number of usable rows of each class.
        profile: what the documents are like.
    """

    split: np.ndarray
    rejected: dict[int, str]
    rejected_by_class: Counter[tuple[str, str]]
    left_out: int
    sizes: dict[str, int]
    profile: DocumentsProfile


def choose_documents(reader: CorpusReader, spool: Path, config: CorpusConfig, *, seed: int) -> Choice:
    """Decide which usable rows become documents, and in which split.

    Raises:
        InputError: there are too few classes or documents, or a split has no documents.
    """
    index, labels, where = reader.build_index(), np.array(list(reader.labels), object), reader.source.location
    sizes = dict(zip(map(str, labels), np.bincount(index.labels).tolist(), strict=True))
    kept, rejected, left_out = select_documents(index, labels, config, earlier=reader.count_reasons(), where=where)
    near = reader.find_near_duplicates(spool, kept) if config.near_duplicates else None
    chosen = index.keep(kept)
    split = draw_splits(
        chosen,
        splitter=config.splitter,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        seed=seed,
        near_duplicates=near,
    )
    crossing = find_crossing(chosen.texts, split)
    left = np.where(crossing >= 0, -1, split)
    strange = find_strangers(left, chosen.labels, labels, where=where)
    left[strange] = -1
    profile = profile_documents(
        chosen, split, labels, characters=reader.lengths()[kept], crossing=crossing, near=near, kept=left >= 0
    )
    rejected |= {int(kept[i]): f"copy_in_{SPLITS[crossing[i]]}" for i in np.flatnonzero(crossing >= 0)}
    rejected |= dict.fromkeys(kept[strange].tolist(), "class_not_in_train")
    assigned = np.full(len(index), -1, np.int8)
    assigned[kept] = left
    _check_splits(assigned, where=where)
    by_class = Counter((reason, str(labels[index.labels[place]])) for place, reason in rejected.items())
    return Choice(assigned, rejected, by_class, left_out, sizes, profile)


def select_documents(
    index: DocumentIndex, labels: np.ndarray, config: CorpusConfig, *, earlier: Counter[str], where: str
) -> tuple[np.ndarray, dict[int, str], int]:
    """Apply `max_documents` and the rules for classes, and check that two classes are left.

    Args:
        index: the usable rows.
        labels: names of the classes.
        config: the rules.
        earlier: number of rows rejected so far, by reason.
        where: name of the corpus, for messages.

    Returns:
        Positions of the documents to use, the reason of each row to reject by position, and the number of usable
        rows beyond `max_documents`.

    Raises:
        InputError: there are fewer than two classes, a class is too small, or a held-out split that the corpus gives
            has none of the classes of the train split.
    """
    usable, most = len(index), config.max_documents
    kept = np.arange(usable)
    if most and usable > most:
        kept = np.arange(most) * usable // most
    left_out = usable - len(kept)
    strange = find_strangers(np.maximum(index.given[kept], TRAIN), index.labels[kept], labels, where=where)
    rejected = dict.fromkeys(kept[strange].tolist(), "class_not_in_train")
    kept = kept[~strange]
    distinct = np.bincount(find_pairs(index.texts[kept], index.labels[kept])[1], minlength=len(labels))
    small = np.flatnonzero((distinct > 0) & (distinct < config.min_class_documents))
    if len(small) and config.small_classes == "error":
        raise InputError(_describe_small(small, distinct, labels, config, where=where))
    is_small = np.isin(index.labels[kept], small)
    rejected |= dict.fromkeys(kept[is_small].tolist(), "small_class")
    kept = kept[~is_small]
    classes = sorted(labels[np.unique(index.labels[kept])]) if len(kept) else []
    if len(classes) < 2:
        all_reasons = earlier + Counter(rejected.values())
        reasons = ", ".join(f"{count} {reason}" for reason, count in all_reasons.most_common())
        raise InputError(
            f"{where}: expected at least two classes with documents, got {', '.join(classes) or 'none'} "
            f"after rejecting {all_reasons.total()} rows ({reasons or 'none'})"
        )
    return kept, rejected, left_out


def _describe_small(
    small: np.ndarray, distinct: np.ndarray, labels: np.ndarray, config: CorpusConfig, *, where: str
) -> str:
    """Return the message about classes that are too small, which may be misspelt names of others."""
    sizes = {str(label): int(count) for label, count in zip(labels, distinct, strict=True) if count}
    names = sorted(str(labels[i]) for i in small)
    near = {name: larger for name, larger in find_near_equal(sizes).items() if name in names}
    join = f"{describe_near_equal(near, config.label_map)}; or " if near else ""
    found = ", ".join(f"{name!r} with {sizes[name]}" for name in names)
    return (
        f"{where}: expected at least {config.min_class_documents} distinct texts in every class "
        f"(corpus.min_class_documents), got: {found}; {join}set corpus.small_classes=reject to leave such classes out"
    )


def _check_splits(assigned: np.ndarray, *, where: str) -> None:
    """Raise an InputError if a split has no documents."""
    counts = {split: int((assigned == code).sum()) for code, split in enumerate(SPLITS)}
    if not all(counts.values()):
        got = ", ".join(f"{split} {count}" for split, count in counts.items())
        raise InputError(f"{where}: expected documents in every split, got {got}")
