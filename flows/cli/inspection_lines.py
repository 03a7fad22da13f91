"""What `gloveflow inspect` prints."""

from collections.abc import Iterator

from flows.cli.inspection import TOKENS_PER_SECOND, Example, Inspection, Tokens


def describe(found: Inspection) -> Iterator[str]:
    """Yield the lines of an inspection for people."""
    profile, tokens = found.profile, found.tokens
    for reading in profile.readings.values():
        yield f"read as    {reading.describe()}"
    for file, rows in zip(found.files, profile.files, strict=True):
        yield f"  {file.path}: {rows.rows:,} rows{f', {file.split}' if file.split else ''}"
    documents = sum(sum(counts.values()) for counts in profile.documents.values())
    parts = {"rejected": sum(profile.rejected.values()), "unlabelled": profile.unlabelled, "left out": profile.left_out}
    more = "".join(f", {count:,} {name}" for name, count in parts.items() if count)
    yield f"rows       {profile.rows:,}: {documents:,} documents{more}"
    for reason, examples in found.rejected.items():
        yield f"  {profile.rejected[reason]:,} {reason}: {_show(examples)}"
    if found.unlabelled:
        yield f"  {profile.unlabelled:,} unlabelled: {_show(found.unlabelled)}"
    yield f"classes    {len(profile.labels)}"
    width = min(max(map(len, profile.labels)), 40)
    yield f"  {'':{width}}  " + "  ".join(f"{split:>10}" for split in profile.documents)
    for label in profile.labels:
        counts = "  ".join(f"{by_class.get(label, 0):10,}" for by_class in profile.documents.values())
        yield f"  {label:{width}}  {counts}"
    lengths = profile.characters
    yield f"lengths    median {lengths.p50:,} characters, 95 % at most {lengths.p95:,}, longest {lengths.p100:,}"
    yield (
        f"copies     {profile.duplicates:,} documents repeat a text, {profile.conflicting_labels:,} texts have several "
        "labels"
    )
    yield (
        f"tokens     {tokens.per_document:.1f} per document by {tokens.tokenizer}, about {tokens.train:,} in the train "
        f"split; {tokens.cut:.1%} of the documents are cut at bucketing.max_length"
    )
    yield f"vectors    {_show_coverage(tokens)}"
    for number, (key, choice) in enumerate(found.chosen.items()):
        yield f"{'settings' if number == 0 else '':10} {key} = {choice.value}: {choice.reason}"
    yield from (f"note       {finding}" for finding in found.findings)
    yield (
        f"training   about {_show_seconds(found.training_seconds)} on two CPU cores. This is rough: a stated rate of "
        f"{TOKENS_PER_SECOND:,} tokens a second for the default network, all epochs"
    )
    yield f"run        {found.command}"


def _show_coverage(tokens: Tokens) -> str:
    if tokens.covered is None:
        return f"coverage is not measured: {tokens.vectors}"
    misses = ", ".join(map(repr, tokens.misses))
    return f"{tokens.vectors} has {tokens.covered:.1%} of the tokens{f'; it lacks {misses}' if misses else ''}"


def _show(examples: list[Example]) -> str:
    places = [f"line {example.line}" if example.line is not None else f"row {example.row}" for example in examples]
    return "; ".join(f"{e.file} {place} {e.text!r}" for e, place in zip(examples, places, strict=True))


def _show_seconds(seconds: float) -> str:
    return f"{max(seconds, 1):.0f} s" if seconds < 90 else f"{seconds / 60:.0f} minutes"
