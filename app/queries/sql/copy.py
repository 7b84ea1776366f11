"""Binary COPY in the transaction of a SQLAlchemy connection or session."""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import AsyncConnection as DriverConnection
from psycopg import sql
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.tables import Base

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]
_HEAD = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_END = b"\xff\xff"


async def copy_rows(
    connection: AsyncConnection | AsyncSession,
    table: type[Base],
    columns: Sequence[str],
    rows: Iterable[Sequence[Any]],
    *,
    into: str | None = None,
    freeze: bool = False,
) -> None:
    """Copy `rows` into `table`.

    Args:
        columns: names of the values of each row; other columns of the table get their defaults.
        into: a table of the same columns to copy into, such as a partition before it is attached.
        freeze: mark the rows as visible to everybody, which spares Postgres from doing so later; only for a table
            created in the same transaction.
    """
    described = table.__table__
    assert isinstance(described, Table)
    types = [described.columns[name].type.compile(_DIALECT).lower() for name in columns]
    driver = await _driver_connection(connection)
    async with driver.cursor() as cursor, cursor.copy(_statement(into or described.name, columns, freeze)) as copy:
        copy.set_types(types)
        for row in rows:
            await copy.write_row(row)


async def copy_encoded(
    connection: AsyncConnection, columns: Sequence[str], blocks: Iterable[bytes], *, into: str, freeze: bool
) -> None:
    """Copy rows that are in Postgres' binary format already, any number of them in a block; else as `copy_rows`."""
    driver = await _driver_connection(connection)
    async with driver.cursor() as cursor, cursor.copy(_statement(into, columns, freeze)) as copy:
        await copy.write(_HEAD)
        for block in blocks:
            await copy.write(block)
        await copy.write(_END)


def _statement(table: str, columns: Sequence[str], freeze: bool) -> sql.Composed:
    return sql.SQL("COPY {} ({}) FROM STDIN (FORMAT binary{})").format(
        sql.Identifier(table),
        sql.SQL(", ").join(map(sql.Identifier, columns)),
        sql.SQL(", FREEZE" if freeze else ""),
    )


async def _driver_connection(connection: AsyncConnection | AsyncSession) -> DriverConnection[Any]:
    """Return psycopg's own connection under SQLAlchemy's."""
    if isinstance(connection, AsyncSession):
        connection = await connection.connection()
    found = (await connection.get_raw_connection()).driver_connection
    assert isinstance(found, DriverConnection)
    return found
