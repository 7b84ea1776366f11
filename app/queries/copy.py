"""Binary COPY, in the transaction of a SQLAlchemy connection or session."""

from collections.abc import Iterable, Sequence
from typing import Any

from psycopg import AsyncConnection as DriverConnection
from psycopg import sql
from sqlalchemy import Table
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from app.tables import Base

_DIALECT = postgresql.dialect()  # type: ignore[no-untyped-call]


async def copy_rows(
    connection: AsyncConnection | AsyncSession,
    table: type[Base],
    rows: Iterable[Sequence[Any]],
    *,
    into: str | None = None,
    freeze: bool = False,
) -> None:
    """Copy `rows`, which hold all columns of `table` in order.

    Args:
        into: a table of the same columns to copy into, such as a partition to be.
        freeze: mark the rows as visible to everybody, which spares Postgres from doing so later; only for a table
            created in the same transaction.
    """
    described = table.__table__
    assert isinstance(described, Table)
    statement = sql.SQL("COPY {} FROM STDIN (FORMAT binary{})").format(
        sql.Identifier(into or described.name), sql.SQL(", FREEZE" if freeze else "")
    )
    types = [column.type.compile(_DIALECT).lower() for column in described.columns]
    driver = await _driver_connection(connection)
    async with driver.cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            await copy.write_row(row)


async def _driver_connection(connection: AsyncConnection | AsyncSession) -> DriverConnection[Any]:
    """psycopg's own connection under SQLAlchemy's."""
    if isinstance(connection, AsyncSession):
        connection = await connection.connection()
    found = (await connection.get_raw_connection()).driver_connection
    assert isinstance(found, DriverConnection)
    return found
