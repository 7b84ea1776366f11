"""Wait for a database or an object store that went away, as when its server is restarted."""

import asyncio
import time

import structlog
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.object_store import ObjectStore, StoreAway
from app.runs.failures import is_infrastructure

log = structlog.get_logger("worker")

PATIENCE = 60.0
"""Seconds within which it must be back, so that work goes on."""

_POLL_SECONDS = 0.2


async def wait_for_database(engine: AsyncEngine) -> None:
    """Return as soon as the database takes connections.

    Raises:
        sqlalchemy.exc.OperationalError: it does not for `PATIENCE` seconds.
    """
    log.error("database_away", waiting_seconds=PATIENCE)
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            async with engine.connect() as connection:
                await connection.execute(text("SELECT 1"))
        except Exception as error:
            if not is_infrastructure(error) or time.monotonic() > deadline:
                raise
        else:
            return
        await asyncio.sleep(_POLL_SECONDS)


async def wait_for_store(store: ObjectStore) -> None:
    """Return as soon as the object store answers.

    Raises:
        StoreAway: it does not for `PATIENCE` seconds.
        UserError: it refuses.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return await asyncio.to_thread(store.check)
        except StoreAway as error:
            log.error("object_store_away", reason=str(error), waiting_seconds=PATIENCE)  # noqa: TRY400
            if time.monotonic() > deadline:
                raise
        await asyncio.sleep(_POLL_SECONDS)
