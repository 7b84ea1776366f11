"""Connections to the database."""

import json
import select
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from math import inf
from time import monotonic
from typing import Any

import psycopg
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.database_url import CONNECT_TIMEOUT, connection_params
from app.errors import Unavailable

DRIVER = "postgresql+psycopg://"
"""URL of every engine: where the database is goes to psycopg directly, so that libpq alone reads users' URLs."""

LOCK_TIMEOUT = 5
IDLE_TIMEOUT = 60
"""Seconds. The last one ends a forgotten transaction, which would keep an old index from being dropped."""

PROVEN = 5.0
"""Seconds for which a connection that was in use is taken to be alive, if its socket has nothing to read: a ping costs
a round trip, and a page borrows two connections."""

_KEEPALIVES = {"tcp_keepalives_idle": 20, "tcp_keepalives_interval": 10, "tcp_keepalives_count": 3}
"""The database ends the connection of a machine that is silent for 50 seconds, and so releases its locks."""


def create_engine(database_url: str, *, statement_timeout: float | None = 30.0) -> AsyncEngine:
    """Create an engine whose pool survives a restart of the database.

    Args:
        database_url: as `connection_params` takes it.
        statement_timeout: longest time of one statement, in seconds; None, for the worker, sets no limit.
    """
    settings = {
        "statement_timeout": int((statement_timeout or 0) * 1000),
        "lock_timeout": LOCK_TIMEOUT * 1000,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT * 1000 if statement_timeout else 0,
        **_KEEPALIVES,
        "jit": "off",  # compiling a query of many arrays takes longer than running it
    }
    engine = create_async_engine(
        DRIVER,
        pool_timeout=10,
        json_serializer=partial(json.dumps, allow_nan=False),
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT,
            **connection_params(database_url),
            "application_name": "seesae",
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        },
    )
    _ping_after_pause(engine)
    return engine


def _ping_after_pause(engine: AsyncEngine) -> None:
    """Let the pool lend only connections that answer, or answered a moment ago and were not closed since."""

    def note(_: Any, record: Any) -> None:
        record.info["used"] = monotonic()

    def ping(connection: Any, record: Any, _: Any) -> None:
        try:
            if monotonic() - record.info.get("used", -inf) >= PROVEN or _has_unread(connection):
                engine.dialect.do_ping(connection)
        except psycopg.Error as error:
            raise InvalidatePoolError from error  # all are older than whatever ended this one

    event.listen(engine.sync_engine, "connect", note)
    event.listen(engine.sync_engine, "checkin", note)
    event.listen(engine.sync_engine, "checkout", ping)


def _has_unread(connection: Any) -> bool:
    """True if the database sent something that nobody asked for: that it is going down, or the end of the stream."""
    waiting = select.poll()
    waiting.register(connection.driver_connection.fileno(), select.POLLIN)
    return bool(waiting.poll(0))


def create_sessionmaker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Create a factory for sessions of `engine`."""
    return async_sessionmaker(engine, expire_on_commit=False)


def create_readers(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Create a factory for sessions without a transaction, which saves two round trips: each statement stands alone.

    Not for pages: the locks that keep an index from being dropped while it is read are a transaction's.
    """
    return create_sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"))


@asynccontextmanager
async def transaction(sessionmaker: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
    """Yield a session that commits at the end, or rolls back if the block raises.

    Raises:
        Unavailable: the database cannot be reached, or is too busy to answer in time.
    """
    try:
        async with sessionmaker() as session:
            yield session
            await session.commit()
    except PoolTimeout as error:
        raise Unavailable("The database has too much to do right now: try again in a moment.") from error
    except DBAPIError as error:
        raise _translated(error) from error


def _translated(error: DBAPIError) -> Exception:
    """Return `error` as an `Unavailable` if the database is absent or overloaded, else as it is."""
    if isinstance(error.orig, psycopg.errors.QueryCanceled | psycopg.errors.LockNotAvailable):
        return Unavailable("The database took too long to answer: try again, or ask for less.")
    if error.connection_invalidated or isinstance(error, OperationalError | InterfaceError):
        return Unavailable("The database cannot be reached: this page will work again as soon as it is back.")
    return error
