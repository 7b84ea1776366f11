"""Advisory locks: of runs at work, and of what one transaction at a time does. The database releases the lock of a dead
holder at once."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager, contextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, AsyncSession

_KEY = "hashtextextended('seesae run ' || :run_id, 0)"
_SUBJECT = "hashtextextended('seesae ' || :subject, 0)"

_IS_LOCKED = text(
    f"""
    SELECT pid FROM pg_locks
    WHERE locktype = 'advisory' AND granted AND objsubid = 1
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
      AND (classid::bigint << 32 | objid::bigint) = {_KEY}
    """  # noqa: S608 - pg_locks shows a key of 64 bits as two halves
)


async def lock_until_commit(session: AsyncSession, subject: str) -> None:
    """Wait until no other transaction holds the lock of `subject`, and hold it until this one ends."""
    await session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('seesae ' || :subject, 0))"), {"subject": subject}
    )


@asynccontextmanager
async def run_lock(engine: AsyncEngine, run_id: int) -> AsyncIterator[bool]:
    """Hold the lock of a run on a connection of its own; yield False, at once, if another process holds it."""
    async with _held(engine, _KEY, {"run_id": str(run_id)}) as held:
        yield held


@asynccontextmanager
async def subject_lock(engine: AsyncEngine, subject: str) -> AsyncIterator[bool]:
    """As `run_lock`, for anything that one process at a time does."""
    async with _held(engine, _SUBJECT, {"subject": subject}) as held:
        yield held


@asynccontextmanager
async def subject_locks(engine: AsyncEngine) -> AsyncIterator[Callable[[str], AbstractAsyncContextManager[bool]]]:
    """Yield a function that holds locks as `subject_lock`, on one connection: one task at a time may use it."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        yield lambda subject: _held_on(connection, _SUBJECT, {"subject": subject})


@asynccontextmanager
async def shard_locks(engine: AsyncEngine, work: str) -> AsyncIterator[Callable[[int], AbstractContextManager[bool]]]:
    """Yield a function that holds the lock of a shard of `work`, for synchronous work in a thread.

    It gives False, at once, where another process holds the lock. All locks are on one connection.
    """
    loop = asyncio.get_running_loop()
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")

        def ask(function: str, shard: int) -> bool:
            query = text(f"SELECT {function}(hashtextextended('seesae shard ' || :shard, 0))")
            asked = connection.scalar(query, {"shard": f"{work} {shard}"})
            return bool(asyncio.run_coroutine_threadsafe(asked, loop).result())

        @contextmanager
        def take(shard: int) -> Iterator[bool]:
            held = ask("pg_try_advisory_lock", shard)
            try:
                yield held
            finally:
                if held and not connection.invalidated:
                    ask("pg_advisory_unlock", shard)

        try:
            yield take
        finally:
            if not connection.invalidated:
                await connection.execute(text("SELECT pg_advisory_unlock_all()"))


@asynccontextmanager
async def _held(engine: AsyncEngine, key: str, parameters: dict[str, str]) -> AsyncIterator[bool]:
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        async with _held_on(connection, key, parameters) as held:
            yield held


@asynccontextmanager
async def _held_on(connection: AsyncConnection, key: str, parameters: dict[str, str]) -> AsyncIterator[bool]:
    held = await connection.scalar(text(f"SELECT pg_try_advisory_lock({key})"), parameters)
    try:
        yield bool(held)
    finally:
        if held and not connection.invalidated:
            await connection.execute(text(f"SELECT pg_advisory_unlock({key})"), parameters)


async def is_run_locked(engine: AsyncEngine, run_id: int) -> bool:
    """True if a living process works on the run."""
    async with AsyncSession(engine) as session:
        return await holds_run_lock(session, run_id)


async def holds_run_lock(session: AsyncSession, run_id: int) -> bool:
    """As `is_run_locked`, in a session. Asking takes no lock, which would keep a process from starting."""
    return await session.scalar(_IS_LOCKED, {"run_id": str(run_id)}) is not None
