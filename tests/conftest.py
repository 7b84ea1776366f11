"""Fixtures for everybody: a real Postgres, a migrated database of its own for each test."""

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg
import pytest
import torch
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.db import create_engine, create_sessionmaker, libpq_url, sqlalchemy_url
from app.schema import upgrade
from app.supervision.embedded_postgres import DATABASE, embedded_postgres

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton, as torch's compiler does

TEMPLATE = "template_seesae"
_numbers = count(1)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server for these tests (under pytest-xdist, for this worker), with a migrated template database."""
    with temporary_home() as home, embedded_postgres(home) as url:
        with psycopg.connect(libpq_url(_named(url, "postgres")), autocommit=True) as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE {DATABASE}")
        upgrade(_named(url, TEMPLATE))
        yield url


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """A new database without tables."""
    yield from _database(postgres_url, template=DATABASE)


@pytest.fixture
def database_url(postgres_url: str) -> Iterator[str]:
    """A new database with all tables, and nothing in them."""
    yield from _database(postgres_url, template=TEMPLATE)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine of `database_url`."""
    engine = create_engine(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
def sessionmaker(engine: AsyncEngine) -> async_sessionmaker[AsyncSession]:
    """Sessions of `database_url`, for what has to commit."""
    return create_sessionmaker(engine)


@pytest.fixture
async def session(sessionmaker: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
    """One session; what the test does not commit is rolled back."""
    async with sessionmaker() as session:
        yield session


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that an embedded Postgres can keep its data in."""
    with temporary_home() as home:
        yield home


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Not pytest's `tmp_path`: its path may be too long for a socket, and for root each start of pytest closes it again
    to the OS user that Postgres then runs as."""
    with TemporaryDirectory(prefix="seesae-") as folder:
        yield Path(folder)


def _database(server: str, template: str) -> Iterator[str]:
    name = f"test_{next(_numbers)}"
    with psycopg.connect(libpq_url(_named(server, "postgres")), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        yield _named(server, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _named(server: str, database: str) -> str:
    return sqlalchemy_url(server).set(database=database).render_as_string(hide_password=False)
