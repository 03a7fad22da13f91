"""Where a corpus is: turn the sources in a configuration into local files, their formats and one digest.

A source is a path, a glob, a directory (of data files, or with one sub-folder per class), an https URL, the URL of any
file system that fsspec supports, or `package:<distribution>:<path>` for data files of an installed distribution, which
is not imported. `${NAME}` in it stands for an environment variable. Remote files are copied to `<artifacts>/downloads`
first.
"""

import glob
import hashlib
import shutil
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline_config.errors import GloveflowError, InputError, ServiceError
from pipeline_config.references import fill_references
from pipeline_config.schemas import Split
from pipeline_config.settings import CorpusConfig
from tasks.fetching.mirrors import download_file
from tasks.reading.folders import list_class_files
from tasks.store.artifacts import SourceRef, artifacts_root, file_digest, tree_digest
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory

FORMATS = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet"}


class CorpusFile(BaseModel):
    """A file, or a folder with one sub-folder per class; `split` is the one that the configuration gives, if any."""

    model_config = ConfigDict(frozen=True)

    path: str
    kind: str
    split: Split | None = None


class CorpusRef(SourceRef):
    """A corpus: its files in the order in which they are read."""

    files: tuple[CorpusFile, ...] = ()


def locate_corpus(config: CorpusConfig) -> CorpusRef:
    """Return the files of a corpus and its digest, after copying remote files.

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
        for number, path in enumerate(_find_paths(names or (), config.format, field)):
            kind = _detect_format(path, config.format, field)
            files.append(CorpusFile(path=str(path), kind=kind, split=split or ("train" if held_out else None)))
            digests[f"{split or 'source'}-{number:05}:{kind}"] = _digest(path, kind, field)
    location = ", ".join(file.path for file in files[:3]) + (f" and {len(files) - 3} more" if len(files) > 3 else "")
    digest = hashlib.sha256(repr(sorted(digests.items())).encode()).hexdigest()
    return CorpusRef(location=location, kind=files[0].kind, digest=digest, files=tuple(files))


def _find_paths(names: str | Sequence[str], wanted: str, field: str) -> list[Path]:
    """Return the paths of files in order; a directory of data files stands for these files."""
    paths: list[Path] = []
    for name in [names] if isinstance(names, str) else names:
        for path in _resolve_name(name, field):
            if not path.exists():
                raise InputError(f"{field}: {path}: no such file or folder")
            inside = sorted(path.iterdir()) if path.is_dir() and wanted != "folder" else []
            files = [file for file in inside if _is_data(file)]
            paths.extend(files or [path])
    return paths


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
    try:
        system, names = fsspec.core.url_to_fs(url)
        found = sorted(system.glob(names)) if glob.has_magic(names) else [names]
        if len(found) == 1 and system.isdir(found[0]):
            found = sorted(name for name in system.ls(found[0], detail=False) if Path(name).suffix.lower() in FORMATS)
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
    """Return the format of a file or folder: `wanted`, or by its name if that is `auto`."""
    kind = wanted if wanted != "auto" else "folder" if path.is_dir() else FORMATS.get(path.suffix.lower())
    if kind is None:
        raise InputError(
            f"{field}: {path}: expected a file name that ends in {', '.join(FORMATS)}; "
            "set corpus.format for other names"
        )
    if (kind == "folder") != path.is_dir():
        raise InputError(f"{field}: {path}: expected a {'folder' if kind == 'folder' else 'file'} for format {kind}")
    return kind


def _is_data(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in FORMATS and not path.name.startswith((".", "_"))


def _digest(path: Path, kind: str, field: str) -> str:
    try:
        return tree_digest(list_class_files(path)) if kind == "folder" else file_digest(path)
    except OSError as error:
        raise InputError(f"{field}: {error.filename or path}: cannot be read: {error.strerror}") from error
