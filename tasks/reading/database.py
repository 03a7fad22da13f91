"""Rows of a database: the result of a query, streamed into a Parquet file in the downloads.

The file has a name by its content, so that the same rows are the same corpus.
"""

import decimal
import uuid
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline_config.errors import InputError, ServiceError
from tasks.store.artifacts import artifacts_root, file_digest
from tasks.store.locks import file_lock
from tasks.store.private_files import make_directory

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

_BATCH_ROWS = 10_000
_DATABASES = (
    "sqlite",
    "postgresql",
    "postgres",
    "mysql",
    "mariadb",
    "oracle",
    "mssql",
    "duckdb",
    "snowflake",
    "bigquery",
)


def is_database(name: str) -> bool:
    """Return whether a source is the URL of a database."""
    return "://" in name and name.partition("://")[0].partition("+")[0] in _DATABASES


def fetch_rows(address: str, query: str, field: str) -> Path:
    """Write the rows that a query selects to a Parquet file in the downloads, and return its path.

    Args:
        address: SQLAlchemy URL of the database.
        query: SQL that returns rows.
        field: the setting that names the source, for messages.

    Raises:
        InputError: the URL, its driver or the query cannot be used, or a column has values of several types.
        ServiceError: the database cannot be reached.
    """
    from sqlalchemy import exc  # here because it takes a second to import

    folder = artifacts_root() / "downloads"
    make_directory(folder)
    part = folder / ".query.parquet.part"
    with file_lock(folder / ".query.lock", waiting_for="another run to read from a database"):
        try:
            _copy_rows(address, query, field, part)
        except (exc.ArgumentError, exc.NoSuchModuleError, ImportError) as error:
            raise InputError(f"{field}: cannot be used as the URL of a database: {error}") from error
        except (exc.OperationalError, exc.InterfaceError) as error:
            text = _describe(error)
            if "no such" in text or "syntax error" in text:  # SQLite gives no other sign
                raise InputError(f"corpus.query: {text}") from error
            raise ServiceError(f"{field}: {text}") from error
        except exc.SQLAlchemyError as error:
            raise InputError(f"corpus.query: {_describe(error)}") from error
        path = folder / f"query-{file_digest(part)[:16]}.parquet"
        part.replace(path)
    return path


def _copy_rows(address: str, query: str, field: str, path: Path) -> None:
    from sqlalchemy import create_engine, make_url

    url = make_url(address)
    _check_file(url, field)
    engine = create_engine(url)
    try:
        with engine.connect() as connection:
            options = {"stream_results": True, "no_parameters": True}  # percent signs and colons mean themselves
            result = connection.exec_driver_sql(query, execution_options=options)
            if not result.returns_rows:
                raise InputError(f"corpus.query: expected a query that selects rows, got {query[:80]!r}")
            _write_rows(list(result.keys()), result.partitions(_BATCH_ROWS), path)
    finally:
        engine.dispose()


def _check_file(url: "URL", field: str) -> None:
    """Raise an InputError if a SQLite file does not exist: SQLite would make an empty one."""
    if url.get_backend_name() == "sqlite" and not (url.database and Path(url.database).is_file()):
        raise InputError(f"{field}: {url.database or 'a database in memory'}: no such file")


def _write_rows(names: list[str], batches: Iterable[Sequence[Any]], path: Path) -> None:
    """Write batches of rows; the types of the columns are those of the first batch."""
    writer, schema, done = None, None, 0
    try:
        for batch in batches:
            columns = [[_simplify(value) for value in column] for column in zip(*batch, strict=True)]
            schema = schema or _find_schema(names, columns)
            arrays = [_make_array(column, kind, done) for column, kind in zip(columns, schema, strict=True)]
            writer = writer or pq.ParquetWriter(path, schema)
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))
            done += len(batch)
        if writer is None:
            raise InputError("corpus.query: expected rows, got none")
    finally:
        if writer is not None:
            writer.close()


def _find_schema(names: list[str], columns: list[list[Any]]) -> pa.Schema:
    fields = []
    for name, column in zip(names, columns, strict=True):
        try:
            kind = pa.array(column).type
        except pa.ArrowException as error:
            raise _report_types(name, 0, error) from error
        is_text = pa.types.is_null(kind) or pa.types.is_string(kind)
        fields.append(pa.field(name, pa.large_string() if is_text else kind))
    return pa.schema(fields)


def _make_array(column: list[Any], field: pa.Field, done: int) -> pa.Array:
    try:
        return pa.array(column, field.type)
    except (pa.ArrowException, OverflowError) as error:
        raise _report_types(field.name, done, error) from error


def _report_types(name: str, done: int, error: Exception) -> InputError:
    return InputError(
        f"corpus.query: expected values of one type in the column {name!r}, got others after row {done}: {error}; "
        "convert them in the query, for example with CAST"
    )


def _simplify(value: Any) -> Any:
    """Return a value of a database as Arrow takes it: whole decimal numbers as integers, identifiers as texts."""
    if isinstance(value, decimal.Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return str(value) if isinstance(value, uuid.UUID) else value


def _describe(error: Any) -> str:
    """Return what the driver of the database says, in one line."""
    return " ".join(str(getattr(error, "orig", None) or error).split())
