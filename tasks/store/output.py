"""What a stage writes through: JSON and tables of a promised schema, into the directory of its output to be.

Parquet is for what people look at, Arrow IPC for what later stages map into memory: token ids, which cost more to pack
and unpack than to read.

The same values give the same bytes. `tasks.store.artifacts` makes the directory and commits it.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.contracts.json_file import JsonFile

_REPETITIVE = ("label", "split", "reason", "source", "prediction")  # columns worth a Parquet dictionary


class StageOutput:
    """What a stage writes through: a temporary directory that becomes the output when the stage returns.

    Set `facts` for counts and measurements worth reporting. `scratch` is a directory for work in progress that
    survives a kill, for the stage to make; it is removed once the output is committed.
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
        """Write a JSON file under the name that its model says; the same values give the same bytes."""
        self.write_json(content.file_name, content.model_dump(mode="json"))

    def write_table(self, name: str, table: pa.Table, schema: pa.Schema) -> None:
        """Write a Parquet file.

        Raises:
            ValueError: the table is not of the promised schema.
        """
        with self.table_writer(name, schema) as writer:
            writer.write_table(_checked(name, table, schema))

    def write_mapped(self, name: str, table: pa.Table, schema: pa.Schema) -> None:
        """Write an Arrow IPC file of one record batch, to be read with `ArtifactRef.map_table`.

        Raises:
            ValueError: the table is not of the promised schema.
        """
        whole = _checked(name, table, schema).combine_chunks()
        with pa.OSFile(str(self.path(name)), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
            writer.write_table(whole)

    @contextlib.contextmanager
    def table_writer(self, name: str, schema: pa.Schema, *, packed: bool = True) -> Iterator[pq.ParquetWriter]:
        """Open a Parquet file for writing table by table; vectors are not packed, since float32 does not shrink."""
        has_vectors = any(pa.types.is_fixed_size_list(field.type) for field in schema)
        with pq.ParquetWriter(
            self.path(name),
            schema,
            compression="zstd" if packed and not has_vectors else "none",
            use_dictionary=[name for name in _REPETITIVE if name in schema.names],
            write_statistics=[f.name for f in schema if not pa.types.is_fixed_size_list(f.type)],  # of no use there
        ) as writer:
            yield writer


def _checked(name: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    try:
        return table.cast(schema)
    except (ValueError, TypeError, NotImplementedError) as error:  # pyarrow's are of all three
        raise ValueError(f"{name}: the table is not of the promised schema: {error}") from error
