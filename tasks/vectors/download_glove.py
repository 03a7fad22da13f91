"""Stage `download_glove`: write a set of word vectors to the store as Parquet.

Reads an installed package that contains the set, a local file, or an archive over HTTPS. Writes `vectors` (`token`,
`vector`, in file order) and examples of the odd lines; the facts count all odd lines.
"""

import logging
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task

from pipeline_config.errors import InputError
from pipeline_config.masking import digest_url, mask_secrets, masked_errors
from pipeline_config.references import fill_references
from pipeline_config.schemas import ODD_LINES, ODD_LINES_FILE, VECTORS_FILE, vectors_schema
from pipeline_config.settings import EmbeddingsConfig
from tasks.fetching.archives import OpenedFile, open_packed
from tasks.fetching.mirrors import download_file
from tasks.fetching.zip_member import WantedMember, download_member
from tasks.runtime.progress import track_progress
from tasks.store.artifacts import SourceRef, file_digest, tree_digest
from tasks.store.output import StageOutput
from tasks.store.stage import stage
from tasks.vectors.glove_text import GloveTextReader
from tasks.vectors.published import (
    FASTTEXT_DIM,
    PACKAGED,
    PackagedVectors,
    PublishedSet,
    find_published,
    full_name,
    read_packaged_tokens,
    require_file,
)
from tasks.vectors.selection import ParsedLines, VectorSelection
from tasks.vectors.word2vec_binary import Word2vecBinaryReader

logger = logging.getLogger(__name__)
ROW_GROUP_BYTES = 4 << 20  # of vectors per row group; a row group is held in memory until it is written


def locate_vectors(config: EmbeddingsConfig) -> SourceRef:
    """Return where the configured vectors are, and a digest of their content; downloads nothing.

    Raises:
        ConfigError: a variable that the source refers to is not set.
        InputError: there is no such set or file, or a packaged file is damaged.
    """
    source = _locate_source(config.source)
    if source.kind == "published" and source.location.startswith("fasttext.") and config.dim != FASTTEXT_DIM:
        raise InputError(f"embeddings.dim: got {config.dim}, expected {FASTTEXT_DIM}, which {source.location} has")
    if config.keep is None:
        return source
    keep = _digest_file(_keep_path(config.keep), "embeddings.keep")
    return source.model_copy(update={"digest": f"{source.digest}:{keep}"})


find_vectors = task(name="find_vectors", task_run_name="find vectors", persist_result=False)(
    masked_errors()(locate_vectors)
)


@stage(version=4)
def download_glove(output: StageOutput, source: SourceRef, config: EmbeddingsConfig) -> None:
    """Write the vectors of a source, in file order, and examples of its odd lines.

    Raises:
        InputError: the set has another dimension or too many unusable lines, or its archive is refused.
        ServiceError: the set could not be downloaded.
    """
    keep = None if config.keep is None else read_tokens(_keep_path(config.keep))
    selection = VectorSelection(config.dim, keep=keep, max_vectors=config.max_vectors)
    if source.kind == "package":
        _write_tables(output, _read_packaged(PACKAGED[source.location], selection), selection)
    else:
        path, member = _fetch_file(source, config)
        with open_packed(path, member) as opened:
            _write_file(output, opened, selection, max_dropped_fraction=config.max_dropped_fraction)
    output.write_table(ODD_LINES_FILE, selection.build_examples_table(), ODD_LINES)
    output.facts.update(
        vectors=selection.kept,
        dim=selection.dim,
        lines_dropped=selection.dropped.total(),
        **({} if keep is None else {"passed_over": selection.passed_over}),
        dropped=dict(selection.dropped),
        repaired=dict(selection.repaired),
    )


def read_tokens(path: Path) -> set[str]:
    r"""Return the tokens of a list and their lower-case forms, which the alignment may look up.

    Args:
        path: a Parquet file with a column `token`, such as the vocabulary of an earlier run, or UTF-8 text with one
            token per line, split at `\n` only.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        if path.suffix == ".parquet":
            tokens = pq.read_table(path, columns=["token"], partitioning=None)["token"].to_pylist()
        else:
            tokens = path.read_bytes().decode().split("\n")
    except (OSError, ValueError, pa.ArrowException) as error:
        raise InputError(f"embeddings.keep: {path}: expected a list of tokens, got: {error}") from error
    return {form for token in tokens if token for form in (token, token.lower())}


def _keep_path(keep: str) -> Path:
    return Path(fill_references(keep, "embeddings.keep")).expanduser()


def _locate_source(setting: str) -> SourceRef:
    source = fill_references(setting, "embeddings.source")
    name = full_name(source)
    if name in PACKAGED and (files := _find_packaged_files(PACKAGED[name])):
        return SourceRef(location=name, kind="package", digest=tree_digest(files))
    if source.startswith("https://"):
        shown = mask_secrets(source)
        identity = shown if shown == source else f"{shown}:{digest_url(source)}"
        return SourceRef(location=setting, kind="url", digest=f"url:{identity}")
    path = Path(source).expanduser()
    if path.is_file():
        return SourceRef(location=str(path.absolute()), kind="file", digest=_digest_file(path, "embeddings.source"))
    require_file(source)
    published = find_published(name)
    return SourceRef(location=name, kind="published", digest=f"{published.sha256}:{published.member or name}")


def _digest_file(path: Path, setting: str) -> str:
    try:
        return file_digest(path)
    except OSError as error:
        raise InputError(f"{setting}: {path}: cannot be read: {error.strerror}") from error


def _find_packaged_files(packaged: PackagedVectors) -> dict[str, Path] | None:
    """Return the verified files of a package, or None if it is not installed."""
    try:
        distribution = metadata.distribution(packaged.distribution)
    except metadata.PackageNotFoundError:
        return None
    files = {}
    for kind in ("token_index", "array"):
        path = Path(str(distribution.locate_file(getattr(packaged, kind))))
        expected = getattr(packaged, f"{kind}_sha256")
        if not path.is_file() or file_digest(path) != expected:
            raise InputError(
                f"{path}: is missing or damaged, expected SHA-256 {expected}; reinstall {packaged.distribution}"
            )
        files[kind] = path
    return files


def _fetch_file(source: SourceRef, config: EmbeddingsConfig) -> tuple[Path, str | None]:
    """Return the local file of a source and, if it is an archive of several sets, the wanted member."""
    if source.kind == "file":
        return Path(source.location), None
    published = find_published(source.location) if source.kind == "published" else None
    if published is None:
        published = PublishedSet((fill_references(source.location, "embeddings.source"),))
    offline, seconds = config.offline, config.timeout_seconds
    if published.member is None:
        path = download_file(published.urls, sha256=published.sha256, offline=offline, timeout_seconds=seconds)
        return path, None
    wanted = WantedMember(published.member, published.sha256, published.member_sha256)
    return download_member(published.urls, wanted, offline=offline, timeout_seconds=seconds)


def _read_packaged(packaged: PackagedVectors, selection: VectorSelection) -> Iterable[pa.Table]:
    files = _find_packaged_files(packaged)
    if files is None:
        raise InputError(f"{packaged.distribution}: is no longer installed; install it again")
    values = np.load(files["array"], mmap_mode="r", allow_pickle=False)
    tokens = read_packaged_tokens(files["token_index"])
    if values.shape[1] != selection.dim:
        raise InputError(f"{files['array']}: expected {selection.dim} values per vector, got {values.shape[1]}")
    yield selection.select(
        ParsedLines(
            lines=len(tokens),
            tokens=tokens,
            values=values,
            positions=range(len(tokens)),
            dropped=(),
            repaired={},
            excerpt=lambda _: b"",
        )
    )


def _write_file(
    output: StageOutput, opened: OpenedFile, selection: VectorSelection, *, max_dropped_fraction: float
) -> None:
    name, stream = opened.name, opened.stream
    reader = Word2vecBinaryReader if name.removesuffix(".gz").endswith(".bin") else GloveTextReader
    _write_tables(output, reader(stream, name=name, selection=selection), selection, opened=opened)
    if not selection.lines:
        raise InputError(f"{name}: expected vectors, got an empty file")
    odd = selection.last_dropped
    if odd and (not selection.usable or selection.unusable > max_dropped_fraction * selection.lines):
        raise InputError(
            f"{name}:{odd.line}: {selection.unusable} of {selection.lines} lines are unusable, expected at most "
            f"{max_dropped_fraction:.2%} (embeddings.max_dropped_fraction); the last one: {odd.reason}: {odd.excerpt!r}"
        )
    if not selection.kept:
        raise InputError(f"{name}: none of its {selection.lines:,} tokens is listed in the file of embeddings.keep")


def _write_tables(
    output: StageOutput, tables: Iterable[pa.Table], selection: VectorSelection, *, opened: OpenedFile | None = None
) -> None:
    """Write tables in row groups of a fixed size, so that the file does not depend on the sizes of the tables."""
    name, size = (opened.name, opened.size) if opened else ("the package", None)
    with (
        output.table_writer(VECTORS_FILE, vectors_schema(selection.dim)) as writer,
        track_progress(f"read {name}", total=size, unit="B") as advance,
    ):
        before = 0
        for table in _regroup(tables, ROW_GROUP_BYTES // (4 * selection.dim)):
            writer.write_table(table)
            at = opened.stream.tell() if opened else 0
            advance(at - before)
            before = at


def _regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """Yield the same rows in tables of a fixed size, the last one smaller."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += len(table)
        while count >= rows:
            whole = pa.concat_tables(held)
            yield whole.slice(0, rows).combine_chunks()
            held, count = [whole.slice(rows)], count - rows
    if count:
        yield pa.concat_tables(held).combine_chunks()
