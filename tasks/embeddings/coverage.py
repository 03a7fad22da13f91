"""Coverage: which share of the vocabulary, and of the tokens of each split, class and source, has a vector."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pipeline_config.contracts.embeddings import CoverageReport
from pipeline_config.schemas import DICTIONARY_FILE, SPLITS, Split
from tasks.runtime.arrow import whole_column
from tasks.store.artifacts import ArtifactRef
from tasks.tokens.tokenize_corpus import iterate_shards

MOST_MISSES = 50
NOT_COVERED = ("special", "missing")  # sources of tokens without a vector of the set


def measure_coverage(words: pa.Array, source: np.ndarray, tokens: ArtifactRef) -> CoverageReport:
    """Measure which share of the vocabulary, and of the tokens of each split and class, has a vector.

    A token outside the vocabulary is not covered. It is among the misses, if it is frequent enough.

    Args:
        words: tokens of the vocabulary.
        source: object[V], the source of each word, from `look_up_rows`.
        tokens: the tokenized corpus.
    """
    dictionary = tokens.read_table(DICTIONARY_FILE)
    rows = pc.index_in(dictionary["token"], words).fill_null(-1).to_numpy()
    of_code = np.append(source, "outside")[rows]  # a missing row, -1, takes the last element
    of_code[of_code == "special"] = "outside"  # a word that looks like a special token is encoded as unknown
    covered = np.isin(of_code, (*NOT_COVERED, "outside"), invert=True)
    share: dict[Split, float] = {}
    unknown: dict[Split, float] = {}
    by_source: dict[Split, dict[str, float]] = {}
    for split in SPLITS:
        counts = dictionary[f"{split}_count"].to_numpy()
        total = int(counts.sum()) or 1
        share[split] = int(counts[covered].sum()) / total
        unknown[split] = int(counts[of_code == "outside"].sum()) / total
        by_source[split] = {name: int(counts[of_code == name].sum()) / total for name in sorted(set(of_code))}
    train = dictionary["train_count"].to_numpy()
    names, counts = np.unique(source, return_counts=True)
    types = {str(name): int(count) for name, count in zip(names, counts, strict=True)}
    special = types.get("special", 0)
    misses = dictionary.filter(pa.array(~covered & (train > 0)))
    misses = misses.sort_by([("train_count", "descending"), ("token", "ascending")]).slice(0, MOST_MISSES)
    return CoverageReport(
        types=sum(n for name, n in types.items() if name not in NOT_COVERED) / max(len(words) - special, 1),
        tokens=share,
        tokens_by_class=_measure_classes(covered, tokens),
        tokens_by_source=by_source,
        oov_rate=unknown,
        rows=types,
        misses=dict(zip(misses["token"].to_pylist(), misses["train_count"].to_pylist(), strict=True)),
    )


def _measure_classes(covered: np.ndarray, tokens: ArtifactRef) -> dict[Split, dict[str, float]]:
    """Return the share of covered tokens of each split and class; `covered` is bool[codes]."""
    found: dict[tuple[str, str], np.ndarray] = {}
    for shard in iterate_shards(tokens):
        lists = whole_column(shard["codes"])
        offsets = lists.offsets.to_numpy() - lists.offsets[0].as_py()
        per_document = np.stack([np.zeros(len(shard), np.int64), np.diff(offsets)], axis=1)
        filled = per_document[:, 1] > 0
        if filled.any():
            has_vector = covered[lists.flatten().to_numpy()]
            per_document[filled, 0] = np.add.reduceat(has_vector, offsets[:-1][filled], dtype=np.int64)
        split, label = (whole_column(shard[name]).dictionary_encode() for name in ("split", "label"))
        sums = np.zeros((len(split.dictionary), len(label.dictionary), 2), np.int64)
        np.add.at(sums, (split.indices.to_numpy(), label.indices.to_numpy()), per_document)
        for i, name in enumerate(split.dictionary.to_pylist()):
            for j, class_name in enumerate(label.dictionary.to_pylist()):
                found[name, class_name] = found.get((name, class_name), np.zeros(2, np.int64)) + sums[i, j]
    return {
        split: {
            label: int(n[0]) / max(int(n[1]), 1) for (name, label), n in sorted(found.items()) if name == split and n[1]
        }
        for split in SPLITS
    }
