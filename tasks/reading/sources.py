"""Where a corpus is: turn the sources in a configuration into local files, their formats and one digest.

A source is a path, a glob, a directory (`tasks.reading.directories`), an https URL, the URL of any file system that
fsspec supports, with `corpus.query` the SQLAlchemy URL of a database, or `package:<distribution>:<path>` for data files
of an installed distribution, which is not imported. `${NAME}` in it stands for an environment variable. Remote files
and rows are copied to `<artifacts>/downloads` first.
"""

import glob
import hashlib
import re
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline_config.contracts.reading import Reading
from pipeline_config.errors import GloveflowError, InputError, ServiceError
from pipeline_config.references import fill_references
from pipeline_config.schemas import Split
from pipeline_config.settings import CorpusConfig
from tasks.fetching.mirrors import download_file
from tasks.reading.database import fetch_rows, is_database
from tasks.reading.directories import FoundFile, find_files, has_folders, name_splits
from tasks.reading.file_names import FORMATS, TEXT_FORMATS, find_kind, is_packed
from tasks.reading.folders import list_documents, list_texts
from tasks.reading.packed import find_data_name
from tasks.store.artifacts import SourceRef, artifacts_root, file_digest, tree_digest
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory

CODE_PROTOCOLS = {"reference", "dask"}  # fsspec fills in templates of the first, and the second sends pickles


class CorpusFile(BaseModel):
    """A file, or a folder with one sub-folder per class.

    Attributes:
        path: where it is.
        kind: its format, such as `csv`; `folder` for a folder.
        split: the split that the configuration or its name gives, if any.
        constants: columns that have one value in the whole file.
    """

    model_config = ConfigDict(frozen=True)

    path: str
    kind: str
    split: Split | None = None
    constants: dict[str, str | None] = {}


class CorpusRef(SourceRef):
    """A corpus: its files in the order in which they are read."""

    files: tuple[CorpusFile, ...] = ()


def locate_corpus(config: CorpusConfig, *, with_digest: bool = True) -> CorpusRef:
    """Return the files of a corpus and its digest, after copying remote files.

    Args:
        config: where they are.
        with_digest: a digest reads all files; without it, it is empty, for a look that stores nothing.

    Raises:
        ConfigError: `corpus.source` is not set, or a variable that a source refers to.
        InputError: a file, folder or distribution does not exist, or the format of a file is unknown.
        ServiceError: a URL cannot be fetched.
    """
    sources: dict[Split | None, str | Sequence[str] | None] = {
        None: config.require_source(),
        "validation": config.validation_source,
        "test": config.test_source,
    }
    held_out = config.validation_source is not None or config.test_source is not None
    files, digests = [], {}
    for split, names in sources.items():
        field = f"corpus.{split}_source" if split else "corpus.source"
        for number, found in enumerate(_find_files(names or (), config, field)):
            kind = _detect_format(found.path, config.format, field)
            its_split = split or found.split or ("train" if held_out else None)
            files.append(CorpusFile(path=str(found.path), kind=kind, split=its_split, constants=dict(found.constants)))
            if with_digest:
                said = "".join(f":{said}" for said in (found.split, found.constants or None) if said)
                digests[f"{split or 'source'}-{number:05}:{kind}{said}"] = _digest(found.path, kind, field)
    location = ", ".join(file.path for file in files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    digest = hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest() if with_digest else ""
    return CorpusRef(location=location, kind=files[0].kind, digest=digest, files=tuple(files))


def locate_files(names: Sequence[str], reading: Reading, query: str | None = None) -> list[CorpusFile]:
    """Return the files to score, which are named as those of a corpus are, after copying remote files.

    Args:
        names: the sources.
        reading: how files are read; its format is that of files whose name says none.
        query: the SQL that selects the rows of a database.

    Raises:
        ConfigError, InputError, ServiceError: as in `locate_corpus`.
    """
    config = CorpusConfig(format=reading.format, label_column=reading.label_column or "label", query=query)
    files = []
    for found in _find_files(names, config, "score"):
        kind = find_kind(found.path.name)
        is_text = Path(found.path.name.lower()).suffix == ".txt" and reading.format in ("auto", "folder")
        if kind is None:
            kind = "txt" if is_text and found.path.is_file() else _detect_format(found.path, config.format, "score")
        if kind == "folder" and not has_folders(found.path) and list_documents(found.path):
            kind = "documents"
        files.append(CorpusFile(path=str(found.path), kind=kind, constants=dict(found.constants)))
    return files


def digest_files(files: Sequence[CorpusFile]) -> str:
    """Return one SHA-256 over the contents of files and what is known of them, in their order."""
    parts = [
        (Path(file.path).name, file.kind, file.constants, _digest(Path(file.path), file.kind, "score"))
        for file in files
    ]
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def _find_files(names: str | Sequence[str], config: CorpusConfig, field: str) -> list[FoundFile]:
    """Return files in order; a directory of data files stands for these files."""
    files: list[FoundFile] = []
    for name in [names] if isinstance(names, str) else names:
        if is_database(name):
            if config.query is None:
                raise InputError(f"{field}: expected also corpus.query, the SQL that selects the rows of the database")
            files.append(FoundFile(fetch_rows(fill_references(name, field), config.query, field)))
            continue
        paths = _resolve_name(name, field)
        for path in paths:
            if not path.exists():
                raise InputError(f"{field}: {path}: no such file or folder")
        if len(paths) > 1:
            files.extend(name_splits(paths, config.label_column))
        elif paths[0].is_dir() and config.format != "folder":
            files.extend(find_files(paths[0], config.label_column))
        else:
            files.append(FoundFile(paths[0]))
    return files


def _resolve_name(name: str, field: str) -> list[Path]:
    """Return the local paths that a source names, after copying remote files."""
    name = fill_references(name, field)
    if name.startswith("https://"):
        return [download_file([name])]
    if "://" in name:
        return _fetch(name, field)
    if name.startswith("package:"):
        name = str(_find_in_package(name, field))
    path = Path(name).expanduser().absolute()
    if path.exists() or not glob.has_magic(name):
        return [path]
    found = sorted(Path(match) for match in glob.iglob(str(path), recursive=True))  # noqa: PTH207 (an absolute pattern)
    if not found:
        raise InputError(f"{field}: {path}: no file matches")
    return found


def _find_in_package(name: str, field: str) -> Path:
    distribution, _, inside = name.removeprefix("package:").partition(":")
    if not distribution or not inside:
        raise InputError(f"{field}: got {name!r}, expected package:<distribution>:<path>")
    try:
        return Path(str(metadata.distribution(distribution).locate_file(inside)))
    except metadata.PackageNotFoundError:
        raise InputError(f"{field}: the distribution {distribution!r} is not installed; install it with pip") from None


def _fetch(url: str, field: str) -> list[Path]:
    """Copy the files of a URL to the downloads, except for versions that are there already."""
    import fsspec  # here because it is rarely needed

    if url.startswith("http://"):
        raise InputError(f"{field}: {url}: expected https, since http does not prove which server answers")
    if named := CODE_PROTOCOLS.intersection(re.split(r"://|::", url)):
        raise InputError(f"{field}: {url}: the protocol {min(named)} is refused, because its addresses can name code")
    try:
        system, names = fsspec.core.url_to_fs(url)
        found = sorted(system.glob(names)) if glob.has_magic(names) else [names]
        if len(found) == 1 and system.isdir(found[0]):
            found = sorted(
                name for name in system.ls(found[0], detail=False) if find_kind(name) or name.endswith(".zip")
            )
        paths = [_copy(system, name) for name in found]
    except (ImportError, ValueError) as error:
        raise InputError(f"{field}: {url}: {error}") from error
    except FileNotFoundError:
        raise InputError(f"{field}: {url}: no such file") from None
    except GloveflowError:
        raise
    except Exception as error:  # each file system has its own errors, for example for missing credentials
        raise ServiceError(f"{field}: {url}: cannot be fetched: {error}") from error
    if not paths:
        raise InputError(f"{field}: {url}: no file matches")
    return paths


def _copy(system: object, name: str) -> Path:
    """Copy a file of an fsspec file system to the downloads, under a name that changes with its version."""
    version = hashlib.sha256(f"{system.to_json()} {name} {system.ukey(name)}".encode()).hexdigest()[:16]  # type: ignore[attr-defined]
    path = artifacts_root() / "downloads" / f"{version}-{Path(name).name}"
    make_directory(path.parent)
    with file_lock(path.with_name(f".{path.name}.lock"), waiting_for=f"another run to fetch {name}"):
        if not path.exists():
            part = path.with_name(f"{path.name}.part")
            with system.open(name, "rb") as remote, part.open("wb") as local:  # type: ignore[attr-defined]
                shutil.copyfileobj(remote, local, 1 << 20)
            size = system.info(name)["size"]  # type: ignore[attr-defined]
            if size not in (None, part.stat().st_size):
                raise OSError(f"{name}: expected {size} bytes, got {part.stat().st_size}")
            part.replace(path)
    return path


def _detect_format(path: Path, wanted: str, field: str) -> str:
    """Return the format of a file or folder: `wanted`, or by its name if that says none."""
    if wanted == "folder" or path.is_dir():
        if wanted not in ("folder", "auto") or not path.is_dir():
            expected = "folder" if wanted == "folder" else "file"
            raise InputError(f"{field}: {path}: expected a {expected} for format {wanted}")
        return "folder"
    if wanted not in ("auto", "sql"):
        return wanted
    kind = find_kind(find_data_name(path))
    if kind is None:
        raise InputError(
            f"{field}: {path}: expected a file name that ends in {', '.join(FORMATS)}; "
            "set corpus.format for other names"
        )
    if is_packed(path.name) and kind not in TEXT_FORMATS:
        raise InputError(f"{field}: {path}: expected a file of the format {kind} as it is, got a packed one; unpack it")
    return kind


def _digest(path: Path, kind: str, field: str) -> str:
    try:
        return tree_digest(list_texts(path, kind)) if path.is_dir() else file_digest(path)
    except OSError as error:
        raise InputError(f"{field}: {error.filename or path}: cannot be read: {error.strerror}") from error
