"""A table of a database as the output of a scoring, with its side tables `<table>_rejected` and `<table>_profile`.

All rows are written in one transaction. The profile names the scoring, so that one whose process ended right after the
transaction is known to be complete.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from pipeline_config.errors import InputError, ServiceError
from pipeline_config.references import fill_references
from tasks.scoring.outputs import Output
from tasks.scoring.writers import list_values, simplify

if TYPE_CHECKING:
    from sqlalchemy import Connection, Table

_SCORING = "scoring"  # the measure in the profile under which the key of the scoring stands


def check_table(output: Output, *, unfinished: bool) -> None:
    """Find out whether a database answers and has no such table.

    Args:
        output: where the rows belong.
        unfinished: whether an earlier scoring to this table was not finished; then the table may be there.

    Raises:
        InputError: the address cannot be used, or the table exists.
        ServiceError: the database does not answer.
    """
    from sqlalchemy import inspect

    with _connect(output) as connection:
        for name in _names(output):
            if inspect(connection).has_table(name) and not unfinished:
                raise InputError(
                    f"--table: expected a new table, got {name}, which exists there; drop it or name another"
                )


def write_table(
    output: Output,
    *,
    key: str,
    schema: pa.Schema,
    rows: Iterable[pa.Table],
    rejected: Iterable[pa.Table],
    profile: pa.Table,
) -> None:
    """Write rows, rejected rows and the profile, all of them or none.

    Args:
        output: where the rows belong.
        key: what identifies this scoring; a table that it wrote before is left as it is.
        schema: of the rows.
        rows: the rows.
        rejected: rows without an answer.
        profile: the profile.

    Raises:
        InputError: the table exists.
        ServiceError: the database refuses the rows.
    """
    from sqlalchemy import inspect

    table, side, facts = _names(output)
    profile = pa.concat_tables(
        [profile, pa.Table.from_pylist([{"measure": _SCORING, "value": key, "count": 1}], schema=profile.schema)]
    )
    with _connect(output) as connection, connection.begin():
        if inspect(connection).has_table(facts) and _read_key(connection, facts) == key:
            return
        if inspect(connection).has_table(table):
            raise InputError(f"--table: expected a new table, got {table}, which exists; drop it or name another")
        _insert(connection, table, schema, rows)
        if tables := list(rejected):
            _insert(connection, side, tables[0].schema, tables)
        _insert(connection, facts, profile.schema, [profile])


def _names(output: Output) -> tuple[str, str, str]:
    return output.table or "", f"{output.table}_rejected", f"{output.table}_profile"


def _insert(connection: "Connection", name: str, schema: pa.Schema, tables: Iterable[pa.Table]) -> None:
    table = _make_table(connection, name, schema)
    keys = [column.name for column in table.columns]
    for rows in tables:
        values = [list(map(_make_value, list_values(column))) for column in rows.columns]
        if len(rows):
            connection.execute(table.insert(), [dict(zip(keys, row, strict=True)) for row in zip(*values, strict=True)])


def _make_table(connection: "Connection", name: str, schema: pa.Schema) -> "Table":
    from sqlalchemy import Column, MetaData, Table

    exact = connection.dialect.name != "sqlite"  # which keeps decimals as inexact numbers
    table = Table(name, MetaData(), *(Column(field.name, _find_type(field.type, exact=exact)) for field in schema))
    table.create(connection)
    return table


def _find_type(kind: pa.DataType, *, exact: bool) -> Any:
    from sqlalchemy import types

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_boolean(kind):
        return types.Boolean()
    if pa.types.is_integer(kind) and kind != pa.uint64():
        return types.BigInteger()
    if pa.types.is_floating(kind):
        return types.Double()
    if pa.types.is_timestamp(kind):
        return types.DateTime(timezone=kind.tz is not None)
    if pa.types.is_date(kind):
        return types.Date()
    if exact and pa.types.is_decimal(kind):
        return types.Numeric(kind.precision, kind.scale)
    return types.LargeBinary() if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) else types.Text()


def _make_value(value: Any) -> Any:
    return json.dumps(simplify(value), ensure_ascii=False) if isinstance(value, list | dict) else value


def _read_key(connection: "Connection", table: str) -> str | None:
    from sqlalchemy import column, select
    from sqlalchemy import table as name_table

    profile = name_table(table, column("measure"), column("value"))
    found = connection.execute(select(profile.c.value).where(profile.c.measure == _SCORING)).first()
    return None if found is None else str(found[0])


@contextlib.contextmanager
def _connect(output: Output) -> Iterator["Connection"]:
    from sqlalchemy import create_engine, exc

    try:
        engine = create_engine(fill_references(output.place, "--output"))
        try:
            with engine.connect() as connection:
                yield connection
        finally:
            engine.dispose()
    except (exc.ArgumentError, exc.NoSuchModuleError, ImportError) as error:
        raise InputError(f"--output: cannot be used as the URL of a database: {error}") from error
    except exc.SQLAlchemyError as error:
        reason = " ".join(str(getattr(error, "orig", None) or error).split())
        raise ServiceError(f"--output: {output.shown}: cannot be written: {reason}") from error
