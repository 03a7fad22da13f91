"""What a run needs, looked at before any server starts: the tokenizer, files of vectors, the corpus.

Imports no prefect, which reads the address of its server when it is imported.
"""

import os
import tempfile
from pathlib import Path

from pipeline_config.errors import InputError
from pipeline_config.references import fill_references
from pipeline_config.settings import CorpusConfig, EmbeddingsConfig, PipelineConfig
from tasks.corpus.corpus_output import CorpusOutput, write_corpus
from tasks.reading.formats import read_blocks
from tasks.reading.sources import CorpusFile, CorpusRef, locate_corpus
from tasks.store.output import StageOutput
from tasks.tokens.availability import check_tokenizer
from tasks.vectors.published import require_file

SMALL_BYTES = 16 << 20  # a corpus up to this size is read as a whole, which takes a second or two


def check_inputs(config: PipelineConfig) -> None:
    """Find the mistakes in what a run reads that can be found in about a second.

    Files must be there and hold the configured columns. A small corpus is read as the run will read it, so that small
    classes and rejected rows are told too. A corpus that has to be fetched, or that an installed package holds, is left
    to the run.

    Raises:
        ConfigError: the tokenizer or a variable that a source refers to is missing.
        InputError: files of vectors or the corpus cannot be used.
    """
    check_tokenizer(config.tokenization)
    _check_vectors(config.embeddings)
    if not is_local(config.corpus) or _is_packaged(config.corpus):
        return
    source = locate_corpus(config.corpus, with_digest=False)
    if _is_small(source):
        with tempfile.TemporaryDirectory() as folder:
            write_to(Path(folder), source, config)
    else:
        _check_columns(source, config.corpus)


def is_small(config: CorpusConfig) -> bool:
    """Return whether a corpus can be read as a whole in a second or two.

    Raises:
        InputError: there is no such file.
    """
    return is_local(config) and _is_small(locate_corpus(config, with_digest=False))


def is_local(config: CorpusConfig) -> bool:
    """Return whether a corpus can be read without fetching anything."""
    return not any("://" in fill_references(text, "corpus.source") for text in _list_sources(config))


def _is_packaged(config: CorpusConfig) -> bool:
    return all(text.startswith("package:") for text in _list_sources(config))


def _list_sources(config: CorpusConfig) -> list[str]:
    names = (config.source, config.validation_source, config.test_source)
    return [text for name in names for text in ((name,) if isinstance(name, str) else name or ())]


def write_to(folder: Path, source: CorpusRef, config: PipelineConfig) -> CorpusOutput:
    """Write to a folder what the stage `ingest_corpus` would write to the store."""
    return write_corpus(StageOutput(folder), source, config.corpus, config.seed)


def _check_vectors(config: EmbeddingsConfig) -> None:
    if config.source != "none" and config.on_failure == "error":
        require_file(fill_references(config.source, "embeddings.source"))
    keep = config.keep and Path(fill_references(config.keep, "embeddings.keep")).expanduser()
    if keep and not keep.exists():
        raise InputError(f"embeddings.keep: {keep}: no such file")


def _check_columns(source: CorpusRef, config: CorpusConfig) -> None:
    """Read the beginning of the first file of each format and split, which fails where a column is missing."""
    for file in {(file.kind, file.split): file for file in reversed(source.files)}.values():
        next(read_blocks(Path(file.path), file.kind, config.reading, file.constants), None)


def _is_small(source: CorpusRef) -> bool:
    return sum(map(_measure, source.files)) <= SMALL_BYTES


def _measure(file: CorpusFile) -> int:
    """Return the size of a file, or of the files in a folder."""
    path = Path(file.path)
    if not path.is_dir():
        return path.stat().st_size
    return sum((Path(folder) / name).stat().st_size for folder, _, names in os.walk(path) for name in names)
