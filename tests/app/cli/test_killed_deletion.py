"""`seesae delete`, killed by `kill -9`: everything is whole or gone, and a worker or `seesae gc` finishes it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.database_url import libpq_url
from app.queries.saes import SaeDetail
from app.settings import get_settings
from tests.app.inference.dictionaries import SLUG, make_dictionary, publish
from tests.app.runs.workers import seesae, worker
from tests.app.storage.test_removal import files

pytestmark = pytest.mark.slow

SECONDS = 60.0
MANY = 30_000
"""Files that take long enough to remove that a kill comes before the last."""


@pytest.fixture
async def sae(engine: AsyncEngine, tmp_path: Path, database_url: str, monkeypatch: pytest.MonkeyPatch) -> SaeDetail:
    monkeypatch.setenv("SEESAE_DATABASE_URL", database_url)
    monkeypatch.setenv("SEESAE_ARTIFACTS", str(tmp_path / "home" / "artifacts"))
    get_settings.cache_clear()
    return await publish(engine, make_dictionary(tmp_path / "home"), with_store=True)


@pytest.fixture
def artifacts(sae: SaeDetail, tmp_path: Path) -> Path:
    return tmp_path / "home" / "artifacts"


@pytest.fixture
async def connect(database_url: str) -> AsyncIterator[Callable[[], Awaitable[psycopg.AsyncConnection]]]:
    """Opens connections; what they hold is released after the test."""
    opened: list[psycopg.AsyncConnection] = []

    async def connect() -> psycopg.AsyncConnection:
        opened.append(await psycopg.AsyncConnection.connect(libpq_url(database_url)))
        return opened[-1]

    yield connect
    for connection in opened:
        await connection.close()


@asynccontextmanager
async def deleting() -> AsyncIterator[asyncio.subprocess.Process]:
    """`seesae delete` in a process of its own, killed at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "delete", "sae", SLUG, "--yes", env={**os.environ, "OMP_NUM_THREADS": "1"}
    )
    try:
        yield process
        assert process.returncode is None, "it was not killed in the middle, but had ended"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SECONDS):
        while not await condition():  # noqa: ASYNC110 (other processes change it)
            await asyncio.sleep(0.01)


async def count(connection: psycopg.AsyncConnection, query: str) -> int:
    row = await (await connection.execute(query)).fetchone()  # type: ignore[arg-type]
    await connection.rollback()
    assert row is not None
    return int(row[0])


def waiting_for(watcher: psycopg.AsyncConnection, sessions: int) -> Callable[[], Awaitable[bool]]:
    """True while that many sessions of the database wait for a lock."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

    async def waiting() -> bool:
        return await count(watcher, query) == sessions

    return waiting


async def test_killed_before_its_commit_it_has_deleted_nothing(
    sae: SaeDetail, artifacts: Path, connect: Callable[[], Awaitable[psycopg.AsyncConnection]]
) -> None:
    before = files(artifacts)
    holder, watcher = await connect(), await connect()
    features = await count(watcher, "SELECT count(*) FROM feature")
    assert features > 0
    await holder.execute("SELECT FROM sae FOR UPDATE")
    async with deleting():
        await until(waiting_for(watcher, 1))  # its partitions are dropped, and the row of the SAE is not
    await holder.rollback()
    assert await count(watcher, "SELECT count(*) FROM feature") == features
    assert await count(watcher, "SELECT count(*) FROM sae") == 1
    assert await count(watcher, "SELECT count(*) FROM deleted_folder") == 0
    assert files(artifacts) == before
    await seesae("delete", "sae", SLUG, "--yes")
    assert files(artifacts) == {}


async def test_killed_between_rows_and_files_it_leaves_whole_files_that_gc_removes(
    sae: SaeDetail, artifacts: Path, connect: Callable[[], Awaitable[psycopg.AsyncConnection]]
) -> None:
    before = files(artifacts)
    holder, late, watcher = await connect(), await connect(), await connect()
    await holder.execute("SELECT FROM sae FOR UPDATE")
    async with deleting():
        await until(waiting_for(watcher, 1))
        # It has read run_use in its transaction, and reads it again before it removes files.
        locking = asyncio.create_task(late.execute("LOCK TABLE run_use IN ACCESS EXCLUSIVE MODE"))
        await until(waiting_for(watcher, 2))
        await holder.rollback()
        await locking
        await until(waiting_for(watcher, 1))
    await late.rollback()
    assert await count(watcher, "SELECT count(*) FROM sae") == 0
    assert await count(watcher, "SELECT count(*) FROM feature") == 0
    assert files(artifacts) == before
    await seesae("gc", "--yes")
    assert files(artifacts) == {}
    assert await count(watcher, "SELECT count(*) FROM deleted_folder") == 0


async def test_killed_among_its_files_it_leaves_the_rest_to_a_worker(
    sae: SaeDetail, artifacts: Path, tmp_path: Path, connect: Callable[[], Awaitable[psycopg.AsyncConnection]]
) -> None:
    watcher = await connect()
    [store] = (artifacts / "indexes").iterdir()
    linked = tmp_path / "linked"
    linked.write_bytes(b"x")
    for number in range(MANY):
        os.link(linked, store / str(number))
    async with deleting():
        async with asyncio.timeout(SECONDS):
            while linked.stat().st_nlink > MANY - 100:  # noqa: ASYNC110 (another process removes them)
                await asyncio.sleep(0.001)
    assert await count(watcher, "SELECT count(*) FROM sae") == 0
    assert not store.exists()
    assert linked.stat().st_nlink > 1

    async def is_forgotten() -> bool:
        return await count(watcher, "SELECT count(*) FROM deleted_folder") == 0

    async with worker(tmp_path / "elsewhere"):
        await until(is_forgotten)
    assert files(artifacts) == {}
    assert list((artifacts / "indexes").iterdir()) == []
