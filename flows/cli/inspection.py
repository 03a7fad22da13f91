"""What `gloveflow inspect` finds in a corpus: what a run would read, and about how long it would train.

Reads the corpus as the stage `ingest_corpus` does, into a temporary folder. Imports neither prefect nor torch.
"""

import tempfile
from collections import Counter
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import BaseModel

from flows.cli.console import print_error
from flows.cli.inputs import is_small, write_to
from pipeline_config.contracts.corpus import CorpusProfile, FileRows
from pipeline_config.contracts.tokens import CorpusFacts
from pipeline_config.errors import ConfigError, GloveflowError
from pipeline_config.rules import Choice, choose_settings, list_open_settings
from pipeline_config.schemas import DOCUMENTS_FILE, UNLABELLED_FILE
from pipeline_config.settings import PipelineConfig
from tasks.reading.sources import CorpusFile, locate_corpus
from tasks.runtime.arrow import whole_column
from tasks.served.text import TEXT
from tasks.served.tokenizers import load_tokenizer
from tasks.tokens.availability import check_tokenizer
from tasks.tokens.corpus_facts import describe_lengths
from tasks.tokens.unspaced import check_segmentation
from tasks.vectors.published import PACKAGED, full_name, read_packaged_tokens

EXAMPLES = 3  # per reason
_EXCERPT = 60  # characters of an example
SAMPLE = 20_000  # train documents that are tokenized
_MISSES = 10
# Measured: the preset sentiment on two cores with AVX-512. Its network has the default sizes.
TOKENS_PER_SECOND = 75_000
_DEFAULT_WORK = 2 * 128 * (50 + 128)


class Example(BaseModel):
    """A row that is no document: its file, its line if the format has lines, its number in the file, its text."""

    file: str
    line: int | None
    row: int
    text: str


class Tokens(BaseModel):
    """The tokens of the train documents, or of a sample of them.

    Attributes:
        tokenizer: its name.
        sample: documents that were tokenized.
        train: estimated number of tokens in the train split.
        per_document: mean number of tokens.
        cut: share of documents with more tokens than `bucketing.max_length`.
        covered: share of the tokens with a vector; None if it was not measured.
        misses: the most frequent tokens without a vector.
        vectors: the set of vectors, and why coverage was not measured if it was not.
    """

    tokenizer: str
    sample: int
    train: int
    per_document: float
    cut: float
    covered: float | None
    misses: dict[str, int]
    vectors: str


class Inspection(BaseModel):
    """What was found; see `CorpusProfile` for what `profile` holds.

    Attributes:
        files: the files as a run would read them.
        profile: what the corpus is like.
        findings: what a run would tell, in sentences.
        rejected: examples of rejected rows, by reason.
        unlabelled: examples of train texts without a label.
        tokens: what training would read.
        chosen: what the rules would choose for the settings that are `auto`, by dotted key.
        training_seconds: a rough estimate for two CPU cores, all epochs and seeds.
        command: what to run.
    """

    files: tuple[CorpusFile, ...]
    profile: CorpusProfile
    findings: tuple[str, ...]
    rejected: dict[str, list[Example]]
    unlabelled: list[Example]
    tokens: Tokens
    chosen: dict[str, Choice]
    training_seconds: float
    command: str


def inspect(config: PipelineConfig, *, command: str) -> Inspection:
    """Read a corpus and describe it.

    Args:
        config: of a run.
        command: what to run.

    Raises:
        ConfigError: the corpus is not set, or the tokenizer is not there.
        InputError: a run would refuse the corpus, or texts that the tokenizer does not split.
    """
    config.corpus.require_source()
    check_tokenizer(config.tokenization)
    source = locate_corpus(config.corpus, with_digest=False)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        profile, rejected, findings = write_to(folder, source, config)
        lists = _tokenize(_sample_texts(folder / DOCUMENTS_FILE, profile), config.tokenization.tokenizer)
        lengths = pc.list_value_length(lists).to_numpy()
        chosen = choose_settings(config, _estimate_facts(lengths, profile))
        tokens = _measure_tokens(lists, lengths, profile, chosen.config)
        unlabelled = pq.read_table(folder / UNLABELLED_FILE, partitioning=None).slice(0, EXAMPLES).to_pylist()
    return Inspection(
        files=source.files,
        profile=profile,
        findings=findings,
        rejected=_choose_examples(rejected, profile.files),
        unlabelled=[_make_example(row["doc_id"], row["text"], profile.files) for row in unlabelled],
        tokens=tokens,
        chosen=chosen.choices,
        training_seconds=estimate_seconds(tokens, chosen.config),
        command=command,
    )


def choose_for_corpus(config: PipelineConfig) -> dict[str, Choice]:
    """Return what the rules choose for the settings that are `auto`, if the corpus can be read in a second or two."""
    if not list_open_settings(config) or config.corpus.source is None:
        return {}
    try:
        return inspect(config, command="").chosen if is_small(config.corpus) else {}
    except GloveflowError as error:
        print_error(f"settings that are auto depend on the corpus, which cannot be read: {error}")
        return {}


def estimate_seconds(tokens: Tokens, config: PipelineConfig) -> float:
    """Return about how long training takes on two CPU cores with AVX-512, for all epochs and seeds.

    The measured rate is scaled by the multiplications of the LSTM per token.
    """
    model, dim = config.model, config.embeddings.dim
    directions = 1 + model.bidirectional
    inputs = [dim] + [directions * model.hidden_size] * (model.num_layers - 1)
    work = sum(directions * model.hidden_size * (size + model.hidden_size) for size in inputs)
    rate = TOKENS_PER_SECOND * _DEFAULT_WORK / work
    return tokens.train * config.training.epochs * max(len(config.training.seeds), 1) / rate


def _sample_texts(path: Path, profile: CorpusProfile) -> pa.Array:
    """Return the texts of train documents, evenly spread, at most about `SAMPLE` of them."""
    step = max(1, sum(profile.documents["train"].values()) // SAMPLE)
    chosen, seen = [], 0
    with pq.ParquetFile(path, pre_buffer=False) as file:
        for batch in file.iter_batches(columns=["text", "split"]):
            texts = batch["text"].filter(pc.equal(batch["split"], "train"))
            chosen.append(texts.take(pa.array(np.arange(-seen % step, len(texts), step))).cast(TEXT))
            seen += len(texts)
    return pa.chunked_array(chosen, TEXT).combine_chunks()


def _tokenize(texts: pa.Array, name: str) -> pa.Array:
    try:
        tokenize = load_tokenizer(name)
    except ValueError as error:
        raise ConfigError(f"tokenization.tokenizer: {error}") from error
    return tokenize(texts)


def _estimate_facts(lengths: np.ndarray, profile: CorpusProfile) -> CorpusFacts:
    """Return the facts of the train split, from the lengths of a sample of it."""
    counts = profile.documents["train"]
    documents = sum(counts.values())
    sample = describe_lengths(lengths, classes=sum(count > 0 for count in counts.values()))
    tokens = round(sample.tokens * documents / sample.documents)
    return sample.model_copy(update={"documents": documents, "tokens": tokens})


def _measure_tokens(lists: pa.Array, lengths: np.ndarray, profile: CorpusProfile, config: PipelineConfig) -> Tokens:
    kept = np.minimum(lengths, config.bucketing.max_length)
    counts = pc.value_counts(pc.list_flatten(lists))
    dictionary = pa.table({"token": counts.field("values"), "train_count": counts.field("counts")})
    check_segmentation(dictionary, config.tokenization.tokenizer)
    covered, misses, vectors = _measure_coverage(dictionary, config)
    return Tokens(
        tokenizer=config.tokenization.tokenizer,
        sample=len(lists),
        train=round(float(kept.mean()) * sum(profile.documents["train"].values())),
        per_document=float(lengths.mean()),
        cut=float((lengths > config.bucketing.max_length).mean()),
        covered=covered,
        misses=misses,
        vectors=vectors,
    )


def _measure_coverage(dictionary: pa.Table, config: PipelineConfig) -> tuple[float | None, dict[str, int], str]:
    """Return the share of tokens with a vector, frequent ones without, and the set or why there is no share."""
    source = config.embeddings.source
    packaged = PACKAGED.get(full_name(source))
    path = None
    if packaged is not None:
        try:
            path = Path(str(metadata.distribution(packaged.distribution).locate_file(packaged.token_index)))
        except metadata.PackageNotFoundError:
            path = None
    if path is None or not path.is_file():
        why = "no vectors are configured" if source == "none" else "a run measures it (stage align_embeddings)"
        return None, {}, f"{source}: {why}"
    known = read_packaged_tokens(path)
    names, numbers = whole_column(dictionary["token"]), dictionary["train_count"].to_numpy()
    there = pc.is_in(names, known.cast(names.type))
    if "lowercase" in config.alignment.fallbacks:
        there = pc.or_(there, pc.is_in(pc.utf8_lower(names), known.cast(names.type)))
    mask = there.to_numpy(zero_copy_only=False)
    share = float(numbers[mask].sum() / max(numbers.sum(), 1))
    lacking = Counter(dict(zip(names.filter(pc.invert(there)).to_pylist(), numbers[~mask].tolist(), strict=True)))
    return share, dict(lacking.most_common(_MISSES)), source


def _choose_examples(rejected: pa.Table, files: tuple[FileRows, ...]) -> dict[str, list[Example]]:
    """Return the first rejected rows (schema `REJECTED`) of each reason."""
    chosen: dict[str, list[Example]] = {}
    for reason in pc.unique(rejected["reason"]).to_pylist():
        rows = rejected.filter(pc.equal(rejected["reason"], reason)).slice(0, EXAMPLES).to_pylist()
        chosen[reason] = [_make_example(row["row"], row["excerpt"], files, line=row["line"]) for row in rows]
    return chosen


def _make_example(row: int, text: str, files: tuple[FileRows, ...], *, line: int | None = None) -> Example:
    file = next(file for file in reversed(files) if file.first_row <= row)
    return Example(file=file.name, line=line, row=row - file.first_row + 1, text=(text or "")[:_EXCERPT])
