"""Advisory locks of runs at work. The database releases a lock the moment that its holder dies."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

_KEY = "hashtextextended('seesae run ' || :run_id, 0)"


@asynccontextmanager
async def run_lock(engine: AsyncEngine, run_id: int) -> AsyncIterator[bool]:
    """Hold the lock of a run on a connection of its own; yield False, at once, if another process holds it."""
    async with engine.connect() as connection:
        await connection.execution_options(isolation_level="AUTOCOMMIT")
        held = await connection.scalar(text(f"SELECT pg_try_advisory_lock({_KEY})"), {"run_id": str(run_id)})
        try:
            yield bool(held)
        finally:
            if held and not connection.invalidated:
                await connection.execute(text(f"SELECT pg_advisory_unlock({_KEY})"), {"run_id": str(run_id)})


async def is_run_locked(engine: AsyncEngine, run_id: int) -> bool:
    """True if a living process works on the run."""
    async with run_lock(engine, run_id) as free:
        return not free
