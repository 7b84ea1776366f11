"""Fixtures for everybody: a real Postgres, and a migrated database for each test or for each module that only reads.

A module marked `read_only` shares one database, and its tests connect to it as a role that cannot write. A test of such
a module that writes, or needs other rows, is marked `own_database`: it gets a new one, like tests of all other modules.
"""

import copy
import gc
import os
import shutil
from collections.abc import AsyncIterator, Generator, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg
import pytest
import torch
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker

from app.database_url import connection_params, libpq_url
from app.db import create_engine, create_sessionmaker
from app.schema import upgrade
from app.supervision.embedded_postgres import DATABASE, embedded_postgres
from tests.factories import Synthetic, make_sae

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports Triton, as torch's compiler does

SLOW = (
    "app/bench/",
    "app/cli/test_exchange.py",
    "app/pipeline/",
    "app/queries/test_plans.py",
    "app/runs/test_outages.py",
    "app/runs/test_sharing.py",
    "app/runs/test_two_workers.py",
    "app/runs/test_worker.py",
    "app/supervision/",
    "core/kernels/",
    "core/statistics/test_map.py",
    "core/test_parallel.py",
    "core/training/test_gpu_step.py",
    "core/training/test_learning.py",
    "core/training/test_self_check.py",
    "e2e/",
    "test_wheel.py",
)
"""Folders and files that `make test-quick` leaves out; single tests elsewhere are marked `slow`."""
APART = (
    "core/kernels/",
    "core/training/test_gpu_step.py",
    "core/training/test_self_check.py",
    "e2e/test_accessibility.py",
    "e2e/test_every_page.py",
    "e2e/test_loading.py",
    "e2e/test_without_javascript.py",
)
"""Slow tests of these run in any process, one by one; the tests of every other file share their file's fixtures."""
TESTS = Path(__file__).parent
TEMPLATE = "template_seesae"
READER = "reader"
"""A role whose transactions are read-only, for databases that tests share."""
ROOM_IN_MEMORY = 4 * 2**30
"""Bytes that must be free in memory before databases are kept there; a container's default, 64 MB, is too little."""
_numbers = count(1)


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage among a million objects of modules and tests, which all stay: it took a third of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark what is slow. Under xdist, keep a file's tests in one process, and begin with the slow ones."""
    for item in items:
        path = item.path.relative_to(TESTS).as_posix()
        if path.startswith(SLOW):
            item.add_marker(pytest.mark.slow)
        if not path.startswith(APART):
            item.add_marker(pytest.mark.xdist_group(path))
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A server for these tests (under pytest-xdist, for this worker), with a migrated template database."""
    with temporary_home() as home, embedded_postgres(home) as url:
        with psycopg.connect(libpq_url(_named(url, "postgres")), autocommit=True) as connection:
            for setting in ("fsync", "synchronous_commit", "full_page_writes"):
                connection.execute(f"ALTER SYSTEM SET {setting} = off")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"CREATE ROLE {READER} SUPERUSER LOGIN")
            connection.execute(f"ALTER ROLE {READER} SET default_transaction_read_only = on")
            connection.execute(f"CREATE DATABASE {TEMPLATE} TEMPLATE {DATABASE}")
        upgrade(_named(url, TEMPLATE))
        yield url


@pytest.fixture
def empty_database_url(postgres_url: str) -> Iterator[str]:
    """A new database without tables."""
    yield from create_database(postgres_url, template=DATABASE)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, postgres_url: str) -> Iterator[str]:
    """A new database with all tables, and no rows but those of `made` for a test that asks for it; for a test that only
    reads, the database of its module."""
    if only_reads(request):
        yield as_reader(request.getfixturevalue("module_database_url"))
    elif "made" in request.fixturenames:
        yield from create_database(postgres_url, template=request.getfixturevalue("made_template")[0])
    else:
        yield from create_database(postgres_url)


@pytest.fixture(scope="module")
def module_database_url(postgres_url: str) -> Iterator[str]:
    """The database that the tests of a `read_only` module share; its module-scoped fixtures fill it."""
    yield from create_database(postgres_url)


@pytest.fixture(scope="module")
async def module_engine(module_database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine that may write to `module_database_url`."""
    engine = create_engine(module_database_url)
    yield engine
    await engine.dispose()


def only_reads(request: pytest.FixtureRequest) -> bool:
    """True for a test of a `read_only` module that is not marked `own_database`."""
    marker = request.node.get_closest_marker
    return marker("read_only") is not None and marker("own_database") is None


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
def made(request: pytest.FixtureRequest) -> Synthetic:
    """A published SAE of made-up features."""
    if only_reads(request):
        return request.getfixturevalue("module_made")
    return copy.deepcopy(request.getfixturevalue("made_template")[1])  # of a test that may change it


@pytest.fixture(scope="session")
def made_options() -> dict[str, Any]:
    """Arguments of `make_sae` for `made`; a folder whose tests need a larger SAE overrides them."""
    return {}


@pytest.fixture(scope="module")
async def module_made(module_engine: AsyncEngine, made_options: dict[str, Any]) -> Synthetic:
    """The SAE that the tests of a `read_only` module share."""
    return await make_sae(module_engine, **made_options)


@pytest.fixture(scope="module")
async def made_template(postgres_url: str, made_options: dict[str, Any]) -> AsyncIterator[tuple[str, Synthetic]]:
    """The name of a database that holds `made`, and what it holds. A copy takes a tenth of the time."""
    with contextmanager(create_database)(postgres_url) as url:
        engine = create_engine(url)
        made = await make_sae(engine, **made_options)
        await engine.dispose()  # Postgres copies only a database to which nobody is connected
        yield connection_params(url)["dbname"], made


@pytest.fixture
def home() -> Iterator[Path]:
    """A folder that an embedded Postgres can keep its data in."""
    with temporary_home() as home:
        yield home


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Not pytest's `tmp_path`: its path may be too long for a socket, and for root each start of pytest closes it again
    to the OS user that Postgres then runs as. In memory if there is room: making a database (some 300 files) took 9 ms
    there, and 100 to 400 on a virtual disk."""
    memory = Path("/dev/shm")
    in_memory = memory.is_dir() and os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM_IN_MEMORY
    with TemporaryDirectory(prefix="seesae-", dir=memory if in_memory else None) as folder:
        yield Path(folder)


def create_database(server: str, template: str = TEMPLATE) -> Iterator[str]:
    """Yield the URL of a new database, and drop it afterwards."""
    name = f"test_{next(_numbers)}"
    with psycopg.connect(libpq_url(_named(server, "postgres")), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        yield _named(server, name)
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def as_reader(database_url: str) -> str:
    """Return `database_url` for a role that cannot write."""
    return libpq_url(database_url, user=READER)


def _named(server: str, database: str) -> str:
    return libpq_url(server, dbname=database)
