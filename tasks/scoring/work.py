"""The work of a scoring: its finished chunks, kept until the output is complete.

Writes `<artifacts>/scoring/<output>/<key>/`. The key covers the input, the version of the model and the options. A
chunk is finished when its record is there, with the digests of its files, and the files have them; any other is
computed again. A process holds the work of an output alone.
"""

import contextlib
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from pipeline_config.errors import InputError
from pipeline_config.masking import mask_secrets
from tasks.monitoring.sample import SAMPLE, join_samples
from tasks.scoring.profile import Counts, add_counts
from tasks.store.artifacts import artifacts_root, file_digest
from tasks.store.disk_errors import store_errors
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory

FORMAT = 3  # raise it when the rows of the same input get other answers, or chunks end elsewhere
_FILES = ("rows", "rejected", "sample")
_NAME = "output.txt"  # what messages call the output, beside the work on it


class Record(NamedTuple):
    """What is known of a finished chunk.

    Attributes:
        rows: number of rows of the output.
        abstained: number of answers below the threshold.
        rejected: number of rows without an answer, in the output or not, by reason.
        undecodable: number of values of other columns than the text that are not in the encoding, by column.
        counts: what the profile counts.
    """

    rows: int
    abstained: int
    rejected: dict[str, int]
    undecodable: dict[str, int]
    counts: Counts

    @property
    def labels(self) -> dict[str, int]:
        """Number of answers by label."""
        return self.counts.get("label", {})


class Work:
    """The finished chunks of a scoring.

    Attributes:
        folder: where they are.
        key: what identifies the scoring.
        records: of the chunks that were counted, in order.
        sample: of the texts of these chunks.
        resumed: the positions of those that were finished before this process began.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.key = folder, folder.name
        self.records: list[Record] = []
        self.sample = SAMPLE.empty_table()
        self.resumed: set[int] = set()

    def find(self, number: int) -> Record | None:
        """Return the record of a finished chunk whose files are intact, or None."""
        try:
            content = json.loads(self._path(number, "record").read_text("utf-8"))
            if any(file_digest(self._path(number, name)) != content["sha256"][name] for name in _FILES):
                return None
            return Record(**content["record"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def count(self, record: Record) -> None:
        """Add the next chunk, which is finished, to those that were counted."""
        self.sample = join_samples([self.sample, self._read(len(self.records), "sample")])
        self.records.append(record)

    def commit(self, number: int, rows: pa.Table, rejected: pa.Table, sample: pa.Table, record: Record) -> None:
        """Write the files of a chunk, and then its record.

        Raises:
            StoreError: they cannot be written.
        """
        with store_errors(self.folder):
            for name, table in zip(_FILES, (rows, rejected, sample), strict=True):
                with (
                    pa.OSFile(str(self._path(number, name)), "wb") as sink,
                    pa.ipc.new_stream(sink, table.schema) as writer,
                ):
                    writer.write_table(table.unify_dictionaries())
            digests = {name: file_digest(self._path(number, name)) for name in _FILES}
            temporary = self._path(number, "new")
            temporary.write_text(json.dumps({"sha256": digests, "record": record._asdict()}), "utf-8")
            temporary.replace(self._path(number, "record"))

    def total(self) -> Record:
        """Return the sum of all chunks."""
        rejected: Counter[str] = Counter()
        undecodable: Counter[str] = Counter()
        counts: Counts = {}
        for record in self.records:
            rejected.update(record.rejected)
            undecodable.update(record.undecodable)
            add_counts(counts, record.counts)
        rows, abstained = (sum(getattr(record, name) for record in self.records) for name in ("rows", "abstained"))
        return Record(rows, abstained, dict(rejected.most_common()), dict(undecodable), counts)

    def read_rows(self) -> Iterator[pa.Table]:
        """Yield the rows of the output, chunk by chunk."""
        return (self._read(number, "rows") for number in range(len(self.records)))

    def read_rejected(self) -> Iterator[pa.Table]:
        """Yield the rows without an answer, of each chunk that has any."""
        return (self._read(number, "rejected") for number, record in enumerate(self.records) if record.rejected)

    def _read(self, number: int, name: str) -> pa.Table:
        with pa.memory_map(str(self._path(number, name))) as source, pa.ipc.open_stream(source) as reader:
            return reader.read_all()

    def _path(self, number: int, name: str) -> Path:
        return self.folder / f"{number:06}-{name}"


@contextlib.contextmanager
def open_work(output: str, key: Mapping[str, Any]) -> Iterator[Work]:
    """Hold the work of an output for the body, and remove it unless the body is interrupted or a service fails.

    Chunks of another input, version or option are removed at once, since their output is not wanted any more.

    Raises:
        StoreError: the artifacts cannot be written.
    """
    place = _place(output)
    folder = place / _hash({"format": FORMAT, **key})
    with file_lock(_lock(place), waiting_for=f"another scoring to write {output}"):
        with store_errors(place):
            make_directory(place)
            (place / _NAME).write_text(mask_secrets(output), "utf-8", "surrogatepass")
            for other in place.iterdir():
                if other != folder:
                    shutil.rmtree(other, ignore_errors=True)
            make_directory(folder)
        work = Work(folder)
        try:
            yield work
        except InputError:  # the same input will not do next time either
            shutil.rmtree(place, ignore_errors=True)
            raise
        shutil.rmtree(place, ignore_errors=True)


def has_work(output: str) -> bool:
    """Return whether a scoring to an output was begun and not finished."""
    return _place(output).is_dir()


class Unfinished(NamedTuple):
    """A scoring that was begun and whose output is not complete.

    Attributes:
        output: what messages call its output; None if it is not known.
        folder: where its work is.
        lock: the file that the process holds that works on it.
        rows: number of rows of the finished chunks.
        size: bytes of all its files.
        changed: when it was last written to, in seconds since 1970.
    """

    output: str | None
    folder: Path
    lock: Path
    rows: int
    size: int
    changed: float


def list_unfinished(root: Path) -> list[Unfinished]:
    """Return the scorings of an artifacts directory that are not finished; one may be running."""
    places = sorted(root.glob("scoring/*"))
    return [_describe(place) for place in places if place.is_dir() and not place.name.startswith(".")]


def _describe(place: Path) -> Unfinished:
    output, rows = None, 0
    with contextlib.suppress(OSError, ValueError):
        output = (place / _NAME).read_text("utf-8", "surrogatepass")
    for record in place.glob("*/*-record"):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            rows += int(json.loads(record.read_text("utf-8"))["record"]["rows"])
    found = []
    for path in (place, *place.rglob("*")):
        with contextlib.suppress(FileNotFoundError):  # it is being finished
            found.append(path.stat())
    size = sum(status.st_size for status in found)
    return Unfinished(output, place, _lock(place), rows, size, max((s.st_mtime for s in found), default=0.0))


def _lock(place: Path) -> Path:
    return place.with_name(f".{place.name}.lock")


def _place(output: str) -> Path:
    return artifacts_root() / "scoring" / _hash(output)


def _hash(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]
