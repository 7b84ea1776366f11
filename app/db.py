"""Connections to the database."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import psycopg
from fastapi import Request
from sqlalchemy import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine

from app.errors import Unavailable, UserError

CONNECT_TIMEOUT = 5
LOCK_TIMEOUT = 5
IDLE_TIMEOUT = 60
"""Seconds. The last one ends a forgotten transaction, which would keep an old index from being dropped."""


def sqlalchemy_url(database_url: str) -> URL:
    """Return `database_url` (`postgres://`, `postgresql://`, with or without a driver) for SQLAlchemy with psycopg.

    Raises:
        UserError: it is not the URL of a Postgres. The message does not quote it, because it may hold a password.
    """
    try:
        url = make_url(database_url)
    except (ArgumentError, ValueError):
        raise UserError(
            "SEESAE_DATABASE_URL is not a URL: write it as postgresql://user:password@host:5432/database."
        ) from None
    if url.get_backend_name() not in ("postgres", "postgresql"):
        raise UserError(
            f"SEESAE_DATABASE_URL names {url.get_backend_name()}, and SeeSAE needs Postgres: "
            "write it as postgresql://user:password@host:5432/database."
        )
    return url.set(drivername="postgresql+psycopg")


def libpq_url(database_url: str) -> str:
    """Return `database_url` in the form that psycopg itself, `pg_dump` and `pg_restore` take."""
    return sqlalchemy_url(database_url).set(drivername="postgresql").render_as_string(hide_password=False)


def create_engine(database_url: str, *, statement_timeout: float | None = 30.0) -> AsyncEngine:
    """Create an engine whose pool survives a restart of the database.

    Args:
        database_url: as `sqlalchemy_url` takes it.
        statement_timeout: longest time of one statement, in seconds; None, for the worker, sets no limit.
    """
    settings = {
        "statement_timeout": int((statement_timeout or 0) * 1000),
        "lock_timeout": LOCK_TIMEOUT * 1000,
        "idle_in_transaction_session_timeout": IDLE_TIMEOUT * 1000 if statement_timeout else 0,
        "jit": "off",  # compiling a query of many arrays takes longer than running it
    }
    return create_async_engine(
        sqlalchemy_url(database_url),
        pool_pre_ping=True,
        pool_timeout=10,
        json_serializer=partial(json.dumps, allow_nan=False),
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT,
            "application_name": "seesae",
            "options": " ".join(f"-c {name}={value}" for name, value in settings.items()),
        },
    )


def create_sessionmaker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Create a factory for sessions of `engine`."""
    return async_sessionmaker(engine, expire_on_commit=False)


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


async def get_session(request: Request) -> AsyncIterator[AsyncSession]:
    """FastAPI dependency that yields a session of `app.state.sessionmaker`.

    Use it as `Depends(get_session, scope="function")`: it then commits before the response is sent, so that a failed
    commit is not answered with success.
    """
    async with transaction(request.app.state.sessionmaker) as session:
        yield session
