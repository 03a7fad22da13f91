"""What a user should know about a corpus, in sentences: one line each, and only where there is something to tell."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from pipeline_config.contracts.corpus import CorpusProfile
from pipeline_config.settings import CorpusConfig
from tasks.corpus.classes import describe_near_equal, find_missing, show_names
from tasks.corpus.rejection import advise
from tasks.reading.sources import CorpusRef


def list_findings(
    profile: CorpusProfile,
    rejected: pa.Table,
    skew: Sequence[tuple[str, str, float, float]],
    *,
    config: CorpusConfig,
    source: CorpusRef,
) -> Iterator[str]:
    """Yield a line for each thing that may need a change of the corpus or of the configuration.

    Args:
        profile: what the corpus is like.
        rejected: the rejected rows, in the schema `REJECTED`.
        skew: what `tasks.corpus.rejection.find_skew` returned.
        config: how the corpus is read.
        source: the files.
    """
    if profile.unlabelled:
        yield f"{profile.unlabelled:,} of {profile.rows:,} rows have no label: kept apart as unlabelled text"
    if undecodable := profile.rejected.get("undecodable"):
        yield f"{undecodable:,} rows are rejected as undecodable: {advise('undecodable', rejected, source)}"
    for reason, label, share, others in skew[:1]:
        yield (
            f"rows rejected as {reason} fall on the class {label!r}: {share:.1%} of its rows, {others:.1%} of those of "
            "the other classes"
        )
    if strangers := profile.rejected_by_class.get("class_not_in_train"):
        counts = ", ".join(f"{label!r} with {count:,}" for label, count in sorted(strangers.items())[:20])
        yield f"held-out rows of classes that the train split lacks are rejected: {counts}"
    for split, labels in find_missing(profile.documents).items():
        yield (
            f"the {split} split has no documents of {show_names(labels)}: averages over classes leave "
            f"{'it' if len(labels) == 1 else 'them'} out there"
        )
    if profile.near_equal_names:
        yield f"class names are nearly equal: {describe_near_equal(profile.near_equal_names, config.label_map)}"
    if unequal := profile.imbalance:
        yield (
            f"classes are imbalanced in the train split: {unequal.largest!r} has {unequal.largest_documents:,} "
            f"documents, {unequal.smallest!r} has {unequal.smallest_documents:,}; training.class_weights=balanced "
            "gives classes the same weight"
        )
