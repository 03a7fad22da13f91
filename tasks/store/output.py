"""`StageOutput`: the object with which a stage writes its files.

Tables that people look at are Parquet. Tables of token ids are Arrow IPC, which later stages map into memory:
compressing and decompressing them costs more time than reading them.

The same values give the same bytes. `tasks.store.commit` creates the directory and commits it.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.contracts.json_file import JsonFile

_REPETITIVE = ("label", "split", "reason", "source", "prediction")  # columns that a Parquet dictionary makes smaller


class StageOutput:
    """A temporary directory that becomes the stage's output when the stage returns.

    Attributes:
        directory: where the files of the output go.
        scratch: directory for unfinished work that survives a kill. The stage creates it; the commit removes it.
        facts: counts and measurements to display; see `ArtifactRef.facts`.
    """

    def __init__(self, directory: Path, scratch: Path | None = None) -> None:
        self.directory = directory
        self.scratch = scratch or directory.with_name(f"{directory.name}-scratch")
        self.facts: dict[str, Any] = {}

    def path(self, name: str) -> Path:
        """Return where to write a file of the output."""
        return self.directory / name

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file; the same value gives the same bytes."""
        text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        self.path(name).write_text(text + "\n", "utf-8")

    def write_model(self, content: JsonFile) -> None:
        """Write a JSON file under its model's file name; the same values give the same bytes."""
        self.write_json(content.file_name, content.model_dump(mode="json"))

    def write_table(self, name: str, table: pa.Table, schema: pa.Schema) -> None:
        """Write a Parquet file.

        Raises:
            ValueError: the table does not have the promised schema.
        """
        with self.table_writer(name, schema) as writer:
            writer.write_table(_checked(name, table, schema))

    def write_mapped(self, name: str, table: pa.Table, schema: pa.Schema) -> None:
        """Write an Arrow IPC file of one record batch, to be read with `ArtifactRef.map_table`.

        Raises:
            ValueError: the table does not have the promised schema.
        """
        whole = _checked(name, table, schema).combine_chunks()
        with pa.OSFile(str(self.path(name)), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(whole)

    @contextlib.contextmanager
    def table_writer(self, name: str, schema: pa.Schema, *, packed: bool = True) -> Iterator[pq.ParquetWriter]:
        """Open a Parquet file to write it table by table. Vectors are not compressed: float32 does not shrink."""
        has_vectors = any(pa.types.is_fixed_size_list(field.type) for field in schema)
        with pq.ParquetWriter(
            self.path(name),
            schema,
            compression="zstd" if packed and not has_vectors else "none",
            use_dictionary=[name for name in _REPETITIVE if name in schema.names],
            write_statistics=[f.name for f in schema if not pa.types.is_fixed_size_list(f.type)],  # useless for vectors
        ) as writer:
            yield writer


def _checked(name: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return table.cast(schema)
    except (ValueError, TypeError, NotImplementedError) as error:  # pyarrow raises all three
        raise ValueError(f"{name}: the table does not have the promised schema: {error}") from error
